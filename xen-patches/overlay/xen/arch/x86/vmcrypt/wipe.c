// SPDX-License-Identifier: GPL-2.0-only
/*
 * The end of keys, of what follows from them, and of records in clear: with
 * their domain, and with the machine's going down.
 *
 * Whoever has the machine after Xen can read what was left in its memory: the
 * kernel that dom0 boots next, for one.  With a key of this boot it could read
 * the images that were saved under it.
 */
#include <xen/acpi.h>
#include <xen/delay.h>
#include <xen/event.h>
#include <xen/param.h>
#include <xen/pci.h>
#include <xen/vmap.h>
#include <asm/fixmap.h>
#include <asm/smp.h>

#include "private.h"

#ifdef CONFIG_DEBUG
/* Wipes nothing, so that a test sees what it finds then.  Debug builds only. */
static bool __read_mostly opt_canary;
boolean_param("vmcrypt-wipe-canary", opt_canary);
#else
#define opt_canary false
#endif

/* Bytes wiped between two looks at whether something else wants to run. */
#define SLICE MB(1)

void vmcrypt_wipe(void *area, size_t size)
{
    if ( !area || opt_canary )
        return;

    memset(area, 0, size);
    barrier(); /* also if the area is freed next */
}

static size_t tags_size(const struct vmcrypt_domain *vm)
{
    return vm->pfns * 16;
}

/* --- With the domain --------------------------------------------------- */

/*
 * dom0 asked for the domain's end.  Its last reference may go much later, and
 * whoever has a page mapped holds one, so the keys are not kept until then: no
 * page is encrypted any more, none needs to be.  The domctl lock is held, which
 * keeps saves, restores and the first unpause away, but for other CPUs that
 * decrypt for it; they are stopped.  An encryption may be under way on another
 * CPU, and is awaited.
 */
int vmcrypt_domain_kill(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    bool quiet;
    int rc;

    /*
     * The grants that it has mapped are let go of next, but not its devices' ways
     * to them.  Whoever asked for its end need not ask again.
     */
    rc = pci_release_devices(d);
    if ( rc || !vm )
        return rc;

    vmcrypt_decrypt_stop(vm);

    spin_lock(&vm->lock);
    quiet = vmc_domain_kill(vm->rust);
    if ( quiet && !opt_canary )
        vmc_domain_wipe(vm->rust);
    spin_unlock(&vm->lock);
    if ( !quiet )
        return -ERESTART;

    /* Its image is as good as before. */
    vmcrypt_ledger_settle(vm, false);
    vmcrypt_drop_record(vm);

    /* 1 GiB of them, if the guest has 256. */
    while ( vm->tags && vm->wiped < tags_size(vm) )
    {
        size_t part = min_t(size_t, SLICE, tags_size(vm) - vm->wiped);

        vmcrypt_wipe(vm->tags + vm->wiped, part);
        vm->wiped += part;
        if ( hypercall_preempt_check() )
            return -ERESTART;
    }

    return 0;
}

/* --- With the machine -------------------------------------------------- */

/*
 * On the way down nothing may be waited for: a CPU that was stopped may hold any
 * lock, and one that was not may be about to take it.  So no lock is taken, and
 * nothing is touched that may be freed while other CPUs live.
 *
 * The host's key goes first, and with it a flag that everybody reads who has
 * used a key and is about to show the result.  Keys can therefore be wiped under
 * CPUs that are still at work: nobody sees what they encrypt under a key of
 * zeros.  Domains do not leave the list: that takes a grace period, in which
 * this CPU does not take part any more.
 *
 * Whatever else holds keys, a ring of owners' keys or one of the host's for
 * strangers, is wiped here, too.
 */
void vmcrypt_going_down(void)
{
    const struct domain *d;

    if ( opt_canary )
        return;

    vmc_host_wipe();
    vmc_keyring_wipe();
    for_each_domain ( d )
        if ( vmcrypt_of(d) )
            vmc_domain_wipe(vmcrypt_of(d)->rust);
}

/*
 * CPUs were stopped wherever they were, in the middle of a page for one: its
 * keys are in the frames.  A stopped CPU does not return, so it does not need its
 * stack.  This one needs the frames from the caller's down; an exception may have
 * left the primary stack.
 */
static void wipe_stacks(const cpumask_t *running, void *frame)
{
    unsigned int cpu, self = smp_processor_id();

    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
    {
        void *bottom = stack_base[cpu] + (PRIMARY_SHSTK_SLOT + 1) * PAGE_SIZE;
        void *top = get_cpu_info_from_stack((unsigned long)stack_base[cpu]);

        if ( !stack_base[cpu] || (cpu != self && cpumask_test_cpu(cpu, running)) )
            continue;
        /* Frame pointer and return address belong to the frame. */
        if ( cpu == self && frame >= bottom && frame < top )
            bottom = frame + 2 * sizeof(void *);
        vmcrypt_wipe(bottom, top - bottom);
    }
}

/*
 * dom0 says which value of the register powers off, and that of a sleep is
 * another: then firmware would go on at the address that dom0 left in the FACS,
 * with guests in memory.  Without an address it starts the machine anew (ACPI
 * 6.5, 5.2.10).
 */
static void no_waking_vector(void)
{
    /* Xen knows the place of the first of two vectors, or of the second. */
    paddr_t facs = acpi_sinfo.wakeup_vector -
                   (acpi_sinfo.vector_width == 64
                    ? offsetof(struct acpi_table_facs, xfirmware_waking_vector)
                    : offsetof(struct acpi_table_facs, firmware_waking_vector));
    struct acpi_table_facs *table;

    if ( !acpi_sinfo.wakeup_vector ||
         PAGE_OFFSET(facs) > PAGE_SIZE - sizeof(*table) )
        return;

    set_fixmap(FIX_ACPI_END, facs);
    table = (void *)fix_to_virt(FIX_ACPI_END) + PAGE_OFFSET(facs);
    table->firmware_waking_vector = 0;
    if ( table->length >= offsetof(struct acpi_table_facs, version) )
        table->xfirmware_waking_vector = 0;
    clear_fixmap(FIX_ACPI_END);
}

void vmcrypt_gone_down(const cpumask_t *running, void *frame)
{
    const struct domain *d;
    bool for_good = frame && system_state >= SYS_STATE_smp_boot;

    /* They were told to stop, and need the time to do so. */
    if ( for_good )
        mdelay(10);
    /* An interrupt may have led here, in the middle of a page. */
    if ( !opt_canary )
        vmcrypt_cpu_stops();
    /* A CPU may have derived a key since. */
    vmcrypt_going_down();

    if ( cpumask_subset(running, cpumask_of(smp_processor_id())) )
    {
        for_each_domain ( d )
        {
            const struct vmcrypt_domain *vm = vmcrypt_of(d);

            if ( !vm )
                continue;
            vmcrypt_wipe(vm->record, vm->record_size);
            vmcrypt_wipe(vm->tags, tags_size(vm));
        }
        vmcrypt_wipe_cpus();
    }
    if ( for_good )
        wipe_stacks(running, frame);
    if ( !frame )
        no_waking_vector();
}
