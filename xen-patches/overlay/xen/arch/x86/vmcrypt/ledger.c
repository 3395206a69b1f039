// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which sessions may be restored: those that were sealed here, whose domain did
 * not run on, and of which no copy ran.  Of the records of one suspend the last
 * is the good one.  A domain so lives on in one place, and dom0 cannot turn it
 * back to what it was.
 *
 * What counts is who runs.  A domain that was resumed and is paused did not run
 * on yet (xl save -p), nor did a copy that was verified and is paused: both and
 * the image are one life, and whichever runs first has it.  They run when dom0's
 * last pause ends; all of that, as all that saves or restores, is under the
 * domctl lock.
 *
 * The ledger is as old as the machine's boot, and so is the host key.  What
 * another boot sealed, under an owner's key, is restored as often as the owner
 * says (vmcrypt_unvouched()): a counter that outlives a boot, as in a TPM,
 * would belong here.
 */
#include <xen/lib.h>
#include <xen/rbtree.h>

#include "private.h"

struct session {
    struct rb_node node;
    SessionId id;
    uint64_t sequence;         /* of the last record */
    struct Attempts attempts;  /* restores that were begun, failed ones, too */
    bool taken;                /* a copy is being decrypted, or waits to run */
};

static struct rb_root sessions = RB_ROOT;
static DEFINE_SPINLOCK(ledger_lock);

/* The session, or NULL after putting @new, unless that is NULL, in its place. */
static struct session *find(const SessionId id, struct session *new)
{
    struct rb_node **link = &sessions.rb_node, *parent = NULL;

    while ( *link )
    {
        struct session *s = rb_entry(*link, struct session, node);
        int order = memcmp(id, s->id, sizeof(SessionId));

        if ( !order )
            return s;
        parent = *link;
        link = order < 0 ? &parent->rb_left : &parent->rb_right;
    }

    if ( new )
    {
        memcpy(new->id, id, sizeof(SessionId));
        rb_link_node(&new->node, parent, link);
        rb_insert_color(&new->node, &sessions);
    }

    return NULL;
}

static void strike(struct session *s)
{
    rb_erase(&s->node, &sessions);
    xfree(s);
}

/*
 * Whether @vm, which did not run since it was saved, was restored from its image,
 * or is being: 0, or a refusal and one.
 */
static uint32_t elsewhere(const struct vmcrypt_domain *vm)
{
    const struct session *s = find(vm->saved_as, NULL);

    if ( !vm->saved )
        return 0;
    if ( !s )
        return VMC_REFUSAL_RESTORED + 1;

    return s->taken ? VMC_REFUSAL_RESTORING + 1 : 0;
}

/* Strikes out what @vm was saved as. */
static void withdraw(struct vmcrypt_domain *vm)
{
    if ( vm->saved )
        strike(find(vm->saved_as, NULL));
    vm->saved = false;
}

int vmcrypt_ledger_saved(struct vmcrypt_domain *vm,
                         const struct VmcFacts *facts)
{
    struct session *new = xzalloc(struct session), *s;
    uint32_t verdict;

    if ( !new )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    spin_lock(&ledger_lock);
    verdict = elsewhere(vm);
    if ( !verdict && vm->saved &&
         memcmp(vm->saved_as, facts->session, sizeof(SessionId)) )
        withdraw(vm);
    if ( !verdict )
    {
        /* Another record of the session keeps what was tried of it. */
        s = find(facts->session, new);
        if ( !s )
        {
            s = new;
            new = NULL;
        }
        s->sequence = facts->sequence;
        memcpy(vm->saved_as, facts->session, sizeof(SessionId));
        vm->saved = true;
    }
    spin_unlock(&ledger_lock);
    xfree(new);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}

int vmcrypt_may_resume(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    uint32_t verdict;

    /* Where Xen ends a domain it may have left it half changed. */
    if ( d->crashed )
    {
        vmcrypt_denied(__HYPERVISOR_domctl, XEN_DOMCTL_resumedomain,
                       "Xen ended this domain");
        return -EPERM;
    }
    if ( !vm )
        return 0;

    spin_lock(&ledger_lock);
    verdict = elsewhere(vm);
    /* A paused one is asked about again when it is unpaused. */
    if ( !verdict && !d->controller_pause_count )
        withdraw(vm);
    spin_unlock(&ledger_lock);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}

int vmcrypt_ledger_runs(struct vmcrypt_domain *vm)
{
    uint32_t verdict;

    spin_lock(&ledger_lock);
    verdict = elsewhere(vm);
    if ( !verdict )
        withdraw(vm);
    spin_unlock(&ledger_lock);
    if ( verdict )
        return vmcrypt_refuse(vm, verdict - 1);

    /* A restored one takes the life of the session with it. */
    vmcrypt_ledger_settle(vm, true);

    return 0;
}

/* The session of a record that may be restored now, or NULL. */
static struct session *good(const struct VmcFacts *facts)
{
    struct session *s = find(facts->session, NULL);

    return s && !s->taken && s->sequence == facts->sequence ? s : NULL;
}

bool vmcrypt_ledger_has(const struct VmcFacts *facts)
{
    bool has;

    spin_lock(&ledger_lock);
    has = good(facts);
    spin_unlock(&ledger_lock);

    return has;
}

int vmcrypt_ledger_take(struct vmcrypt_domain *vm)
{
    struct session *s;
    uint32_t verdict = 0;

    spin_lock(&ledger_lock);
    s = good(&vm->facts);
    if ( s )
        verdict = vmc_restore_attempt(&s->attempts, vm->facts.pages);
    vm->takes = s && !verdict;
    if ( vm->takes )
        s->taken = true;
    spin_unlock(&ledger_lock);

    if ( verdict )
        return vmcrypt_refuse(vm, verdict - 1);

    return vm->takes ? 0 : vmcrypt_unvouched(vm, VMC_RESTORE_BEGINS);
}

void vmcrypt_ledger_settle(struct vmcrypt_domain *vm, bool runs)
{
    struct session *s;

    if ( !vm->takes )
        return;

    spin_lock(&ledger_lock);
    s = find(vm->facts.session, NULL);
    if ( s && runs )
        strike(s);
    else if ( s )
        s->taken = false;
    spin_unlock(&ledger_lock);
    vm->takes = false;
}
