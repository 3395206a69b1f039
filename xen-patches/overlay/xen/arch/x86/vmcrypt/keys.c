// SPDX-License-Identifier: GPL-2.0-only
/*
 * The keys of domains' owners.
 */
#include <xen/guest_access.h>
#include <xen/init.h>
#include <xen/param.h>
#include <xen/sched.h>

#include "private.h"

/* Guards the keyring of the Rust part.  Taken before a domain's lock. */
DEFINE_SPINLOCK(vmcrypt_keys_lock);

/*
 * Whose keys are taken: public keys, separated by commas.  Nobody's by default,
 * since with a key of its own making dom0 could read a guest.
 */
static int __init cf_check parse_owner(const char *s)
{
    const char *end;

    do {
        end = strchr(s, ',') ?: s + strlen(s);
        if ( !vmc_owner_add((const uint8_t *)s, end - s) )
            return -EINVAL;
        s = end + 1;
    } while ( *end );

    return 0;
}
custom_param("vmcrypt-owner", parse_owner);

long vmcrypt_key_load(XEN_GUEST_HANDLE_PARAM(void) arg)
{
    struct VmcKeyLoad *load = xzalloc(struct VmcKeyLoad);
    uint32_t verdict;
    long rc = 0;

    if ( !load )
        return -ENOMEM;

    /* Copied once, whole: what is judged is what was copied. */
    if ( copy_from_guest((void *)load, arg, sizeof(*load)) )
    {
        xfree(load);
        return -EFAULT;
    }

    spin_lock(&vmcrypt_keys_lock);
    verdict = vmc_key_load(load);
    spin_unlock(&vmcrypt_keys_lock);

    if ( verdict )
    {
        const uint8_t *text = NULL;
        size_t len = vmc_refusal_text(verdict - 1, &text);

        if ( printk_ratelimit() )
            printk(XENLOG_WARNING "VMCrypt: key refused: %.*s\n", (int)len,
                   (const char *)text);
        /* Why is in the structure. */
        rc = copy_to_guest(arg, (void *)load, sizeof(*load)) ? -EFAULT : -EPERM;
    }
    xfree(load);

    return rc;
}

int vmcrypt_take_key(struct vmcrypt_domain *vm)
{
    uint32_t verdict;

    spin_lock(&vmcrypt_keys_lock);
    spin_lock(&vm->lock);
    verdict = vmc_domain_own(vm->rust, &vm->d->handle, &vm->measurement);
    spin_unlock(&vm->lock);
    spin_unlock(&vmcrypt_keys_lock);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}

int vmcrypt_renew_key(struct vmcrypt_domain *vm)
{
    uint32_t verdict;

    spin_lock(&vmcrypt_keys_lock);
    spin_lock(&vm->lock);
    verdict = vmc_domain_renew(vm->rust, &vm->d->handle, &vm->measurement);
    spin_unlock(&vm->lock);
    spin_unlock(&vmcrypt_keys_lock);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}

int vmcrypt_unvouched(struct vmcrypt_domain *vm, unsigned int stage)
{
    uint32_t verdict;

    spin_lock(&vmcrypt_keys_lock);
    spin_lock(&vm->lock);
    verdict = vmc_domain_unvouched(vm->rust, &vm->d->handle, vm->facts.pages,
                                   stage);
    spin_unlock(&vm->lock);
    spin_unlock(&vmcrypt_keys_lock);

    return verdict ? vmcrypt_refuse(vm, verdict - 1) : 0;
}
