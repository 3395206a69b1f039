// SPDX-License-Identifier: GPL-2.0-only
/*
 * The first unpause: from here on the domain is sealed.
 *
 * A fresh domain is looked over once.  A restored one is verified and decrypted
 * first.  Everything happens in steps that give way to other work; what fails
 * before the first page is decrypted can be mended by dom0 and tried again.
 */
#include <xen/event.h>
#include <xen/grant_table.h>
#include <xen/vmap.h>
#include <asm/p2m.h>
#include <public/sched.h>
#include <public/xen.h>

#include "private.h"

/* Pages handled between two looks at whether something else wants to run. */
#define SLICE 64

static bool restored(const struct vmcrypt_domain *vm)
{
    return vm->record;
}

void vmcrypt_seal_free(struct vmcrypt_domain *vm)
{
    vmcrypt_decrypt_stop(vm);
    vfree(vm->seal.mfn);
    vfree(vm->seal.plain);
    memset(&vm->seal, 0, sizeof(vm->seal));
}

bool vmcrypt_record_plain(const struct vmcrypt_domain *vm, unsigned long pfn)
{
    return test_bit(pfn, vm->seal.plain);
}

mfn_t vmcrypt_sealing_mfn(const struct vmcrypt_domain *vm, unsigned long pfn)
{
    return pfn < vm->pfns && vm->seal.mfn[pfn] ? _mfn(vm->seal.mfn[pfn] - 1)
                                               : INVALID_MFN;
}

static unsigned long pfn_of(mfn_t mfn)
{
    return get_gpfn_from_mfn(mfn_x(mfn));
}

/*
 * The next page of the domain, or NULL after the last.  Pages go from the head
 * of the list to its tail, so that the walk can stop at any time: nobody else
 * changes the list of a domain in this state.  Called with page_alloc_lock held.
 */
static struct page_info *next_page(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    struct page_info *page;

    if ( vm->seal.cursor >= domain_tot_pages(d) )
        return NULL;
    page = page_list_remove_head(&d->page_list);
    if ( page )
        page_list_add_tail(page, &d->page_list);
    vm->seal.cursor++;

    return page;
}

static void cf_check quiesced(struct rcu_head *head)
{
    struct vmcrypt_domain *vm = container_of(head, struct vmcrypt_domain,
                                             quiet_head);

    ACCESS_ONCE(vm->quiet) = QUIET_YES;
    put_domain(vm->d);
}

/*
 * What dom0 may not do to a sealed domain is judged when a call begins.  One
 * that began before could still change a page that was looked at already.
 */
static int seal_quiesce(struct vmcrypt_domain *vm)
{
    if ( ACCESS_ONCE(vm->quiet) == QUIET_NO )
    {
        get_knownalive_domain(vm->d);
        vm->quiet = QUIET_WAIT;
        call_rcu(&vm->quiet_head, quiesced);
    }
    if ( ACCESS_ONCE(vm->quiet) != QUIET_YES )
        return -ERESTART;

    vm->quiet = QUIET_NO;

    return 0;
}

/* The largest PFN in use decides about the size of everything else. */
static int seal_size(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    const struct page_info *page;
    int rc = 0;

    rspin_lock(&d->page_alloc_lock);
    while ( (page = next_page(vm)) != NULL )
    {
        unsigned long pfn = pfn_of(page_to_mfn(page));

        if ( pfn < vmcrypt_pfn_limit(domain_tot_pages(d)) )
            vm->seal.highest = max(vm->seal.highest, pfn);

        if ( !(vm->seal.cursor % SLICE) && hypercall_preempt_check() )
        {
            rc = -ERESTART;
            break;
        }
    }
    rspin_unlock(&d->page_alloc_lock);

    return rc;
}

