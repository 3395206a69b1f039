// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plain pages whose content a record binds: page tables, descriptor tables and
 * start_info, in a form that does not depend on the frames they lie in.
 *
 * Rings are written by others at any time, and the content of a P2M leaf
 * follows from where the pages are, which is checked as such.
 */
#include <xen/domain_page.h>
#include <asm/page.h>
#include <public/xen.h>

#include "private.h"

enum page_kind vmcrypt_bound_kind(const struct vmcrypt_domain *vm,
                                  const struct page_info *page)
{
    unsigned long type = ACCESS_ONCE(page->u.inuse.type_info);

    BUILD_BUG_ON(MASK_EXTR(PGT_l4_page_table, PGT_type_mask) != KIND_L4);
    BUILD_BUG_ON(MASK_EXTR(PGT_seg_desc_page, PGT_type_mask) !=
                 KIND_DESCRIPTORS);

    if ( vmcrypt_class_of(type) >= 0 )
        return MASK_EXTR(type, PGT_type_mask);

    return mfn_eq(page_to_mfn(page), vm->start_info) ? KIND_START_INFO
                                                     : KIND_PRIVATE;
}

/*
 * A guest relies on the pins that it made: it gets an error when it takes one
 * away that is gone.  Xen marks a page dirty when its pin comes or goes, so
 * that what was exported before is exported again.
 */
uint64_t vmcrypt_tag_kind(const struct page_info *page, enum page_kind kind)
{
    bool pinned = ACCESS_ONCE(page->u.inuse.type_info) & PGT_pinned;

    return kind | (pinned ? KIND_PINNED : 0);
}

/* Frame numbers become PFNs; false if one is not a page of the domain. */
static bool normalise_table(const struct vmcrypt_domain *vm, intpte_t *entry,
                            enum page_kind kind)
{
    const intpte_t frame = PADDR_MASK & PAGE_MASK;
    unsigned int i;

    for ( i = 0; i < L1_PAGETABLE_ENTRIES; i++ )
    {
        mfn_t mfn = maddr_to_mfn(entry[i] & frame);
        unsigned long pfn;

        if ( kind == KIND_L4 && i >= ROOT_PAGETABLE_FIRST_XEN_SLOT &&
             i <= ROOT_PAGETABLE_LAST_XEN_SLOT )
        {
            entry[i] = 0; /* Xen's own, and always there */
            continue;
        }
        if ( !(entry[i] & _PAGE_PRESENT) )
            continue;

        /*
         * The M2P alone proves nothing: dom0 chooses the entries of its own
         * frames, and in a domain that it builds those of Xen's shared ones.
         * In a restore it must be the very page that was found at the PFN.
         */
        if ( !mfn_valid(mfn) || page_get_owner(mfn_to_page(mfn)) != vm->d ||
             is_special_page(mfn_to_page(mfn)) )
            return false;
        pfn = get_gpfn_from_mfn(mfn_x(mfn));
        if ( pfn >= vm->pfns ||
             (vm->seal.mfn && !mfn_eq(vmcrypt_sealing_mfn(vm, pfn), mfn)) )
            return false;
        entry[i] = (entry[i] & ~frame) | pfn_to_paddr(pfn);
    }

    return true;
}

bool vmcrypt_normalise(const struct vmcrypt_domain *vm, void *page,
                       enum page_kind kind)
{
    struct start_info *si = page;

    switch ( kind )
    {
    case KIND_L1 ... KIND_L4:
        return normalise_table(vm, page, kind);

    case KIND_START_INFO:
        /* What libxc writes into it; start_info_restored() looks. */
        si->nr_pages = si->shared_info = si->store_mfn = 0;
        si->flags = si->store_evtchn = 0;
        memset(&si->console, 0, sizeof(si->console));
        break;

    default:
        break;
    }

    return true;
}
