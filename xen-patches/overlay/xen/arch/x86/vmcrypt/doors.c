// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hypercalls other than maps: the table in Rust decides, here it is asked.
 */
#include <xen/acpi.h>
#include <xen/init.h>
#include <xen/iommu.h>
#include <asm/setup.h>
#include <asm/spec_ctrl.h>
#include <asm/vpmu.h>

#include "private.h"

/* Operations on the machine that were denied, and the latest. */
static atomic_t denied;
static unsigned int last_family, last_op;

static unsigned int __ro_after_init weaknesses;

/* drivers/passthrough/ats.h */
extern bool ats_enabled;

/* Who asked is dom0; @d is whom it is about, if it is about a domain. */
static void tell(const struct domain *d, unsigned int family, unsigned long op,
                 const char *why)
{
    const uint8_t *name = NULL;
    size_t len = vmc_door_name(family, &name);

    if ( !printk_ratelimit() )
        return;

    if ( d )
        printk(XENLOG_WARNING "VMCrypt: %pd: %.*s %lu denied: %s\n",
               d, (int)len, (const char *)name, op, why);
    else
        printk(XENLOG_WARNING "VMCrypt: %.*s %lu denied: %s\n",
               (int)len, (const char *)name, op, why);
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
    tell(d, family, op, "would read or change a protected domain");

    return true;
}

bool vmcrypt_denied(unsigned int family, unsigned long op, const char *why)
{
    atomic_inc(&denied);
    last_family = family;
    last_op = op;
    tell(NULL, family, op, why);

    return true;
}

bool vmcrypt_host_denies(unsigned int family, unsigned long op)
{
    BUILD_BUG_ON(VMCRYPT_DEBUG_KEYS != VMC_DEBUG_KEYS);
    BUILD_BUG_ON(VMCRYPT_SHADOW_OPS != VMC_SHADOW_OPS);

    return opt_vmcrypt && vmc_door_denies(family, op, 0) &&
           vmcrypt_denied(family, op, "guests are protected on this host");
}

static bool denies_all(unsigned int family, unsigned long op)
{
    return opt_vmcrypt && vmc_door_denies_all(family, op) &&
           vmcrypt_denied(family, op, "reaches further than its domain");
}

/* None at all are a range that wraps, which is denied, too. */
static bool denies_range(unsigned long op, uint64_t first, uint64_t nr)
{
    return vmcrypt_denies_frames(__HYPERVISOR_domctl, op, first,
                                 first + nr - 1);
}

int vmcrypt_domctl(struct domain *d, const struct xen_domctl *op)
{
    struct vmcrypt_domain *vm = vmcrypt_of(d);
    const struct domain *by = current->domain;
    bool denied;

    /* Others Xen itself will turn away, but for a device model. */
    if ( !is_control_domain(by) && !(d && by->target == d) )
        return 0;

    /* What it names, whoever it is for; then, whom it is about. */
    denied = denies_all(__HYPERVISOR_domctl, op->cmd) ||
             vmcrypt_bad_argument(d, op);
    switch ( op->cmd )
    {
    case XEN_DOMCTL_iomem_permission:
        denied |= denies_range(op->cmd, op->u.iomem_permission.first_mfn,
                               op->u.iomem_permission.nr_mfns);
        break;

    case XEN_DOMCTL_memory_mapping:
        denied |= denies_range(op->cmd, op->u.memory_mapping.first_mfn,
                               op->u.memory_mapping.nr_mfns);
        break;

    case XEN_DOMCTL_shadow_op:
        denied = denies_all(VMCRYPT_SHADOW_OPS, op->u.shadow_op.op) ||
                 vmcrypt_denies(d, by, VMCRYPT_SHADOW_OPS, op->u.shadow_op.op);
        break;

    case XEN_DOMCTL_soft_reset:
    case XEN_DOMCTL_soft_reset_cont:
        denied |= d && d->crashed;
        break;

    case XEN_DOMCTL_set_address_size:
        if ( vm && op->u.address_size.size != 64 )
            return vmcrypt_refuse(vm, VMC_REFUSAL_GUEST32);
        break;
    }

    return denied || vmcrypt_denies(d, by, __HYPERVISOR_domctl, op->cmd)
           ? -EPERM : 0;
}

void vmcrypt_doors_describe(struct VmcHostInfo *info)
{
    info->denied = (unsigned int)atomic_read(&denied);
    info->last_family = last_family;
    info->last_operation = last_op;
    info->weaknesses = weaknesses;
}

static void __init weak(enum VmcWeakness weakness)
{
    const uint8_t *text = NULL;
    size_t len = vmc_weakness_text(weakness, &text);

    weaknesses |= 1U << weakness;
    printk(XENLOG_WARNING "VMCrypt: %.*s\n", (int)len, (const char *)text);
}

static void __init find_weak_devices(void)
{
    if ( !iommu_enabled )
    {
        weak(VMC_WEAKNESS_NO_IOMMU);
        return;
    }

    if ( !iommu_hwdom_strict || iommu_hwdom_inclusive ||
         iommu_hwdom_passthrough )
        weak(VMC_WEAKNESS_DOM0_RELAXED);
    if ( !iommu_intremap )
        weak(VMC_WEAKNESS_NO_INTERRUPT_REMAPPING);
    if ( ats_enabled || !iommu_igfx || !amd_iommu_perdev_intremap )
        weak(VMC_WEAKNESS_UNTRANSLATED_DEVICES);
}

/* What the CPU leaks, to dom0 or to a guest that dom0 makes. */
static void __init find_weak_cpu(const struct domain *dom0)
{
    bool intel = !(boot_cpu_data.x86_vendor &
                   (X86_VENDOR_AMD | X86_VENDOR_HYGON));
    bool smt = opt_smt && boot_cpu_data.x86_num_siblings > 1;
    unsigned int scf = dom0->arch.scf;

    if ( cpu_has_bug_l1tf && !(opt_pv_l1tf_hwdom && opt_pv_l1tf_domu) )
        weak(VMC_WEAKNESS_L1TF);
    if ( intel && !cpu_has_rdcl_no && !(opt_xpti_hwdom && opt_xpti_domu) )
        weak(VMC_WEAKNESS_MELTDOWN);
    if ( smt && (cpu_has_bug_l1tf || (intel && !cpu_has_mds_no)) )
        weak(VMC_WEAKNESS_HYPERTHREADS);
    if ( (boot_cpu_has(X86_FEATURE_IBPB_ENTRY_PV) && !(scf & SCF_entry_ibpb)) ||
         ((boot_cpu_has(X86_SPEC_BHB_LOOPS) || boot_cpu_has(X86_SPEC_BHB_TSX)) &&
          !(scf & SCF_entry_bhb)) ||
         (cpu_has_fb_clear && !(scf & SCF_verw)) )
        weak(VMC_WEAKNESS_ENTRY_MITIGATIONS);
}

/*
 * Ways to guests' memory that are not VMCrypt's to close: the machine lacks
 * something, or its command line says so.
 */
void __init vmcrypt_find_weaknesses(const struct domain *dom0)
{
    find_weak_devices();
    find_weak_cpu(dom0);
    if ( vpmu_mode != XENPMU_MODE_OFF )
        weak(VMC_WEAKNESS_PERFORMANCE_COUNTERS);
    if ( cpufreq_controller == FREQCTL_dom0_kernel )
        weak(VMC_WEAKNESS_FREQUENCY_REGISTERS);
    if ( acpi_disabled || !(acpi_sinfo.pm1a_cnt_blk.address ||
                            acpi_sinfo.sleep_control.address) )
        weak(VMC_WEAKNESS_NO_ACPI);
}
