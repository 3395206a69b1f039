// SPDX-License-Identifier: GPL-2.0-only
/*
 * What dom0 tells Xen of devices and CPUs, and Xen acts on.
 *
 * These handlers were written for a toolstack that is trusted (XSA-77), and
 * some for a kernel that is.
 */
#include <xen/acpi.h>
#include <xen/iocap.h>
#include <xen/msi.h>
#include <xen/pci.h>
#include <xen/pci_ids.h>
#include <xen/pmstat.h>
#include <acpi/cpufreq/processor_perf.h>
#include <public/physdev.h>
#include <public/platform.h>

#include "private.h"

/* Performance states of a CPU; no firmware has more than a few dozen. */
#define MAX_STATES 255

/* --- Interrupts of devices ---------------------------------------------- */

/*
 * Where a device has its table of interrupts, which Xen writes to, and which
 * leaves the set of read-only memory when it is given up.  The place follows from
 * a register that dom0 writes.
 */
bool vmcrypt_denies_msix(unsigned long first, unsigned long last)
{
    if ( vmcrypt_denies_frames(__HYPERVISOR_physdev_op, PHYSDEVOP_prepare_msix,
                               first, last) )
        return true;

    return opt_vmcrypt &&
           (!iomem_access_permitted(hardware_domain, first, last) ||
            rangeset_overlaps_range(mmio_ro_ranges, first, last)) &&
           vmcrypt_denied(__HYPERVISOR_physdev_op, PHYSDEVOP_prepare_msix,
                          "names memory that is not dom0's to write");
}

/*
 * For each further entry Xen reads from the device again where its table begins,
 * and dom0 can have such a read go astray: what is written must lie in what was
 * judged, and in one page, since neighbours are not mapped beside each other.
 */
bool vmcrypt_denies_msix_entry(const struct arch_msix *msix, paddr_t entry)
{
    unsigned long first = PFN_DOWN(entry);
    unsigned long last = PFN_DOWN(entry + PCI_MSIX_ENTRY_SIZE - 1);

    return opt_vmcrypt &&
           (first < msix->table.first || last > msix->table.last ||
            first != last) &&
           vmcrypt_denied(__HYPERVISOR_physdev_op, PHYSDEVOP_map_pirq,
                          "the device's table is elsewhere now");
}

/*
 * Xen finds what an HVM domain bound to a device's message by the interrupt that
 * is mapped: without it the bond would outlive the device.
 */
bool vmcrypt_keeps_interrupt(struct domain *d, int pirq)
{
    const struct pirq *info = is_hvm_domain(d) ? pirq_info(d, pirq) : NULL;
    const struct hvm_pirq_dpci *dpci = pirq_dpci(info);

    return opt_vmcrypt && dpci && (dpci->flags & HVM_IRQ_DPCI_GUEST_MSI) &&
           vmcrypt_denied(__HYPERVISOR_physdev_op, PHYSDEVOP_unmap_pirq,
                          "the interrupt is bound; unbind it first");
}

/* --- Devices ------------------------------------------------------------ */

/* The function whose register at 0x40 says where PM1a_CNT is; 0: none. */
static uint16_t __ro_after_init power_bdf;

/*
 * Intel's chipsets say in configuration space where configuration space itself,
 * other windows over RAM, and the registers of power management are.  Firmware
 * may lock these and often does not.
 */
static bool intel(unsigned int bdf)
{
    return pci_conf_read16(PCI_SBDF(0, bdf), PCI_VENDOR_ID) ==
           PCI_VENDOR_ID_INTEL;
}

void __init vmcrypt_find_power(uint64_t pm1a_control)
{
    unsigned int bdf;

    /* PM1a_CNT is 4 bytes behind the base (ICH9 datasheet, 13.8.3). */
    for ( bdf = 0; pm1a_control && bdf < 256; bdf++ )
        if ( intel(bdf) &&
             (pci_conf_read32(PCI_SBDF(0, bdf), 0x40) & 0xffc0) ==
             pm1a_control - 4 )
            power_bdf = bdf;
}

bool vmcrypt_pins_config(unsigned int seg, unsigned int bdf, unsigned int reg,
                         unsigned int size)
{
    return opt_vmcrypt && !seg && reg + size > 0x40 &&
           ((!bdf && intel(bdf)) ||
            (power_bdf && bdf == power_bdf && reg < 0x48)) &&
           vmcrypt_denied(__HYPERVISOR_physdev_op,
                          PHYSDEVOP_pci_mmcfg_reserved,
                          "a register of the chipset's moves it");
}

