// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which of a guest's pages dom0 may see in clear, and how Xen knows.
 */
#include <xen/domain_page.h>
#include <xen/event.h>
#include <asm/p2m.h>
#include <asm/paging.h>
#include <asm/shared.h>
#include <asm/x86_64/page.h>

#include "private.h"

int vmcrypt_class_of(unsigned long type)
{
    if ( !(type & PGT_count_mask) || !(type & PGT_validated) )
        return -1;

    switch ( type & PGT_type_mask )
    {
    case PGT_l1_page_table ... PGT_l4_page_table:
        return VMC_CLASS_PAGE_TABLE;

    case PGT_seg_desc_page:
        return VMC_CLASS_DESCRIPTOR;
    }

    return -1;
}

int vmcrypt_type_class(const struct page_info *page)
{
    return vmcrypt_class_of(ACCESS_ONCE(page->u.inuse.type_info));
}

bool vmcrypt_gain(struct vmcrypt_domain *vm, unsigned long pfn,
                  enum VmcClass class)
{
    bool gained;

    spin_lock(&vm->lock);
    gained = vmc_plain_gain(vm->rust, pfn, class);
    spin_unlock(&vm->lock);

    return gained;
}

void vmcrypt_lose(struct vmcrypt_domain *vm, unsigned long pfn,
                  enum VmcClass class)
{
    spin_lock(&vm->lock);
    vmc_plain_lose(vm->rust, pfn, class);
    spin_unlock(&vm->lock);
}

/*
 * A page that changes between plain and private must be sent again.  Xen marks
 * page tables, too, but only after the page was noted as private, and somebody
 * may map it in between.
 */
static void mark_dirty(const struct vmcrypt_domain *vm,
                       const struct page_info *page)
{
    if ( paging_mode_log_dirty(vm->d) )
        paging_mark_dirty(vm->d, page_to_mfn(page));
}

static void changed(struct vmcrypt_domain *vm, struct page_info *page,
                    int class, bool plain)
{
    unsigned long pfn;

    if ( class < 0 )
        return;

    atomic_inc(&vm->epoch);
    mark_dirty(vm, page);
    pfn = get_gpfn_from_mfn(mfn_x(page_to_mfn(page)));
    if ( plain )
        vmcrypt_gain(vm, pfn, class);
    else
        vmcrypt_lose(vm, pfn, class);
}

void vmcrypt_type_gained(struct page_info *page)
{
    struct vmcrypt_domain *vm = vmcrypt_of(page_get_owner(page));

    if ( unlikely(vm) )
        changed(vm, page, vmcrypt_type_class(page), true);
}

void vmcrypt_type_lost(struct page_info *page, unsigned long type)
{
    struct vmcrypt_domain *vm = vmcrypt_of(page_get_owner(page));

    if ( unlikely(vm) )
        changed(vm, page, vmcrypt_class_of(type), false);
}

/* What a page is wherever it stands. A P2M leaf is one for certain PFNs alone. */
static int standing(const struct vmcrypt_domain *vm,
                    const struct page_info *page)
{
    mfn_t mfn = page_to_mfn(page);

    if ( vmcrypt_is_ring(vm, mfn) )
        return VMC_CLASS_RING;
    if ( mfn_eq(mfn, vm->start_info) )
        return VMC_CLASS_START_INFO;

    return vmcrypt_type_class(page);
}

/*
 * GRUB exchanges the PFNs of the rings with those of pages where its kernel
 * looks for rings.  For a moment two pages stand at one PFN.
 */
void vmcrypt_pfn_lost(struct page_info *page)
{
    struct vmcrypt_domain *vm = vmcrypt_of(page_get_owner(page));

    if ( likely(!vm) )
        return;

    changed(vm, page, standing(vm, page), false);
    /*
     * Private or not, what dom0 has of this PFN is another page's.  What receives
     * a live save would keep it: then it counts, and the record is refused.
     */
    if ( paging_mode_log_dirty(vm->d) )
        return;
    spin_lock(&vm->lock);
    vmc_page_forget(vm->rust, get_gpfn_from_mfn(mfn_x(page_to_mfn(page))));
    spin_unlock(&vm->lock);
}

void vmcrypt_pfn_gained(struct page_info *page)
{
    struct vmcrypt_domain *vm = vmcrypt_of(page_get_owner(page));

    if ( unlikely(vm) )
        changed(vm, page, standing(vm, page), true);
}

/*
 * The frame that @va leads to in the validated page tables under @root, or the
 * table of level @last on the way.
 */
