// SPDX-License-Identifier: GPL-2.0-only
/*
 * Foreign maps of a protected domain's pages.
 */
#include <xen/domain_page.h>
#include <xen/init.h>
#include <xen/vmap.h>
#include <asm/page.h>
#include <asm/paging.h>

#include "private.h"

/*
 * Entries in page tables of other domains that name a frame itself (not a
 * replica), grants included: a grant's entry can be cleared like any other, so
 * counting only one kind would let the other hide a map.
 */
static uint16_t *__read_mostly map_count;
static unsigned long __read_mostly map_count_size;
/* Frames of which another domain than their owner's had a writable entry. */
static unsigned long *__read_mostly cleared_writable;

int __init vmcrypt_map_init(void)
{
    map_count_size = pfn_to_pdx(max_page - 1) + 1;
    map_count = vzalloc(map_count_size * sizeof(*map_count));
    cleared_writable = vzalloc(BITS_TO_LONGS(map_count_size) *
                               sizeof(*cleared_writable));

    return map_count && cleared_writable ? 0 : -ENOMEM;
}

bool vmcrypt_others_may_write(const struct page_info *page)
{
    unsigned long pdx = page_to_pdx(page);

    return cleared_writable && pdx < map_count_size &&
           test_bit(pdx, cleared_writable) &&
           test_and_clear_bit(pdx, cleared_writable);
}

bool vmcrypt_denies_grant(const struct domain *d, const struct page_info *page)
{
    return vmcrypt_of(d) && is_special_page(page);
}

static uint16_t *count_of(mfn_t mfn)
{
    unsigned long pdx = mfn_to_pdx(mfn);

    return pdx < map_count_size ? &map_count[pdx] : NULL;
}

/* A frame that cannot be counted counts as mapped. */
unsigned int vmcrypt_foreign_maps(mfn_t mfn)
{
    const uint16_t *count = count_of(mfn);

    return count ? ACCESS_ONCE(*count) : ~0U;
}

/* A frame that leaves its domain is mapped by nobody. */
void vmcrypt_reset_maps(mfn_t mfn)
{
    uint16_t *count = count_of(mfn);

    if ( count )
        *count = 0;
}

static bool count_map(mfn_t mfn, int change)
{
    uint16_t *count = count_of(mfn);
    uint16_t old, seen;

    if ( !count )
        return false;

    seen = ACCESS_ONCE(*count);
    do {
        old = seen;
        /* A count that ever reached its end stays there. */
        if ( old == 0xffff || (!old && change < 0) )
            return false;
        seen = cmpxchg(count, old, old + change);
    } while ( seen != old );

    return true;
}

static struct vmcrypt_domain *foreign(mfn_t mfn, const struct domain *mapper)
{
    const struct domain *owner;

    if ( !mfn_valid(mfn) )
        return NULL;
    owner = page_get_owner(mfn_to_page(mfn));

    return owner != mapper ? vmcrypt_of(owner) : NULL;
}

void vmcrypt_grant_mapped(mfn_t frame, const struct domain *mapper)
{
    if ( foreign(frame, mapper) )
        count_map(frame, 1);
}

void vmcrypt_grant_unmapped(mfn_t frame, const struct domain *mapper)
{
    if ( foreign(frame, mapper) )
        count_map(frame, -1);
}

/* What the map policy needs to know about a frame. */
static unsigned int frame_kind(struct vmcrypt_domain *vm,
                               const struct page_info *page, bool *p2m)
{
    mfn_t mfn = page_to_mfn(page);
    unsigned long pfn = get_gpfn_from_mfn(mfn_x(mfn));

    *p2m = false;

    if ( is_special_page(page) )
        return VMC_FRAME_XEN;

    if ( vmcrypt_is_ring(vm, mfn) )
        return VMC_FRAME_RING;

    /* The noted class and what can be seen now must agree. */
    if ( !vmc_plain_has(vm->rust, pfn) )
        return VMC_FRAME_ORDINARY;

    *p2m = vmcrypt_bound_kind(vm, page) == KIND_PRIVATE;
    return VMC_FRAME_CHANGING;
}

/*
 * A guest that forks without a rest changes the type of some page all the time.
 * All of these tries take a tenth of a millisecond.
 */
#define SNAPSHOT_TRIES 64

/* Copies a page that may change class, and says whether it did not. */
static bool snapshot(struct vmcrypt_domain *vm, struct page_info *page,
                     void *scratch, bool p2m, enum page_kind *kind)
{
    int epoch = atomic_read(&vm->epoch);

    smp_rmb();
    *kind = p2m ? KIND_PRIVATE : vmcrypt_bound_kind(vm, page);
    if ( !p2m && *kind == KIND_PRIVATE )
        return false;

    vmcrypt_copy_from(scratch, page_to_mfn(page));
    smp_rmb();

    if ( p2m )
        return vmcrypt_is_leaf(scratch, ~0UL);

    return atomic_read(&vm->epoch) == epoch &&
           vmcrypt_bound_kind(vm, page) == *kind;
}

