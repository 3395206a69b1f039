// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which exported pages are still what the guest has.
 *
 * A page that dom0 mapped while the guest ran may be written afterwards.  dom0
 * asks log-dirty and maps it once more; if it does not, a restore would bring
 * back a moment that never was.  dom0 also drives log-dirty, and can have it
 * forget, so what is noticed here is kept apart from its bitmap.
 *
 * A write is noticed only if the page was write-protected before: one that is
 * marked dirty already can be written without notice.  The order is: an export
 * notes the page as fresh, then looks at the mark, then reads the page; a write
 * sets the mark, then takes the note away, then happens.
 */
#include <asm/p2m.h>
#include <asm/paging.h>

#include "../mm/mm-locks.h"
#include "private.h"

/* A vCPU may run on for a moment after another one has suspended the domain. */
static bool stopped(struct vmcrypt_domain *vm)
{
    const struct vcpu *v;

    if ( vmcrypt_state(vm) != VMC_STATE_SUSPENDED )
        return false;
    for_each_vcpu ( vm->d, v )
        if ( ACCESS_ONCE(v->is_running) )
            return false;

    return true;
}

bool vmcrypt_noticed(struct vmcrypt_domain *vm, mfn_t mfn)
{
    struct domain *d = vm->d;
    bool noticed;

    if ( stopped(vm) )
        return true;

    paging_lock(d);
    noticed = vm->tracking && paging_mode_log_dirty(d) &&
              !paging_mfn_is_dirty(d, mfn);
    paging_unlock(d);

    return noticed;
}

/*
 * A page that is marked while the guest runs: a record is given out only if the
 * page is exported again, and stock tools do that when they have read the marks.
 */
bool vmcrypt_asked_again(struct vmcrypt_domain *vm, mfn_t mfn)
{
    struct domain *d = vm->d;
    bool marked;

    if ( vmcrypt_state(vm) != VMC_STATE_RUNNING )
        return false;

    paging_lock(d);
    marked = vm->tracking && paging_mode_log_dirty(d) &&
             paging_mfn_is_dirty(d, mfn);
    paging_unlock(d);

    return marked;
}

void vmcrypt_dirtied(struct domain *d, unsigned long pfn, bool marked)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);

    if ( likely(!vm) )
        return;

    /* It will be written all the same, and nobody will know. */
    if ( !marked )
        vm->tracking = false;

    /*
     * Backends still finish what they do for a guest that has stopped.  libxc
     * does not ask any more: whoever restores it gets the page as it was sent,
     * here as on stock Xen.
     */
    if ( stopped(vm) )
        return;

    spin_lock(&vm->lock);
    vmc_page_dirtied(vm->rust, pfn);
    spin_unlock(&vm->lock);
}

void vmcrypt_log_dirty(struct domain *d, enum vmcrypt_log now)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);

    if ( likely(!vm) )
        return;

    paging_lock(d);
    if ( now != VMCRYPT_LOG_CLEANED )
        vm->tracking = now == VMCRYPT_LOG_ON;
    spin_lock(&vm->lock);
    vmc_page_tracking(vm->rust, now == VMCRYPT_LOG_CLEANED);
    spin_unlock(&vm->lock);
    paging_unlock(d);
}