static mfn_t walk(const struct domain *d, mfn_t root, unsigned long va,
                  unsigned int last)
{
    unsigned int level;
    mfn_t mfn = root;

    if ( !__addr_ok(va) )
        return INVALID_MFN;

    for ( level = 4; level > last; level-- )
    {
        static const unsigned long types[] = {
            0, PGT_l1_page_table, PGT_l2_page_table, PGT_l3_page_table,
            PGT_l4_page_table,
        };
        const struct page_info *page;
        const intpte_t *table;
        intpte_t entry;

        if ( !mfn_valid(mfn) )
            return INVALID_MFN;
        page = mfn_to_page(mfn);
        if ( page_get_owner(page) != d ||
             vmcrypt_type_class(page) != VMC_CLASS_PAGE_TABLE ||
             (page->u.inuse.type_info & PGT_type_mask) != types[level] )
            return INVALID_MFN;

        table = map_domain_page(mfn);
        entry = ACCESS_ONCE(table[(va >> (PAGE_SHIFT +
                                          (level - 1) * PAGETABLE_ORDER)) &
                                  (L1_PAGETABLE_ENTRIES - 1)]);
        unmap_domain_page(table);

        if ( !(entry & _PAGE_PRESENT) || (level > 1 && (entry & _PAGE_PSE)) )
            return INVALID_MFN;
        mfn = maddr_to_mfn(entry & PADDR_MASK & PAGE_MASK);
    }

    return mfn;
}

mfn_t vmcrypt_walk(const struct domain *d, mfn_t root, unsigned long va)
{
    return walk(d, root, va, 0);
}

bool vmcrypt_is_leaf(const void *page, unsigned long base)
{
    const uint64_t *entry = page;
    unsigned int i;

    /* The M2P has no memory behind it where the machine has none. */
    for ( i = 0; i < PAGE_SIZE / sizeof(*entry); i++ )
    {
        uint64_t mfn = entry[i] & ~(1UL << 63);

        if ( mfn < max_page && !mfn_valid(_mfn(mfn)) )
            return false;
    }

    return vmc_p2m_is_leaf(page, base,
                           (const uint64_t *)machine_to_phys_mapping,
                           max_page);
}

/*
 * In a restore the M2P alone proves nothing: dom0 filled the leaf, and another
 * domain's frame may have the same PFN.  Each entry must name the very frame
 * that was found at its PFN, or none, as libxc writes it
 * (xg_sr_restore_x86_pv.c, update_guest_p2m()).  Counts those that do.
 */
static bool check_leaf(struct vmcrypt_domain *vm, const uint64_t *entry,
                       unsigned long base)
{
    unsigned int i;

    for ( i = 0; vm->seal.mfn && i < PAGE_SIZE / sizeof(*entry); i++ )
    {
        mfn_t mfn = vmcrypt_sealing_mfn(vm, base + i);

        /* INVALID_MFN is what libxc writes, too; nothing counts past the end. */
        if ( entry[i] != mfn_x(mfn) &&
             (entry[i] < max_page || base + i < vm->facts.p2m_end) )
            return false;
        vm->seal.found += mfn_valid(mfn);
    }

    return true;
}

/* Whether what was a leaf at the last walk is no table, and no free page, now. */
static bool still_leaf(const struct vmcrypt_domain *vm, mfn_t mfn)
{
    return mfn_valid(mfn) && page_get_owner(mfn_to_page(mfn)) == vm->d &&
           vmcrypt_type_class(mfn_to_page(mfn)) < 0;
}

unsigned long vmcrypt_count_leaves(struct vmcrypt_domain *vm)
{
    unsigned long i, count = 0;

    spin_lock(&vm->p2m_lock);
    for ( i = 0; i < vm->p2m_walked; i++ )
        count += still_leaf(vm, vm->leaf[i]);
    spin_unlock(&vm->p2m_lock);

    return count;
}

/* Forget the leaves of the last walk. */
static void unmark_p2m(struct vmcrypt_domain *vm)
{
    unsigned long i;

    for ( i = 0; i < vm->p2m_walked; i++ )
    {
        mfn_t mfn = vm->leaf[i];

        vm->leaf[i] = INVALID_MFN;
        if ( still_leaf(vm, mfn) )
            vmcrypt_lose(vm, get_gpfn_from_mfn(mfn_x(mfn)), VMC_CLASS_P2M);
    }
}

/*
 * Where a running guest says that its P2M is, as far as libxc saves it: what lies
 * behind it libxc takes for ordinary pages, and does not write to in a restore.
 */
struct p2m_place vmcrypt_p2m_place(const struct domain *d)
{
    const struct arch_shared_info *arch = &d->shared_info->native.arch;
    unsigned long cr3 = ACCESS_ONCE(arch->p2m_cr3), i, tables, change = 0;
    struct p2m_place at = {
        .root = cr3 ? _mfn(xen_cr3_to_pfn(cr3)) : INVALID_MFN,
        .va = ACCESS_ONCE(arch->p2m_vaddr),
        .end = ACCESS_ONCE(arch->max_pfn),
        .generation = ACCESS_ONCE(arch->p2m_generation),
    };
    mfn_t mfn, before = INVALID_MFN;

    if ( !mfn_valid(at.root) || !at.end || at.end > VMCRYPT_P2M_MOST )
        return at;

    tables = ((at.va & ((1UL << L2_PAGETABLE_SHIFT) - 1)) +
              DIV_ROUND_UP(at.end, 512) * PAGE_SIZE - 1) >> L2_PAGETABLE_SHIFT;
    for ( i = 0; i <= tables; i++, before = mfn )
    {
        mfn = walk(d, at.root, at.va + (i << L2_PAGETABLE_SHIFT), 1);
        if ( i && !mfn_eq(mfn, before) )
            change = i;
    }
    at.end = vmc_p2m_saved_end(at.end, change, l2_table_offset(at.va) + tables);

