// SPDX-License-Identifier: GPL-2.0-only
/*
 * Decryption of a restored domain, on every CPU that has nothing else to do.
 *
 * The CPU on which dom0 unpauses the domain takes slices of its pages until
 * there are no more.  Tasklets on idle CPUs do the same.  A tasklet goes before
 * any guest on its CPU, and not every scheduler tells a CPU that runs one that
 * somebody wants to run there.  So it ends by itself soon, and the CPU is left
 * alone for long enough to take up what waits.
 */
#include <xen/domain_page.h>
#include <xen/event.h>
#include <xen/sched.h>
#include <xen/tasklet.h>

#include "private.h"

/* Pages that a CPU takes at a time. */
#define SLICE 64
/* How long a CPU helps without a look at others, and rests before it helps again. */
#define HELPS MILLISECS(4)
#define RESTS MILLISECS(1)

struct vmcrypt_helper {
    struct tasklet tasklet;
    struct vmcrypt_domain *vm;
    unsigned long pages;   /* that it decrypted */
    s_time_t ended;
    bool busy;
};

void vmcrypt_restore_page(struct vmcrypt_domain *vm, unsigned long pfn,
                          uint64_t kind, void *page)
{
    PageTag tag;

    vmcrypt_vector_enter();
    vmc_page_restore(vm->rust, &vm->facts.session, pfn, kind, page, &tag);
    vmcrypt_vector_leave();

    spin_lock(&vm->lock);
    vmc_page_restored(vm->rust, kind, &tag);
    spin_unlock(&vm->lock);
}

static int decrypt(struct vmcrypt_domain *vm, unsigned long pfn, mfn_t mfn)
{
    struct page_info *page = mfn_to_page(mfn);
    void *va;

    /* Nothing that Xen gave another meaning is ever changed under it. */
    if ( !get_page_and_type(page, vm->d, PGT_writable_page) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_PAGE_TYPE);

    va = map_domain_page(mfn);
    vmcrypt_restore_page(vm, pfn, KIND_PRIVATE, va);
    unmap_domain_page(va);
    put_page_and_type(page);

    return 0;
}

/*
 * Decrypts the next slice and counts its pages.  False when there is none, or one
 * has failed.
 */
static bool decrypt_slice(struct vmcrypt_domain *vm, unsigned long *pages)
{
    unsigned long pfn, end;

    if ( ACCESS_ONCE(vm->seal.cursor) >= vm->pfns ||
         ACCESS_ONCE(vm->seal.error) )
        return false;
    pfn = arch_fetch_and_add(&vm->seal.cursor, SLICE);
    end = min(pfn + SLICE, vm->pfns);

    for ( ; pfn < end; pfn++ )
    {
        mfn_t mfn = vmcrypt_sealing_mfn(vm, pfn);
        int rc;

        if ( !mfn_valid(mfn) || vmcrypt_record_plain(vm, pfn) )
            continue;

        rc = decrypt(vm, pfn, mfn);
        if ( rc )
        {
            ACCESS_ONCE(vm->seal.error) = rc;
            return false;
        }
        ++*pages;
    }

    return true;
}

static void cf_check help(void *data)
{
    struct vmcrypt_helper *helper = data;
    s_time_t end = NOW() + HELPS;

    /*
     * Registers that the last guest left on this CPU were saved: tasklets begin
     * with that (do_tasklet_work()).
     */
    while ( !softirq_pending(smp_processor_id()) && NOW() < end &&
            decrypt_slice(helper->vm, &helper->pages) )
        ;

    helper->ended = NOW();
    smp_wmb();
    ACCESS_ONCE(helper->busy) = false;
}

/* Those who are asked to help may find that there is nothing left to do. */
static void call_helpers(struct vmcrypt_domain *vm)
{
    unsigned int cpu;

    for_each_online_cpu ( cpu )
    {
        struct vmcrypt_helper *helper = &vm->seal.helpers[cpu];

        if ( cpu == smp_processor_id() || ACCESS_ONCE(helper->busy) ||
             NOW() - ACCESS_ONCE(helper->ended) < RESTS ||
             !ACCESS_ONCE(idle_vcpu[cpu]->is_running) )
            continue;

        ACCESS_ONCE(helper->busy) = true;
        tasklet_schedule_on_cpu(&helper->tasklet, cpu);
    }
}

static void find_helpers(struct vmcrypt_domain *vm)
{
    unsigned int cpu;

    /* This CPU alone is slower, and that is all. */
    vm->seal.helpers = xzalloc_array(struct vmcrypt_helper, nr_cpu_ids);
    if ( !vm->seal.helpers )
        return;

    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
    {
        struct vmcrypt_helper *helper = &vm->seal.helpers[cpu];

        helper->vm = vm;
        tasklet_init(&helper->tasklet, help, helper);
    }
}

int vmcrypt_decrypt(struct vmcrypt_domain *vm)
{
    unsigned long pages = 0;

    if ( !vm->record )
        return 0;

    if ( !vm->seal.helpers )
        find_helpers(vm);

    for ( ; ; )
    {
        if ( vm->seal.helpers )
            call_helpers(vm);
        if ( !decrypt_slice(vm, &pages) )
            break;
        if ( hypercall_preempt_check() )
            return -ERESTART;
    }

    vmcrypt_decrypt_stop(vm);

    return vm->seal.error;
}

void vmcrypt_decrypt_stop(struct vmcrypt_domain *vm)
{
    unsigned int cpu;

    if ( !vm->seal.helpers )
        return;

    /* Waits for the slice that a CPU is at, if it is. */
    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
    {
        tasklet_kill(&vm->seal.helpers[cpu].tasklet);
        vm->seal.helped += vm->seal.helpers[cpu].pages;
    }
    XFREE(vm->seal.helpers);
}
