// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hypercall by which dom0 asks about VMCrypt, and brings owners' keys, and a
 * guest asks about itself.
 */
#include <xen/guest_access.h>
#include <xen/hypercall.h>
#include <xen/sched.h>

#include "private.h"

static long host_info(XEN_GUEST_HANDLE_PARAM(void) arg)
{
    struct VmcHostInfo info = { .version = VMC_INTERFACE_VERSION };

    if ( vmcrypt_replica_owner )
    {
        vmc_host_describe(&info);
        vmcrypt_replica_describe(&info);
        vmcrypt_doors_describe(&info);
        vmcrypt_domains_describe(&info);
    }

    return copy_to_guest(arg, (void *)&info, sizeof(info)) ? -EFAULT : 0;
}

static long domain_info(XEN_GUEST_HANDLE_PARAM(void) arg)
{
    struct VmcDomainInfo info;
    struct vmcrypt_domain *vm;
    struct domain *d;

    if ( copy_from_guest((void *)&info, arg, sizeof(info)) )
        return -EFAULT;

    d = rcu_lock_domain_by_id(info.domid);
    if ( !d )
        return -ESRCH;

    info = (struct VmcDomainInfo){ .domid = d->domain_id };
    info.pages = domain_tot_pages(d);
    memcpy(info.uuid, d->handle, sizeof(info.uuid));
    vm = vmcrypt_of(d);
    if ( vm )
    {
        spin_lock(&vm->lock);
        vmc_domain_describe(vm->rust, &info);
        spin_unlock(&vm->lock);
        info.replicas = atomic_read(&vm->replicas);
        info.plain[VMC_CLASS_SHARED_INFO] = 1;
        memcpy(info.measurement, vm->measurement, sizeof(info.measurement));
        if ( d->is_dying )
            info.state = VMC_STATE_DYING;
    }
    rcu_unlock_domain(d);

    return copy_to_guest(arg, (void *)&info, sizeof(info)) ? -EFAULT : 0;
}

/*
 * Whoever asks is told of himself: there is no argument by which dom0 could ask in
 * a guest's name.
 */
static long ask(XEN_GUEST_HANDLE_PARAM(void) arg)
{
    const struct domain *d = current->domain;
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    struct VmcAnswer answer;
    uint32_t verdict = 0;

    if ( copy_from_guest((void *)&answer, arg, sizeof(answer)) )
        return -EFAULT;

    if ( vm )
    {
        answer.version = VMC_INTERFACE_VERSION;
        memcpy(answer.uuid, d->handle, sizeof(answer.uuid));
        memcpy(answer.measurement, vm->measurement, sizeof(answer.measurement));
        spin_lock(&vm->lock);
        verdict = vmc_domain_answer(vm->rust, &answer);
        spin_unlock(&vm->lock);
        if ( verdict )
            return vmcrypt_refuse(vm, verdict - 1);
    }
    else
        answer = (struct VmcAnswer){ .version = VMC_INTERFACE_VERSION };

    return copy_to_guest(arg, (void *)&answer, sizeof(answer)) ? -EFAULT : 0;
}

long do_vmcrypt_op(unsigned int cmd, XEN_GUEST_HANDLE_PARAM(void) arg)
{
    if ( cmd == VMC_OP_ASK )
        return ask(arg);

    if ( !is_control_domain(current->domain) )
        return -EPERM;

    switch ( cmd )
    {
    case VMC_OP_HOST_INFO:
        return host_info(arg);

    case VMC_OP_DOMAIN_INFO:
        return domain_info(arg);

    case VMC_OP_KEY_LOAD:
        return vmcrypt_replica_owner ? vmcrypt_key_load(arg) : -EOPNOTSUPP;
    }

    return -ENOSYS;
}