    return at;
}

/* dom0 begins to look at the P2M, and keeps to what it finds. */
void vmcrypt_p2m_shown(struct vmcrypt_domain *vm, struct p2m_place at)
{
    spin_lock(&vm->p2m_lock);
    vm->p2m_shown = at;
    spin_unlock(&vm->p2m_lock);
}

/*
 * Whether a save brings the whole P2M back.  libxc writes to what it took for the
 * P2M when the save began, whatever is there now.
 */
int vmcrypt_p2m_check(struct vmcrypt_domain *vm, struct p2m_place at)
{
    const struct p2m_place *shown = &vm->p2m_shown;
    unsigned long odd;
    bool same;

    spin_lock(&vm->p2m_lock);
    odd = vm->p2m_odd;
    /* Somebody who began to walk while it ran: leaves are noted as private. */
    if ( vm->p2m_cursor )
    {
        spin_unlock(&vm->p2m_lock);
        printk(XENLOG_WARNING "VMCrypt: %pd: its P2M was being looked at as it stopped\n",
               vm->d);
        return vmcrypt_refuse(vm, VMC_REFUSAL_INCOMPLETE);
    }
    same = mfn_eq(shown->root, at.root) && shown->va == at.va &&
           shown->end == at.end && shown->generation == at.generation;
    spin_unlock(&vm->p2m_lock);

    if ( odd )
    {
        printk(XENLOG_WARNING "VMCrypt: %pd: the P2M has no leaf for PFN %#lx\n",
               vm->d, (odd - 1) * 512);
        return vmcrypt_refuse(vm, VMC_REFUSAL_P2M_MISMATCH);
    }
    if ( !same )
    {
        printk(XENLOG_WARNING "VMCrypt: %pd: the P2M changed since dom0 began to save\n",
               vm->d);
        return vmcrypt_refuse(vm, VMC_REFUSAL_INCOMPLETE);
    }

    return 0;
}

int vmcrypt_mark_p2m(struct vmcrypt_domain *vm, struct p2m_place at,
                     enum p2m_walker who)
{
    const struct domain *d = vm->d;
    unsigned long end;
    void *scratch = vmcrypt_scratch();
    bool unclear = false;
    int rc = 0;

    /* Tools that save look for one of another kind, among private pages. */
    if ( !mfn_valid(at.root) && who == WALK_MAP )
        vmcrypt_refuse(vm, VMC_REFUSAL_P2M_ABSENT);
    if ( !mfn_valid(at.root) || !vm->leaf )
        return 0;

    /* Somebody else walks: let them finish. */
    if ( !spin_trylock(&vm->p2m_lock) )
        return -ERESTART;

    /* What somebody else left half-way is begun anew. */
    if ( vm->p2m_walker != who )
        vm->p2m_cursor = 0;
    vm->p2m_walker = who;
    if ( !vm->p2m_cursor )
    {
        unmark_p2m(vm);
        vm->p2m_odd = vm->p2m_walked = 0;
    }

    end = min(DIV_ROUND_UP(min(at.end, VMCRYPT_P2M_MOST), 512), vm->leaves);
    /* The guest may shorten it while the walk goes on. */
    vm->p2m_walked = max(vm->p2m_walked, end);
    while ( vm->p2m_cursor < end )
    {
        unsigned long i = vm->p2m_cursor++;
        mfn_t mfn = vmcrypt_walk(d, at.root, at.va + i * PAGE_SIZE);
        bool leaf = false;

        if ( mfn_valid(mfn) && page_get_owner(mfn_to_page(mfn)) == d &&
             !is_special_page(mfn_to_page(mfn)) )
        {
            vmcrypt_copy_from(scratch, mfn);
            if ( vmcrypt_is_leaf(scratch, i * 512) &&
                 check_leaf(vm, scratch, i * 512) )
            {
                /* One page may stand for several leaves: absent memory. */
                if ( vmcrypt_gain(vm, get_gpfn_from_mfn(mfn_x(mfn)),
                                  VMC_CLASS_P2M) )
                    vm->leaf[i] = mfn;
                leaf = true;
            }
            else
                unclear = true;
        }
        if ( !leaf && !vm->p2m_odd )
            vm->p2m_odd = i + 1;

        if ( !(i & 15) && hypercall_preempt_check() )
        {
            rc = -ERESTART;
            break;
        }
    }
    if ( !rc )
    {
        vm->p2m_cursor = 0;
        if ( at.end > end * 512 && !vm->p2m_odd )
            vm->p2m_odd = end + 1;
    }
    clear_page(scratch);
    spin_unlock(&vm->p2m_lock);

    /* Of a domain that is restored, whoever asked will say so. */
    if ( unclear && who != WALK_SEAL )
        vmcrypt_refuse(vm, VMC_REFUSAL_P2M_UNCLEAR);

    return rc;
}
