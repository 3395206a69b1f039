// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which sessions may be restored: those that were sealed here, whose domain did
 * not run on, and that were not restored before.  A domain so lives on in one
 * place, and dom0 cannot turn it back to what it was.
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
    bool taken;    /* its pages are being decrypted */
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
 * Strikes out what @vm, which is suspended, was saved as.  False if it was
 * restored from that, or is being.
 */
static bool withdraw(struct vmcrypt_domain *vm)
{
    struct session *s = find(vm->saved_as, NULL);

    if ( vm->saved && (!s || s->taken) )
        return false;
    if ( vm->saved )
        strike(s);
    vm->saved = false;

    return true;
}

int vmcrypt_ledger_saved(struct vmcrypt_domain *vm, const SessionId id)
{
    struct session *new = xzalloc(struct session);
    bool ok;

    if ( !new )
        return vmcrypt_refuse(vm, VMC_REFUSAL_NO_MEMORY);

    spin_lock(&ledger_lock);
    ok = withdraw(vm);
    if ( ok && !find(id, new) )
    {
        memcpy(vm->saved_as, id, sizeof(SessionId));
        vm->saved = true;
        new = NULL;
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
    ok = withdraw(vm);
    spin_unlock(&ledger_lock);

    return ok ? 0 : vmcrypt_refuse(vm, VMC_REFUSAL_RESTORED);
}

bool vmcrypt_ledger_has(const SessionId id)
{
    const struct session *s;
    bool has;

    spin_lock(&ledger_lock);
    s = find(id, NULL);
    has = s && !s->taken;
    spin_unlock(&ledger_lock);

    return has;
}

int vmcrypt_ledger_take(struct vmcrypt_domain *vm)
{
    struct session *s;

    spin_lock(&ledger_lock);
    s = find(vm->facts.session, NULL);
    vm->takes = s && !s->taken;
    if ( vm->takes )
        s->taken = true;
    spin_unlock(&ledger_lock);

    return vm->takes ? 0 : vmcrypt_unvouched(vm, false);
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
