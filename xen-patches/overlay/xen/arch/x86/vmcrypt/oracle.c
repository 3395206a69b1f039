// SPDX-License-Identifier: GPL-2.0-only
/*
 * Debug builds only: at every suspend, which pages are plain is found out once
 * more, from nothing, and compared with what was noted as pages came and went.
 *
 * Runs in a tasklet on the CPU whose vCPU suspended the domain, before any other
 * vCPU runs there: the domain can be paused for good, which its own vCPU cannot
 * do, and no lock is held.
 */
#include <xen/domain_page.h>
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

static void note(const struct vmcrypt_domain *vm, unsigned long *plain,
                 mfn_t mfn)
{
    unsigned long pfn = mfn_valid(mfn) ? get_gpfn_from_mfn(mfn_x(mfn))
                                       : INVALID_M2P_ENTRY;

    if ( pfn < vm->pfns )
        __set_bit(pfn, plain);
}

/*
 * Tables are known by their type.  The list is walked in one go, since dom0 may
 * let go of the last map of a page that the domain has freed.
 */
static void find_tables(const struct vmcrypt_domain *vm, unsigned long *plain)
{
    const struct page_info *page;

    rspin_lock(&vm->d->page_alloc_lock);
    page_list_for_each ( page, &vm->d->page_list )
        if ( vmcrypt_type_class(page) >= 0 )
            note(vm, plain, page_to_mfn(page));
    rspin_unlock(&vm->d->page_alloc_lock);
}

static void find_p2m(const struct vmcrypt_domain *vm, unsigned long *plain)
{
    struct p2m_place at = vmcrypt_p2m_place(vm->d);
    unsigned long i, end = min(DIV_ROUND_UP(at.end, 512UL), vm->leaves);
    void *scratch = vmcrypt_scratch();

    for ( i = 0; mfn_valid(at.root) && i < end; i++ )
    {
        mfn_t mfn = vmcrypt_walk(vm->d, at.root, at.va + i * PAGE_SIZE);
        struct page_info *page = mfn_valid(mfn) ? mfn_to_page(mfn) : NULL;
        const void *leaf;

        if ( !page || is_special_page(page) || !get_page(page, vm->d) )
            continue;
        leaf = map_domain_page(mfn);
        memcpy(scratch, leaf, PAGE_SIZE);
        unmap_domain_page(leaf);
        if ( vmcrypt_is_leaf(scratch, i * 512) )
            note(vm, plain, mfn);
        put_page(page);

        if ( !(i % (SLICE / 512)) )
            process_pending_softirqs();
    }
    clear_page(scratch);
}

static void compare(struct vmcrypt_domain *vm, const unsigned long *found)
{
    unsigned long pfn, plain = 0, differ = 0;

    for ( pfn = 0; pfn < vm->pfns; pfn++ )
    {
        bool noted;

        spin_lock(&vm->lock);
        noted = vmc_plain_has(vm->rust, pfn);
        spin_unlock(&vm->lock);

        plain += noted;
        if ( noted != test_bit(pfn, found) && differ++ < TOLD )
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
    unsigned long *plain = vzalloc(BITS_TO_LONGS(vm->pfns) * sizeof(*plain));

    if ( !plain )
    {
        printk(XENLOG_ERR "VMCrypt oracle: %pd: no memory\n", vm->d);
        return;
    }

    find_tables(vm, plain);
    find_p2m(vm, plain);
    note(vm, plain, vm->start_info);
    note(vm, plain, vm->console);
    note(vm, plain, vm->store);
    if ( opt_canary )
        __change_bit(vm->pfns / 2, plain);
    compare(vm, plain);
    vfree(plain);
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
