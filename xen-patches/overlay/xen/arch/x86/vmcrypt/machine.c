// SPDX-License-Identifier: GPL-2.0-only
/*
 * What of the machine itself dom0 may have: its memory map and the registers
 * that put it to sleep.
 *
 * Xen takes all memory that is not RAM for devices', and dom0 for the owner of
 * all devices.  It gives dom0 a capability for every address, RAM included: page
 * tables ask for it where a frame has no owner, but a domain that is not PV gets
 * whatever dom0 names as a device's memory.
 */
#include <xen/acpi.h>
#include <xen/init.h>
#include <xen/iocap.h>
#include <xen/pfn.h>
#include <asm/e820.h>
#include <asm/hpet.h>
#include <asm/io.h>
#include <asm/msi.h>
#include <asm/setup.h>
#include <asm/trampoline.h>
#include <public/platform.h>

#include "private.h"
#include "../x86_64/mmconfig.h"

#define MAX_IOPORTS 0x10000

/* Where a register has the bit that puts the machine to sleep; 0: nowhere. */
static uint16_t __ro_after_init sleep_port[3];

static bool overlaps(unsigned long first, unsigned long last,
                     unsigned long from, unsigned long to)
{
    return first <= to && last >= from;
}

/* Whole pages of RAM of an entry of the memory map; false if there are none. */
static bool ram(const struct e820entry *entry, unsigned long *first,
                unsigned long *last)
{
    unsigned long end = PFN_DOWN(entry->addr + entry->size);

    *first = max_t(unsigned long, PFN_UP(entry->addr), PFN_DOWN(MB(1)));
    *last = end - 1;

    return entry->type == E820_RAM && end > *first;
}

/* All that lies at frames which dom0 names: VMC_FRAMES_*. */
static unsigned int frames_at(unsigned long first, unsigned long last)
{
    unsigned int i, found = 0;
    unsigned long from, to;

    if ( last < first )
        return VMC_FRAMES_RAM;

    for ( i = 0; i < e820.nr_map; i++ )
        if ( ram(&e820.map[i], &from, &to) && overlaps(first, last, from, to) )
            found |= VMC_FRAMES_RAM;

    if ( overlaps(first, last, PFN_DOWN(bootsym_phys(trampoline_start)),
                  PFN_DOWN(bootsym_phys(trampoline_end) - 1)) )
        found |= VMC_FRAMES_TRAMPOLINE;

    return found;
}

bool vmcrypt_denies_frames(unsigned int family, unsigned long op,
                           unsigned long first, unsigned long last)
{
    return opt_vmcrypt &&
           vmc_door_denies_frames(family, op, frames_at(first, last)) &&
           vmcrypt_denied(family, op, "names memory that is no device's");
}

/* Takes away what dom0 may not do with frames of a kind. */
static int __init pin_frames(struct domain *d, unsigned int kind,
                             unsigned long first, unsigned long last)
{
    switch ( vmc_machine_right(kind) )
    {
    case VMC_RIGHT_ALL:
        return 0;

    case VMC_RIGHT_READ:
        return rangeset_add_range(mmio_ro_ranges, first, last);
    }

    return iomem_deny_access(d, first, last);
}

/* Firmware that Xen calls: nobody but the firmware writes to it any more. */
void __init vmcrypt_firmware(unsigned long first, unsigned long last)
{
    if ( opt_vmcrypt && first <= last &&
         rangeset_add_range(mmio_ro_ranges, first, last) )
        panic("VMCrypt: no memory to note what the firmware keeps\n");
}

/* A register that puts the machine to sleep; @offset is of the byte that does. */
static int __init pin_sleep(struct domain *d, unsigned int nr,
                            const struct acpi_generic_address *reg,
                            unsigned int offset)
{
    uint64_t address = reg->address + offset;

    if ( !reg->address )
        return 0;

    switch ( reg->space_id )
    {
    case ACPI_ADR_SPACE_SYSTEM_IO:
        if ( address >= MAX_IOPORTS )
            return 0; /* nobody can write to it */
        sleep_port[nr] = address;
        return ioports_deny_access(d, sleep_port[nr], sleep_port[nr]);

    case ACPI_ADR_SPACE_SYSTEM_MEMORY:
        return rangeset_add_singleton(mmio_ro_ranges, PFN_DOWN(address));
    }

    printk(XENLOG_WARNING
           "VMCrypt: dom0 can put the machine to sleep, with keys in memory, by a register in space %u\n",
           reg->space_id);

    return 0;
}

/* A table whose instructions Xen carries out. */
static int __init pin_table(const char *signature)
{
    acpi_physical_address address;
    acpi_native_uint size;

    if ( acpi_disabled ||
         acpi_get_table_phys((char *)signature, 0, &address, &size) != AE_OK ||
         !size )
        return 0;

    return rangeset_add_range(mmio_ro_ranges, PFN_DOWN(address),
                              PFN_DOWN(address + size - 1));
}