/* The domain may run and dom0 has nothing of it, so no save is under way. */
bool vmcrypt_idle(struct vmcrypt_domain *vm, int own)
{
    ASSERT(spin_is_locked(&vm->lock));

    return atomic_read(&vm->replicas) <= own &&
           vmc_domain_state(vm->rust) == VMC_STATE_RUNNING &&
           !paging_mode_log_dirty(vm->d);
}

/*
 * Before the page is read: every write from now on is noticed, or there will be
 * no record.
 */
static int export_begin(struct vmcrypt_domain *vm, unsigned long pfn,
                        mfn_t mfn, struct VmcTicket *ticket)
{
    uint32_t verdict, held = VMC_HELD_PAGES;
    bool again = false;

    spin_lock(&vm->lock);
    /* The replica that is being made counts as one. */
    if ( vmcrypt_idle(vm, 1) )
        held = VMC_HELD_IDLE;
    else if ( atomic_read(&vm->replicas) <= 1 )
        held = VMC_HELD_NOTHING;
    verdict = vmc_page_begin(vm->rust, pfn, domain_tot_pages(vm->d), held,
                             ticket, &again);
    spin_unlock(&vm->lock);

    if ( verdict )
        return vmcrypt_refuse(vm, verdict - 1);
    if ( again )
        return -ERESTART;

    if ( !vmcrypt_noticed(vm, mfn) )
    {
        spin_lock(&vm->lock);
        vmc_page_unnoticed(vm->rust, ticket);
        spin_unlock(&vm->lock);
    }

    return 0;
}

/*
 * Accounts what was encrypted as exported.  If that is refused, nobody may see
 * what came out.
 */
static int export_end(struct vmcrypt_domain *vm, struct VmcTicket *ticket)
{
    uint32_t verdict;

    spin_lock(&vm->lock);
    verdict = vmc_page_end(vm->rust, ticket);
    spin_unlock(&vm->lock);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}

/* The guest's page is read once, while it is encrypted into the scratch page. */
static int export_private(struct vmcrypt_domain *vm, mfn_t mfn,
                          struct VmcTicket *ticket, void *scratch)
{
    const void *from = map_domain_page(mfn);

    vmcrypt_vector_enter();
    vmc_page_encrypt_from(vm->rust, ticket, from, scratch);
    vmcrypt_vector_leave();
    unmap_domain_page(from);

    return export_end(vm, ticket);
}

/*
 * dom0 has a plain page now.  If a record binds it, what dom0 has is what a
 * restore must bring back.  While the guest runs, a table may name frames that
 * are not its own; libxc sends such a table again when the guest has stopped.
 */
static int bind(struct vmcrypt_domain *vm, const struct page_info *page,
                struct VmcTicket *ticket, enum page_kind kind, void *scratch)
{
    bool bound = kind != KIND_PRIVATE;

    if ( bound && vmcrypt_normalise(vm, scratch, kind) )
    {
        vmcrypt_vector_enter();
        vmc_page_encrypt(vm->rust, ticket, vmcrypt_tag_kind(page, kind), scratch);
        vmcrypt_vector_leave();

        return export_end(vm, ticket);
    }

    spin_lock(&vm->lock);
    vmc_page_abandon(vm->rust, ticket);
    if ( bound )
        vmc_page_forget(vm->rust, get_gpfn_from_mfn(mfn_x(page_to_mfn(page))));
    spin_unlock(&vm->lock);

    return 0;
}

/*
 * libxc asks what a page is, maps it then, and takes it for what it was told
 * (xg_sr_save.c, write_batch()): a table that ceased to be one in between would
 * be read as a table of ciphertext, which ends a live migration.  While the guest
 * runs, a page that is marked is sent again, and what is sent now is never used.
 * So nothing of it is shown: zeros are a table as well as any page.  Where it
 * @changes, too often to be copied as what it is, the mark is set here.
 */
static bool postpone(struct vmcrypt_domain *vm, mfn_t mfn, bool changes,
                     struct VmcTicket *ticket, void *scratch)
{
    if ( changes )
        paging_mark_dirty(vm->d, mfn);
    if ( !vmcrypt_asked_again(vm, mfn) )
        return false;

    clear_page(scratch);
    spin_lock(&vm->lock);
    vmc_page_abandon(vm->rust, ticket);
    spin_unlock(&vm->lock);

    return true;
}

