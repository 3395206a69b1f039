// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which sessions may be restored: those that were sealed here, whose domain did
 * not run on, and that were not restored before.  Of the records of one suspend
 * the last is the good one.  A domain so lives on in one place, and dom0 cannot
 * turn it back to what it was.
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
    bool taken;                /* its pages are being decrypted */
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

/* Whether @vm, which is suspended, was restored from its image, or is being. */
static bool lives_elsewhere(const struct vmcrypt_domain *vm)
{
    const struct session *s = find(vm->saved_as, NULL);

    return vm->saved && (!s || s->taken);
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
    bool ok;

    if ( !new )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    spin_lock(&ledger_lock);
    ok = !lives_elsewhere(vm);
    if ( ok && vm->saved &&
         memcmp(vm->saved_as, facts->session, sizeof(SessionId)) )
        withdraw(vm);
    if ( ok )
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

    return ok ? 0 : vmcrypt_refuse(vm, VMC_REFUSAL_RESTORED);
}

int vmcrypt_may_resume(struct domain *d)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    bool ok;

    if ( !vm )
        return 0;

    spin_lock(&ledger_lock);
    ok = !lives_elsewhere(vm);
    if ( ok )
        withdraw(vm);
    spin_unlock(&ledger_lock);

    return ok ? 0 : vmcrypt_refuse(vm, VMC_REFUSAL_RESTORED);
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

void vmcrypt_ledger_settle(struct vmcrypt_domain *vm, bool restored)
{
    struct session *s;

    if ( !vm->takes )
        return;

    spin_lock(&ledger_lock);
    s = find(vm->facts.session, NULL);
    if ( s && restored )
        strike(s);
    else if ( s )
        s->taken = false;
    spin_unlock(&ledger_lock);
    vm->takes = false;
}