/* Configuration space that Xen does not use it keeps from being written past it. */
static int __init pin_mmconf(void)
{
    unsigned int i;
    int rc = 0;

    for ( i = 0; i < pci_mmcfg_config_num; i++ )
    {
        const struct acpi_mcfg_allocation *cfg = &pci_mmcfg_config[i];
        unsigned long base = PFN_DOWN(cfg->address);

        rc |= rangeset_add_range(mmio_ro_ranges,
                                 base + PCI_BDF(cfg->start_bus_number, 0, 0),
                                 base + PCI_BDF(cfg->end_bus_number, ~0, ~0));
    }

    return rc;
}

/*
 * Capabilities that dom0 never has.  Before its devices' view of memory is made
 * of them.
 */
int __init vmcrypt_pin_machine(struct domain *d)
{
    int rc = 0;

    if ( !opt_vmcrypt )
        return 0;

    rc |= pin_frames(d, VMC_FRAMES_TRAMPOLINE,
                     PFN_DOWN(bootsym_phys(trampoline_start)),
                     PFN_DOWN(bootsym_phys(trampoline_end) - 1));

    /* A store there is an interrupt, of whatever kind, for whatever CPU. */
    rc |= iomem_deny_access(d, PFN_DOWN(MSI_ADDR_BASE_LO),
                            PFN_DOWN(MSI_ADDR_BASE_LO + MB(1) - 1));
    /* Its timers can store four bytes at any address. */
    if ( hpet_address )
        rc |= rangeset_add_singleton(mmio_ro_ranges, PFN_DOWN(hpet_address));
    rc |= pin_table(ACPI_SIG_ERST);
    rc |= pin_mmconf();

    vmcrypt_find_power(acpi_sinfo.pm1a_cnt_blk.address);
    rc |= pin_sleep(d, 0, &acpi_sinfo.pm1a_cnt_blk, 1);
    rc |= pin_sleep(d, 1, &acpi_sinfo.pm1b_cnt_blk, 1);
    rc |= pin_sleep(d, 2, &acpi_sinfo.sleep_control, 0);

    return rc;
}

/*
 * The capability for RAM goes when its devices' view of memory was made, of which
 * RAM is a part unless Xen was booted with dom0-iommu=strict.
 */
int __init vmcrypt_dom0_built(struct domain *d)
{
    unsigned long first, last;
    unsigned int i;
    int rc = 0;

    if ( !opt_vmcrypt )
        return 0;

    for ( i = 0; i < e820.nr_map; i++ )
        if ( ram(&e820.map[i], &first, &last) )
            rc |= pin_frames(d, VMC_FRAMES_RAM, first, last);

    vmcrypt_find_weaknesses(d);

    return rc;
}

/*
 * The bits of a port access of dom0's that would put the machine to sleep.  0 if
 * there are none, or if another of the ports is not dom0's.
 */
static uint32_t sleep_bits(const struct domain *d, unsigned int port,
                           unsigned int bytes)
{
    unsigned int i, j;
    uint32_t bits = 0;

    if ( !is_hardware_domain(d) )
        return 0;

    for ( i = 0; i < bytes; i++ )
    {
        bool found = false;

        for ( j = 0; j < ARRAY_SIZE(sleep_port); j++ )
            found |= sleep_port[j] && sleep_port[j] == port + i;
        if ( found )
            bits |= (uint32_t)VMC_SLEEP_ENABLE << (8 * i);
        else if ( !ioports_access_permitted(d, port + i, port + i) )
            return 0;
    }

    return bits;
}

bool vmcrypt_sleep_read(const struct domain *d, unsigned int port,
                        unsigned int bytes, uint32_t *data)
{
    if ( !sleep_bits(d, port, bytes) )
        return false;

    switch ( bytes )
    {
    case 1: *data = inb(port); break;
    case 2: *data = inw(port); break;
    case 4: *data = inl(port); break;
    default: return false;
    }

    return true;
}

bool vmcrypt_sleep_write(const struct domain *d, unsigned int port,
                         unsigned int bytes, uint32_t data)
{
    uint32_t bits = sleep_bits(d, port, bytes);

    if ( !bits )
        return false;

    if ( data & bits )
        vmcrypt_denied(__HYPERVISOR_platform_op, XENPF_enter_acpi_sleep,
                       "by the register itself");

    data &= ~bits;
    switch ( bytes )
    {
    case 1: outb(data, port); break;
    case 2: outw(data, port); break;
    case 4: outl(data, port); break;
    }

    return true;
}

/* The configuration space of old AMD machines stays where the firmware put it. */
bool vmcrypt_pins_mmconf(void)
{
    return opt_vmcrypt;
}