static int make_replica(struct vmcrypt_domain *vm, struct page_info *page,
                        unsigned int view, bool p2m, struct page_info **out)
{
    unsigned long pfn = get_gpfn_from_mfn(mfn_x(page_to_mfn(page)));
    void *scratch = vmcrypt_scratch();
    enum page_kind kind = KIND_PRIVATE;
    struct page_info *replica;
    struct VmcTicket ticket;
    unsigned int tries;
    bool plain = false;
    int rc;

    replica = vmcrypt_replica_get(page, view == VMC_VIEW_SNAPSHOT && p2m);
    if ( !replica )
        return vmcrypt_refuse(vm, VMC_REFUSAL_POOL_EXHAUSTED);

    rc = export_begin(vm, pfn, page_to_mfn(page), &ticket);
    if ( rc )
    {
        vmcrypt_replica_put(replica);
        return rc;
    }

    if ( view == VMC_VIEW_SNAPSHOT )
        for ( tries = 0; !plain && tries < SNAPSHOT_TRIES; tries++ )
            plain = snapshot(vm, page, scratch, p2m, &kind);

    if ( !plain )
    {
        if ( view == VMC_VIEW_SNAPSHOT && p2m )
            vmcrypt_lose(vm, pfn, VMC_CLASS_P2M);
        if ( !postpone(vm, page_to_mfn(page), view == VMC_VIEW_SNAPSHOT, &ticket,
                       scratch) )
            rc = export_private(vm, page_to_mfn(page), &ticket, scratch);
    }

    if ( !rc )
        vmcrypt_copy_to(page_to_mfn(replica), scratch);
    if ( plain )
        rc = bind(vm, page, &ticket, kind, scratch);
    /* What is left in the scratch page is what dom0 sees, or ciphertext. */
    if ( rc )
        vmcrypt_replica_put(replica);
    else
        *out = replica;

    return rc;
}

static int map_foreign(struct vmcrypt_domain *vm, l1_pgentry_t *nl1e)
{
    mfn_t mfn = l1e_get_mfn(*nl1e);
    unsigned int flags = l1e_get_flags(*nl1e), frame, view = 0;
    struct page_info *page = mfn_to_page(mfn), *replica = NULL;
    uint32_t verdict;
    bool p2m;
    int rc;

    spin_lock(&vm->lock);
    frame = frame_kind(vm, page, &p2m);
    verdict = vmc_map_judge(vm->rust, frame, flags & _PAGE_RW,
                            (flags & PAGE_CACHE_ATTRS) == _PAGE_WB, &view);
    /* Sealing sees the count, or we see that it began. */
    if ( !verdict && view == VMC_VIEW_LIVE && !count_map(mfn, 1) )
        verdict = VMC_REFUSAL_UNJUDGED + 1;
    spin_unlock(&vm->lock);
    if ( verdict )
        return vmcrypt_refuse(vm, verdict - 1);

    if ( view == VMC_VIEW_LIVE )
    {
        /* xl maps shared_info before it maps the P2M that this leads to. */
        if ( mfn_eq(mfn, _mfn(virt_to_mfn(vm->d->shared_info))) &&
             vmcrypt_sealed(vm) )
        {
            struct p2m_place p2m = vmcrypt_p2m_place(vm->d);

            rc = vmcrypt_state(vm) == VMC_STATE_RUNNING
                 ? vmcrypt_mark_p2m(vm, p2m, WALK_MAP) : 0;
            if ( rc )
            {
                count_map(mfn, -1);
                return rc;
            }
            vmcrypt_p2m_shown(vm, p2m);
        }
        return 0;
    }

    rc = make_replica(vm, page, view, p2m, &replica);
    if ( !rc )
        *nl1e = l1e_from_page(replica, flags);

    return rc;
}

int vmcrypt_map_others_l1e(l1_pgentry_t *nl1e, const struct domain *pt_dom)
{
    mfn_t mfn = l1e_get_mfn(*nl1e);
    unsigned int flags = l1e_get_flags(*nl1e);
    struct vmcrypt_domain *vm = foreign(mfn, pt_dom);
    int rc;

    if ( vm )
        rc = map_foreign(vm, nl1e);
    else if ( mfn_valid(mfn) && vmcrypt_is_replica(mfn_to_page(mfn)) )
    {
        vmcrypt_denied(__HYPERVISOR_mmu_update, MMU_NORMAL_PT_UPDATE,
                       "a replica is reached through the guest's page alone");
        rc = -EPERM;
    }
    else
        return 0;

    if ( rc )
    {
        if ( flags & _PAGE_RW )
            put_page_and_type(mfn_to_page(mfn));
        else
            put_page(mfn_to_page(mfn));
    }

    return rc;
}

bool vmcrypt_unmap_others_l1e(l1_pgentry_t l1e, const struct domain *l1e_owner)
{
    mfn_t mfn = l1e_get_mfn(l1e);
    struct page_info *page = mfn_to_page(mfn);

    if ( vmcrypt_is_replica(page) )
    {
        put_page(vmcrypt_replica_put(page));
        return true;
    }

    /* Before the page's type is given up, and whoever's page it is. */
    if ( (l1e_get_flags(l1e) & _PAGE_RW) && cleared_writable &&
         mfn_to_pdx(mfn) < map_count_size )
        set_bit(mfn_to_pdx(mfn), cleared_writable);

    if ( foreign(mfn, l1e_owner) )
        count_map(mfn, -1);

    return false;
}