static int seal_start(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    unsigned long pfns = vm->seal.highest + 1;

    /* A limit beyond all of the machine's memory is none. */
    pfns = max_t(unsigned long, pfns, min_t(unsigned long, d->max_pages,
                                            max_page));
    if ( restored(vm) )
        pfns = max_t(unsigned long, pfns, vm->facts.pfns);

    if ( vmcrypt_attach(vm, pfns) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    vm->seal.mfn = vzalloc(pfns * sizeof(*vm->seal.mfn));
    vm->seal.plain = vzalloc(BITS_TO_LONGS(pfns) * sizeof(*vm->seal.plain));
    if ( !vm->seal.mfn || !vm->seal.plain )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    if ( restored(vm) )
    {
        uint32_t verdict;

        spin_lock(&vm->lock);
        verdict = vmc_record_begin(vm->rust, vm->record, vm->record_size,
                                   vm->seal.plain,
                                   BITS_TO_LONGS(vm->facts.pfns));
        spin_unlock(&vm->lock);
        if ( verdict )
            return vmcrypt_refuse(vm, verdict - 1);

        if ( !vmcrypt_policy_kept(vm) )
            return vmcrypt_refuse(vm, VMC_REFUSAL_CPU_POLICY);
    }

    return 0;
}

/*
 * One PFN for each page and one page for each PFN.  A page that dom0 freed
 * while it had it mapped goes when the map goes, and would make the walk one
 * page short: the number of pages must not change from here on.
 */
static bool pages_changed(const struct vmcrypt_domain *vm)
{
    return domain_tot_pages(vm->d) != vm->seal.total;
}

static int seal_pages(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    const struct page_info *page;
    int rc = 0;

    if ( !vm->seal.cursor )
    {
        vm->seal.total = domain_tot_pages(d);
        if ( restored(vm) && vm->seal.total < vm->facts.pages )
            return vmcrypt_refuse(vm, VMC_REFUSAL_PAGES_MISSING);
        if ( restored(vm) && vm->seal.total > vm->facts.pages )
            return vmcrypt_refuse(vm, VMC_REFUSAL_PAGES_UNKNOWN);
    }

    rspin_lock(&d->page_alloc_lock);
    while ( (page = next_page(vm)) != NULL )
    {
        unsigned long pfn = pfn_of(page_to_mfn(page));
        int class;

        if ( pfn >= vm->pfns || mfn_x(page_to_mfn(page)) >= ~0U )
            rc = vmcrypt_refuse(vm, VMC_REFUSAL_PAGES_UNKNOWN);
        else if ( vm->seal.mfn[pfn] )
            rc = vmcrypt_refuse(vm, VMC_REFUSAL_PAGES_DUPLICATE);
        if ( rc )
            break;
        vm->seal.mfn[pfn] = mfn_x(page_to_mfn(page)) + 1;
        vm->seal.covered += pfn < ROUNDUP(vm->facts.p2m_end, 512);

        class = vmcrypt_type_class(page);
        if ( class >= 0 )
            vmcrypt_gain(vm, pfn, class);

        if ( !(vm->seal.cursor % SLICE) && hypercall_preempt_check() )
        {
            rc = -ERESTART;
            break;
        }
    }
    rspin_unlock(&d->page_alloc_lock);

    if ( !rc && pages_changed(vm) )
        rc = vmcrypt_refuse(vm, VMC_REFUSAL_P2M_MISMATCH);

    return rc;
}

/*
 * start_info is where vCPU 0 is told to find it; the rings are where it says.
 * dom0 wrote all of that, so they must lie where the domain builder puts them:
 * between start_info and the initial page tables.  A guest never uses that part
 * for anything else (Linux: xen_reserve_special_pages()).  Those of a restored
 * domain are where the record says.
 */
static bool place_rings(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    struct vcpu *v = d->vcpu[0];
    mfn_t root = pagetable_get_mfn(v->arch.guest_table);
    const struct start_info *si;
    mfn_t info, console, store, tables;
    unsigned long lo, hi;

    if ( restored(vm) )
    {
        vm->start_info = vmcrypt_sealing_mfn(vm, vm->facts.start_info);
        vm->console = vmcrypt_sealing_mfn(vm, vm->facts.console);
        vm->store = vmcrypt_sealing_mfn(vm, vm->facts.store);

        return mfn_valid(vm->start_info) && mfn_valid(vm->console) &&
               mfn_valid(vm->store);
    }

    info = vmcrypt_walk(d, root, v->arch.user_regs.rsi & PAGE_MASK);
    if ( !mfn_valid(info) )
        return false;
    lo = pfn_of(info);

    si = map_domain_page(info);
    store = _mfn(ACCESS_ONCE(si->store_mfn));
    console = _mfn(ACCESS_ONCE(si->console.domU.mfn));
    tables = vmcrypt_walk(d, root, ACCESS_ONCE(si->pt_base));
    unmap_domain_page(si);
    if ( !mfn_valid(tables) || !mfn_valid(console) || !mfn_valid(store) )
        return false;
    hi = pfn_of(tables);

    vm->start_info = info;
    vm->console = console;
    vm->store = store;

    return mfn_eq(vmcrypt_sealing_mfn(vm, lo), info) &&
           lo < pfn_of(console) && pfn_of(console) < hi &&
           lo < pfn_of(store) && pfn_of(store) < hi &&
           mfn_eq(vmcrypt_sealing_mfn(vm, pfn_of(console)), console) &&
           mfn_eq(vmcrypt_sealing_mfn(vm, pfn_of(store)), store);
}

static int seal_rings(struct vmcrypt_domain *vm)
{
    if ( !place_rings(vm) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_RING_PLACE);

    vmcrypt_gain(vm, pfn_of(vm->start_info), VMC_CLASS_START_INFO);
    vmcrypt_gain(vm, pfn_of(vm->console), VMC_CLASS_RING);
    vmcrypt_gain(vm, pfn_of(vm->store), VMC_CLASS_RING);

    return 0;
}

/*
 * dom0 fills the first two entries of a new domain's grant table, so that the
 * daemons can map the rings, and could fill others.  Only the guest itself may
 * choose version 2, and it did not run yet.
 */
static bool grants_clean(const struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    const struct page_info *page;
    bool clean = true;

    rspin_lock(&d->page_alloc_lock);
    page_list_for_each ( page, &d->xenpage_list )
    {
        const grant_entry_v1_t *entry;
        unsigned int i;

        if ( page == virt_to_page(d->shared_info) )
            continue;

        entry = __map_domain_page(page);
        for ( i = 0; clean && i < PAGE_SIZE / sizeof(*entry); i++ )
            clean = !entry[i].flags ||
                    ((entry[i].flags & GTF_type_mask) == GTF_permit_access &&
                     vmcrypt_is_ring(vm, _mfn(entry[i].frame)));
        unmap_domain_page(entry);
        if ( !clean )
            break;
    }
    rspin_unlock(&d->page_alloc_lock);

    return clean;
}

/* No entry of a TLB leads where no entry of a page table does any more. */
static void flush_all_tlbs(void)
{
    flush_mask(&cpu_online_map,
               FLUSH_TLB | FLUSH_TLB_GLOBAL | FLUSH_NO_ASSIST);
}

/*
 * From here on nobody can write a grant, and none but the rings' is there.  No
 * grant is of these pages themselves: see vmcrypt_denies_grant().
 */
static int seal_grants(struct vmcrypt_domain *vm)
{
    const struct page_info *page;

    rspin_lock(&vm->d->page_alloc_lock);
    page_list_for_each ( page, &vm->d->xenpage_list )
        if ( vmcrypt_foreign_maps(page_to_mfn(page)) )
            break;
    rspin_unlock(&vm->d->page_alloc_lock);
    if ( page )
        return vmcrypt_refuse(vm, VMC_REFUSAL_STILL_MAPPED);

    flush_all_tlbs();

    return grants_clean(vm) ? 0 : vmcrypt_refuse(vm, VMC_REFUSAL_STILL_MAPPED);
}

/*
 * From here on nobody can change any page, the rings excepted.
 *
 * Xen looks at a grant's entry when it begins to be used, and not again while
 * it is.  Such a grant needs no map that is counted: it may be a device's or an
 * HVM domain's, or its map may have been taken away without its knowledge.
 */
static int seal_maps(struct vmcrypt_domain *vm)
{
    mfn_t granted, info = vm->start_info, console = vm->console,
          store = vm->store;
    struct vcpu *v;
    bool placed;

    while ( vm->seal.cursor < vm->pfns )
    {
        unsigned long pfn = vm->seal.cursor++;
        mfn_t mfn = vmcrypt_sealing_mfn(vm, pfn);

        if ( mfn_valid(mfn) &&
             (page_get_owner(mfn_to_page(mfn)) != vm->d ||
              get_gpfn_from_mfn(mfn_x(mfn)) != pfn) )
            return vmcrypt_refuse(vm, VMC_REFUSAL_P2M_MISMATCH);

        if ( mfn_valid(mfn) && vmcrypt_foreign_maps(mfn) &&
             !vmcrypt_is_ring(vm, mfn) )
            return vmcrypt_refuse(vm, VMC_REFUSAL_STILL_MAPPED);

        if ( !(pfn % SLICE) && hypercall_preempt_check() )
            return -ERESTART;
    }

    while ( !gnttab_in_use(vm->d, vm->seal.cursor - vm->pfns, &granted) )
    {
        if ( mfn_valid(granted) && !vmcrypt_is_ring(vm, granted) )
            return vmcrypt_refuse(vm, VMC_REFUSAL_STILL_MAPPED);

        if ( !(vm->seal.cursor++ % SLICE) && hypercall_preempt_check() )
            return -ERESTART;
    }

    flush_all_tlbs();

    /* dom0 could write to start_info until now. */
    placed = place_rings(vm) && mfn_eq(vm->start_info, info) &&
             mfn_eq(vm->console, console) && mfn_eq(vm->store, store);
    vm->start_info = info;
    vm->console = console;
    vm->store = store;
    if ( !placed )
        return vmcrypt_refuse(vm, VMC_REFUSAL_RING_PLACE);

    if ( !grants_clean(vm) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_STILL_MAPPED);

    /*
     * Without page tables of its mode a vCPU would run on those at frame 0.  The
     * mode may have been another one when its root was worked out.
     */
    for_each_vcpu ( vm->d, v )
    {
        if ( !(v->arch.flags & TF_kernel_mode) &&
             pagetable_is_null(v->arch.guest_table_user) )
            return vmcrypt_refuse(vm, VMC_REFUSAL_VCPU_STATE);
        if ( v->is_initialised )
            update_cr3(v);
    }

    return 0;
}

/* As libxc leaves it (xg_sr_restore_x86_pv.c, process_start_info()). */
static bool start_info_restored(const struct vmcrypt_domain *vm)
{
    const struct start_info *si = map_domain_page(vm->start_info);
    bool ok = si->nr_pages == vm->facts.p2m_end && !si->flags &&
              si->shared_info == virt_to_maddr(vm->d->shared_info) &&
              si->console.domU.mfn == mfn_x(vm->console) &&
              si->store_mfn == mfn_x(vm->store);

    unmap_domain_page(si);

    return ok;
}

static int seal_p2m(struct vmcrypt_domain *vm)
{
    int rc;

    if ( !restored(vm) )
        return 0;

    if ( !start_info_restored(vm) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_RING_PLACE);

    /* What shared_info says is of the domain that was saved. */
    rc = vmcrypt_mark_p2m(vm, (struct p2m_place){
        .root = vmcrypt_sealing_mfn(vm, vm->facts.p2m_root),
        .va = vm->facts.p2m_address,
        .end = vm->facts.p2m_end,
    }, WALK_SEAL);

    /* Every page must be where the P2M says, and none be left out of it. */
    if ( !rc && vm->seal.found != vm->seal.covered )
        rc = vmcrypt_refuse(vm, VMC_REFUSAL_P2M_MISMATCH);

    return rc;
}

/*
 * The tables of a vCPU that is offline, or an LDT, are loaded by nobody at
 * restore: let Xen see whether that is what the page still is.
 */
static bool descriptors(struct vmcrypt_domain *vm, mfn_t mfn)
{
    struct page_info *page = mfn_to_page(mfn);

    if ( !get_page_and_type(page, vm->d, PGT_seg_desc_page) )
        return false;
    put_page_and_type(page);

    return true;
}

/*
 * Of a restored domain, exactly those pages are plain by what they are now that
 * were plain when it was saved.
 */
static int seal_classes(struct vmcrypt_domain *vm)
{
    if ( !restored(vm) )
        return 0;

    while ( vm->seal.cursor < vm->pfns )
    {
        unsigned long pfn = vm->seal.cursor++;
        mfn_t mfn = vmcrypt_sealing_mfn(vm, pfn);

        if ( mfn_valid(mfn) )
        {
            bool plain;

            spin_lock(&vm->lock);
            plain = vmc_plain_has(vm->rust, pfn);
            spin_unlock(&vm->lock);
            if ( plain != vmcrypt_record_plain(vm, pfn) &&
                 (plain || !descriptors(vm, mfn)) )
            {
                printk(XENLOG_WARNING "VMCrypt: %pd: PFN %#lx is %s, recorded as %s\n",
                       vm->d, pfn, plain ? "plain" : "private",
                       plain ? "private" : "plain");
                return vmcrypt_refuse(vm, VMC_REFUSAL_PAGE_TYPE);
            }
        }

        if ( !(pfn % SLICE) && hypercall_preempt_check() )
            return -ERESTART;
    }

    return pages_changed(vm) ? vmcrypt_refuse(vm, VMC_REFUSAL_P2M_MISMATCH)
                             : 0;
}

static int bind(struct vmcrypt_domain *vm, unsigned long pfn, mfn_t mfn)
{
    enum page_kind kind = vmcrypt_bound_kind(vm, mfn_to_page(mfn));
    void *scratch = vmcrypt_scratch();
    int rc = 0;

    if ( kind == KIND_PRIVATE )
    {
        bool noted;

        spin_lock(&vm->lock);
        noted = vmc_plain_has(vm->rust, pfn);
        spin_unlock(&vm->lock);
        if ( noted )
            return 0; /* a P2M leaf, or a ring */
        kind = KIND_DESCRIPTORS; /* seal_classes() asked Xen */
    }

    vmcrypt_copy_from(scratch, mfn);
    if ( vmcrypt_normalise(vm, scratch, kind) )
        vmcrypt_restore_page(vm, pfn, vmcrypt_tag_kind(mfn_to_page(mfn), kind),
                             scratch);
    else
        rc = vmcrypt_refuse(vm, VMC_REFUSAL_TABLES_DIFFER);

    return rc;
}

/* What was decrypted of a domain that is refused is not left there. */
static int scrub(struct vmcrypt_domain *vm, unsigned long pfn, mfn_t mfn)
{
    struct page_info *page = mfn_to_page(mfn);

    /* Any other page was not decrypted, either. */
    if ( get_page_and_type(page, vm->d, PGT_writable_page) )
    {
        clear_domain_page(mfn);
        put_page_and_type(page);
    }

    return 0;
}

/* Does something with each page of a restored domain, plain or private. */
static int each_page(struct vmcrypt_domain *vm, bool plain,
                     int (*act)(struct vmcrypt_domain *vm, unsigned long pfn,
                                mfn_t mfn))
{
    while ( restored(vm) && vm->seal.cursor < vm->pfns )
    {
        unsigned long pfn = vm->seal.cursor++;
        mfn_t mfn = vmcrypt_sealing_mfn(vm, pfn);

        if ( mfn_valid(mfn) && vmcrypt_record_plain(vm, pfn) == plain )
        {
            int rc = act(vm, pfn, mfn);

            if ( rc )
                return rc;
        }
        if ( !(pfn % SLICE) && hypercall_preempt_check() )
            return -ERESTART;
    }

    return 0;
}

static int seal_bound(struct vmcrypt_domain *vm)
{
    uint32_t verdict;
    int rc = each_page(vm, true, bind);

    if ( rc || !restored(vm) )
        return rc;

    spin_lock(&vm->lock);
    verdict = vmc_record_verify_plain(vm->rust, vm->record, vm->record_size);
    spin_unlock(&vm->lock);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}

static int seal_finish(struct vmcrypt_domain *vm)
{
    uint32_t verdict;

    if ( pages_changed(vm) )
        return vmcrypt_refuse(vm, VMC_REFUSAL_P2M_MISMATCH);

    if ( restored(vm) )
    {
        spin_lock(&vm->lock);
        verdict = vmc_record_verify(vm->rust, vm->record, vm->record_size);
        spin_unlock(&vm->lock);
        if ( verdict )
            return vmcrypt_refuse(vm, verdict - 1);

        if ( vmcrypt_load_state(vm) )
            return vmcrypt_refuse(vm, VMC_REFUSAL_VCPU_STATE);
    }

    if ( !restored(vm) )
        return vmcrypt_take_key(vm);

    return vmcrypt_renew_key(vm) ?:
           vm->takes ? 0 : vmcrypt_unvouched(vm, VMC_RESTORE_DONE);
}

static int seal_step(struct vmcrypt_domain *vm)
{
    switch ( vm->seal.step )
    {
    case SEAL_QUIESCE:
        return seal_quiesce(vm);
    case SEAL_SIZE:
        return seal_size(vm);
    case SEAL_START:
        return seal_start(vm);
    case SEAL_PAGES:
        return seal_pages(vm);
    case SEAL_RINGS:
        return seal_rings(vm);
    case SEAL_GRANTS:
        return seal_grants(vm);
    case SEAL_SETTLE:
        return seal_quiesce(vm);
    case SEAL_MAPS:
        return seal_maps(vm);
    case SEAL_P2M:
        return seal_p2m(vm);
    case SEAL_CLASSES:
        return seal_classes(vm);
    case SEAL_MEASURE:
        return restored(vm) ? 0 : vmcrypt_measure(vm);
    case SEAL_TAKE:
        /* Counts what dom0 has computed under the session's key. */
        return restored(vm) ? vmcrypt_ledger_take(vm) : 0;
    case SEAL_BOUND:
        return seal_bound(vm);
    case SEAL_DECRYPT:
        return vmcrypt_decrypt(vm);
    case SEAL_FINISH:
        return seal_finish(vm);
    case SEAL_SCRUB:
        return each_page(vm, false, scrub) ?: vm->seal.error;
    case SEAL_DONE:
        break;
    }

    ASSERT_UNREACHABLE();
    return -EINVAL;
}

/*
 * xl takes no notice of an unpause that is refused, and a paused domain does not
 * show that it never will run.  So it is shut down, as one that is suspended: that
 * is what it was, and for this reason alone toolstacks neither destroy a domain nor
 * start another one in its place, whatever its configuration says.  A guest that
 * boots on the disks that belong to the image would make the image worthless, and
 * from here on no crash can be the reason any more.
 */
static void end_refused(struct domain *d)
{
    if ( d->is_shut_down )
        return;

    domain_shutdown(d, SHUTDOWN_suspend);
    printk(XENLOG_WARNING "VMCrypt: restore of %pd refused for the reason above; it ran nothing and is shut down: destroy it, its image and disks are as they were\n",
           d);
}

static int first_unpause(struct vmcrypt_domain *vm)
{
    struct domain *d = vm->d;
    bool restores;
    enum VmcState next;
    int rc;

    switch ( vmcrypt_state(vm) )
    {
    case VMC_STATE_BUILDING:
        /* dom0 may pause and unpause at any time; only the last one counts. */
        if ( d->controller_pause_count != 1 )
            return 0;
        if ( !d->vcpu[0] || !d->vcpu[0]->is_initialised )
            return vmcrypt_refuse(vm, VMC_REFUSAL_VCPU_STATE);
        if ( !vmcrypt_enter(vm, VMC_STATE_SEALING) )
            return -EPERM;
        vm->seal.began = NOW();
        break;

    case VMC_STATE_SEALING:
        break;

    case VMC_STATE_REFUSED:
        return vmcrypt_refuse(vm, VMC_REFUSAL_SEALING);

    default:
        return 0;
    }

    do {
        rc = seal_step(vm);
        if ( rc == -ERESTART )
            return rc;
        if ( rc && (vm->seal.step < SEAL_DECRYPT ||
                    vm->seal.step == SEAL_SCRUB) )
            break;
        vm->seal.error = rc;
        vm->seal.cursor = 0;
        vm->seal.step = rc ? SEAL_SCRUB : vm->seal.step + 1;
        if ( vm->seal.step == SEAL_DECRYPT )
            vm->seal.decrypting = -NOW();
        else if ( vm->seal.step == SEAL_FINISH )
            vm->seal.decrypting += NOW();
    } while ( vm->seal.step != SEAL_DONE );

    restores = restored(vm);
    if ( rc )
        vmcrypt_ledger_settle(vm, false);
    if ( !rc && restores )
        printk("VMCrypt: %pd: restored in %"PRI_stime" us, of which %"PRI_stime" us to decrypt and digest %"PRIu64" pages, %lu on other CPUs\n",
               d, (NOW() - vm->seal.began) / 1000, vm->seal.decrypting / 1000,
               vm->facts.pages, vm->seal.helped);
    /* A record that may still be good is kept for another try. */
    if ( !rc || vm->seal.step >= SEAL_DECRYPT )
        vmcrypt_drop_record(vm);
    vmcrypt_hide_start_info(vm);
    if ( rc )
        vm->console = vm->store = INVALID_MFN;
    next = !rc ? VMC_STATE_RUNNING
               : vm->seal.step >= SEAL_DECRYPT ? VMC_STATE_REFUSED
                                               : VMC_STATE_BUILDING;
    /* Whoever maps a page of a running domain looks whether this is there. */
    vmcrypt_seal_free(vm);
    vmcrypt_enter(vm, next);

    if ( restores && rc )
        end_refused(d);
    /* dom0 mended what was wrong at another try. */
    else if ( restores && d->is_shut_down )
        domain_resume(d);

    return rc;
}

int vmcrypt_unpause(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    int rc = vm ? first_unpause(vm) : 0;

    /* A domain that is suspended runs when it is resumed, not now. */
    if ( !vm || rc || d->controller_pause_count != 1 ||
         vmcrypt_state(vm) != VMC_STATE_RUNNING )
        return rc;

    return vmcrypt_ledger_runs(vm);
}
