// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hypercalls other than maps: the table in Rust decides, here it is asked.
 */
#include <xen/init.h>
#include <xen/iommu.h>
#include <asm/spec_ctrl.h>

#include "private.h"

/* Operations on the machine that were denied, and the latest. */
static atomic_t denied;
static unsigned int last_family, last_op;

static unsigned int __ro_after_init weaknesses;

/* Who asked is dom0; @d is whom it is about, if it is about a domain. */
static void tell(const struct domain *d, unsigned int family, unsigned long op)
{
    const uint8_t *name = NULL;
    size_t len = vmc_door_name(family, &name);

    if ( !printk_ratelimit() )
        return;

    if ( d )
        printk(XENLOG_WARNING
               "VMCrypt: %pd: %.*s %lu denied: would read or change a protected domain\n",
               d, (int)len, (const char *)name, op);
    else
        printk(XENLOG_WARNING
               "VMCrypt: %.*s %lu denied: guests are protected on this host\n",
               (int)len, (const char *)name, op);
}

bool vmcrypt_denies(struct domain *d, const struct domain *by,
                    unsigned int family, unsigned long op)
{
    struct vmcrypt_domain *vm = d != by ? vmcrypt_of(d) : NULL;

    if ( likely(!vm) || !vmc_door_denies(family, op, vmcrypt_state(vm)) )
        return false;

    spin_lock(&vm->lock);
    vmc_domain_refuse(vm->rust, VMC_REFUSAL_DENIED);
    spin_unlock(&vm->lock);
    tell(d, family, op);

    return true;
}

bool vmcrypt_host_denies(unsigned int family, unsigned long op)
{
    BUILD_BUG_ON(VMCRYPT_DEBUG_KEYS != VMC_DEBUG_KEYS);

    if ( !opt_vmcrypt || !vmc_door_denies(family, op, 0) )
        return false;

    atomic_inc(&denied);
    last_family = family;
    last_op = op;
    tell(NULL, family, op);

    return true;
}

int vmcrypt_domctl(struct domain *d, const struct xen_domctl *op)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);

    /* Others Xen itself will turn away. */
    if ( !vm || !is_control_domain(current->domain) )
        return 0;

    if ( op->cmd == XEN_DOMCTL_set_address_size &&
         op->u.address_size.size != 64 )
        return vmcrypt_refuse(vm, VMC_REFUSAL_GUEST32);

    return vmcrypt_denies(d, current->domain, __HYPERVISOR_domctl, op->cmd)
           ? -EPERM : 0;
}

void vmcrypt_doors_describe(struct VmcHostInfo *info)
{
    info->denied = (unsigned int)atomic_read(&denied);
    info->last_family = last_family;
    info->last_operation = last_op;
    info->weaknesses = weaknesses;
}

/* Ways to guests' memory that are not VMCrypt's to close. */
void __init vmcrypt_find_weaknesses(void)
{
    unsigned int bit;

    if ( !iommu_enabled )
        weaknesses |= 1U << VMC_WEAKNESS_NO_IOMMU;
    else
    {
        if ( !iommu_hwdom_strict )
            weaknesses |= 1U << VMC_WEAKNESS_DOM0_RELAXED;
        if ( !iommu_intremap )
            weaknesses |= 1U << VMC_WEAKNESS_NO_INTERRUPT_REMAPPING;
    }
    if ( cpu_has_bug_l1tf && !opt_pv_l1tf_hwdom )
        weaknesses |= 1U << VMC_WEAKNESS_L1TF;

    for ( bit = 0; weaknesses >> bit; bit++ )
    {
        const uint8_t *text = NULL;
        size_t len = vmc_weakness_text(bit, &text);

        if ( weaknesses & (1U << bit) )
            printk(XENLOG_WARNING "VMCrypt: %.*s\n", (int)len,
                   (const char *)text);
    }
}
