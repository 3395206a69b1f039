// SPDX-License-Identifier: GPL-2.0-only
/*
 * Debug builds only: at every suspend, which pages are plain is found out once
 * more, from nothing, and compared with what was noted as pages came and went.
 *
 * Runs in a tasklet on the CPU whose vCPU suspended the domain, before any other
 * vCPU runs there: the domain can be paused for good, which its own vCPU cannot
 * do, and no lock is held.
 */
#include <xen/param.h>
#include <xen/softirq.h>
#include <xen/vmap.h>
#include <asm/p2m.h>

#include "private.h"

/* Pages looked at between two looks at what else this CPU has to do. */
#define SLICE 4096
/* Differences that are told one by one; all of them are counted. */
#define TOLD 16

/* Finds one page wrong on purpose, so that a test sees what that looks like. */
static bool __read_mostly opt_canary;
boolean_param("vmcrypt-oracle-canary", opt_canary);

/* What was found; the domain's own tables may grow in the meantime. */
struct found {
    struct vmcrypt_domain *vm;
    unsigned long pfns, *plain;
};

static void note(const struct found *f, mfn_t mfn)
{
    unsigned long pfn = mfn_valid(mfn) ? get_gpfn_from_mfn(mfn_x(mfn))
                                       : INVALID_M2P_ENTRY;

    if ( pfn < f->pfns )
        __set_bit(pfn, f->plain);
}

/*
 * Tables are known by their type.  The list is walked in one go, since dom0 may
 * let go of the last map of a page that the domain has freed.
 */
static void find_tables(const struct found *f)
{
    struct domain *d = f->vm->d;
    const struct page_info *page;

    rspin_lock(&d->page_alloc_lock);
    page_list_for_each ( page, &d->page_list )
        if ( vmcrypt_type_class(page) >= 0 )
            note(f, page_to_mfn(page));
    rspin_unlock(&d->page_alloc_lock);
}

static void find_p2m(const struct found *f)
{
    struct domain *d = f->vm->d;
    struct p2m_place at = vmcrypt_p2m_place(d);
    unsigned long i, end = DIV_ROUND_UP(min(at.end, VMCRYPT_P2M_MOST), 512);
    void *scratch = vmcrypt_scratch();

    for ( i = 0; mfn_valid(at.root) && i < end; i++ )
    {
        mfn_t mfn = vmcrypt_walk(d, at.root, at.va + i * PAGE_SIZE);
        struct page_info *page = mfn_valid(mfn) ? mfn_to_page(mfn) : NULL;

        if ( !page || is_special_page(page) || !get_page(page, d) )
            continue;
        vmcrypt_copy_from(scratch, mfn);
        if ( vmcrypt_is_leaf(scratch, i * 512) )
            note(f, mfn);
        put_page(page);

        if ( !(i % (SLICE / 512)) )
            process_pending_softirqs();
    }
    clear_page(scratch);
}

static void compare(const struct found *f)
{
    struct vmcrypt_domain *vm = f->vm;
    unsigned long pfn, plain = 0, differ = 0;

    for ( pfn = 0; pfn < f->pfns; pfn++ )
    {
        bool noted;

        spin_lock(&vm->lock);
        noted = vmc_plain_has(vm->rust, pfn);
        spin_unlock(&vm->lock);

        plain += noted;
        if ( noted != test_bit(pfn, f->plain) && differ++ < TOLD )
            printk(XENLOG_ERR
                   "VMCrypt oracle: %pd: PFN %#lx is noted as %s and found %s\n",
                   vm->d, pfn, noted ? "plain" : "private",
                   noted ? "private" : "plain");

        if ( !(pfn % SLICE) )
            process_pending_softirqs();
    }

    printk("%sVMCrypt oracle: %pd: %u pages, %lu plain, %lu differ\n",
           differ ? XENLOG_ERR : XENLOG_INFO, vm->d, domain_tot_pages(vm->d),
           plain, differ);
}

static void look(struct vmcrypt_domain *vm)
{
    struct found f = { .vm = vm, .pfns = vm->pfns };

    f.plain = vzalloc(BITS_TO_LONGS(f.pfns) * sizeof(*f.plain));
    if ( !f.plain )
    {
        printk(XENLOG_ERR "VMCrypt oracle: %pd: no memory\n", vm->d);
        return;
    }

    find_tables(&f);
    find_p2m(&f);
    note(&f, vm->start_info);
    note(&f, vm->console);
    note(&f, vm->store);
    if ( opt_canary )
        __change_bit(f.pfns / 2, f.plain);
    compare(&f);
    vfree(f.plain);
}

static void cf_check oracle(void *data)
{
    struct vmcrypt_domain *vm = data;
    struct domain *d = vm->d;

    domain_pause(d);
    vm->oracle_asked = false;
    /* Whoever counts the suspends misses the line of one that is over. */
    if ( vmcrypt_state(vm) == VMC_STATE_SUSPENDED && !d->is_dying )
        look(vm);
    domain_unpause(d);
    put_domain(d);
}

void vmcrypt_oracle_init(struct vmcrypt_domain *vm)
{
    tasklet_init(&vm->oracle, oracle, vm);
}

/* Called with the domain's shutdown_lock held. */
void vmcrypt_oracle_ask(struct vmcrypt_domain *vm)
{
    if ( !vm->oracle_asked && get_domain(vm->d) )
    {
        vm->oracle_asked = true;
        tasklet_schedule(&vm->oracle);
    }
}