/* A device that Xen knows does not change its kind, and is not given up. */
int vmcrypt_check_device(unsigned int seg, unsigned int bus,
                         unsigned int devfn, const struct pci_dev_info *info)
{
    const struct pci_dev *pdev = pci_get_pdev(NULL, PCI_SBDF(seg, bus, devfn));
    const struct pci_dev *pf = NULL;
    bool same;

    if ( !opt_vmcrypt || !info )
        return 0;

    if ( info->is_virtfn )
        pf = pci_get_pdev(NULL, PCI_SBDF(seg, info->physfn.bus,
                                         info->physfn.devfn));

    same = !pdev || !pdev->domain ||
           (info->is_virtfn == pdev->info.is_virtfn &&
            (!info->is_virtfn ||
             (info->physfn.bus == pdev->info.physfn.bus &&
              info->physfn.devfn == pdev->info.physfn.devfn)));
    if ( same && (!info->is_virtfn ||
                  (pf && pf->domain && !pf->info.is_virtfn)) )
        return 0;

    vmcrypt_denied(__HYPERVISOR_physdev_op, PHYSDEVOP_pci_device_add,
                   same ? "names a physical function that is not there"
                        : "makes another kind of a device that is in use");

    return same ? -ENODEV : -EINVAL;
}

/* Its interrupts are in use, or Xen itself uses it. */
bool vmcrypt_keeps_device(const struct pci_dev *pdev)
{
    return opt_vmcrypt &&
           (pdev->domain == dom_xen || !list_empty(&pdev->msi_list)) &&
           vmcrypt_denied(__HYPERVISOR_physdev_op, PHYSDEVOP_pci_device_remove,
                          "the device is in use");
}

/* --- Domains that are not PV -------------------------------------------- */

static bool bad(const struct domain *d, const struct xen_domctl *op)
{
    bool vcpu = d && d->vcpu && d->vcpu[0];

    switch ( op->cmd )
    {
    /* A domain without vCPUs is NULL to these, where dom0 may have a page. */
    case XEN_DOMCTL_gethvmcontext:
    case XEN_DOMCTL_gethvmcontext_partial:
    case XEN_DOMCTL_sethvmcontext:
        return !vcpu;

    /* The line of an interrupt is an index. */
    case XEN_DOMCTL_bind_pt_irq:
    case XEN_DOMCTL_unbind_pt_irq:
        return !vcpu ||
               ((op->u.bind_pt_irq.irq_type == PT_IRQ_TYPE_PCI ||
                 op->u.bind_pt_irq.irq_type == PT_IRQ_TYPE_MSI_TRANSLATE) &&
                (op->u.bind_pt_irq.u.pci.device > 31 ||
                 op->u.bind_pt_irq.u.pci.intx > 3));
    }

    return false;
}

bool vmcrypt_bad_argument(const struct domain *d, const struct xen_domctl *op)
{
    return opt_vmcrypt && bad(d, op) &&
           vmcrypt_denied(__HYPERVISOR_domctl, op->cmd,
                          "Xen would use an argument unchecked");
}

/* --- Performance states of CPUs ----------------------------------------- */

/*
 * Xen writes to the register what a state says.  A register of the CPU's is
 * Xen's own choice; a port would be dom0's.
 */
static bool fixed(const struct xen_pct_register *reg)
{
    return reg->space_id == ACPI_ADR_SPACE_FIXED_HARDWARE;
}

/* CPUs that change together share one of their tables of states. */
static bool like_others(const struct xen_processor_performance *perf,
                        unsigned int count)
{
    unsigned int cpu;

    for ( cpu = 0; cpu < nr_cpu_ids; cpu++ )
    {
        const struct processor_pminfo *other = processor_pminfo[cpu];

        if ( other && (other->perf.init & XEN_PX_INIT) &&
             other->perf.domain_info.domain == perf->domain_info.domain &&
             other->perf.state_count != count )
            return false;
    }

    return true;
}

int vmcrypt_check_performance(const struct xen_processor_performance *perf,
                              unsigned int cpu)
{
    const struct processor_performance *known = &processor_pminfo[cpu]->perf;
    unsigned int count = known->states ? known->state_count
                         : perf->flags & XEN_PX_PSS ? perf->state_count : 0;
    const char *why = NULL;

    if ( !opt_vmcrypt )
        return 0;

    if ( (known->init & XEN_PX_INIT) && perf->flags != XEN_PX_PPC )
        why = "the CPU's states are in use";
    else if ( count > MAX_STATES )
        why = "no CPU has so many states";
    else if ( (perf->flags & XEN_PX_PPC) && perf->platform_limit >= count )
        why = "the limit is a state that the CPU has not";
    else if ( (perf->flags & XEN_PX_PCT) &&
              !(fixed(&perf->control_register) &&
                fixed(&perf->status_register)) )
        why = "states are set by a port, which would be dom0's choice";
    else if ( (perf->flags & XEN_PX_PSD) && !like_others(perf, count) )
        why = "CPUs that change together have other states";

    if ( !why )
        return 0;

    vmcrypt_denied(__HYPERVISOR_platform_op, XENPF_set_processor_pminfo, why);

    return -EINVAL;
}
