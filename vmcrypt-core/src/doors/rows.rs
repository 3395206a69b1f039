//! The rows. One line each: number, name, rule, why; then, if it applies, the part that is meant.

use super::Rule::{Absent, Allowed, Hooked, Host, Never, Nobody, NotPv, Own, UntilSealed};
use super::{Door, Family, HYPERCALLS, KEYS, Names, Rule, SHADOW_OPS};

const fn row(number: u32, name: &'static str, rule: Rule, why: &'static str) -> Door {
    Door {
        number,
        name,
        rule,
        only: "",
        names: Names::Nothing,
        why,
    }
}

impl Door {
    /// It names frames of the machine, which must be a device's.
    const fn devices(self) -> Self {
        Self {
            names: Names::Devices,
            ..self
        }
    }

    /// It names a device's memory that Xen knows already.
    const fn known(self) -> Self {
        Self {
            names: Names::Known,
            ..self
        }
    }

    /// It names I/O ports.
    const fn ports(self) -> Self {
        Self {
            names: Names::Ports,
            ..self
        }
    }

    /// It names frames, whose owner decides.
    const fn owned(self) -> Self {
        Self {
            names: Names::Owned,
            ..self
        }
    }

    /// The rule is for this part alone.
    const fn only(self, only: &'static str) -> Self {
        Self { only, ..self }
    }
}

/// Every family. Numbers are those of Xen's `public/xen.h`.
#[rustfmt::skip] // a table
pub const FAMILIES: &[Family] = &[
    Family { number: HYPERCALLS, name: "hypercall", header: "xen.h", prefix: "__HYPERVISOR_", asked: "nowhere: each family below has a place of its own", doors: HYPERCALL },
    Family { number: 36, name: "domctl", header: "domctl.h", prefix: "XEN_DOMCTL_", asked: "`do_domctl()`", doors: DOMCTL },
    Family { number: SHADOW_OPS, name: "shadow op", header: "domctl.h", prefix: "XEN_DOMCTL_SHADOW_OP_", asked: "domctl `shadow_op`, whose continuation goes on with what was begun", doors: SHADOW },
    Family { number: 35, name: "sysctl", header: "sysctl.h", prefix: "XEN_SYSCTL_", asked: "`do_sysctl()`", doors: SYSCTL },
    Family { number: 7, name: "platform op", header: "platform.h", prefix: "XENPF_", asked: "`do_platform_op()`", doors: PLATFORM },
    Family { number: 12, name: "memory op", header: "memory.h", prefix: "XENMEM_", asked: "where the operation names a domain", doors: MEMORY },
    Family { number: 1, name: "mmu update", header: "xen.h", prefix: "MMU_", asked: "`do_mmu_update()`, each request, if the table or the M2P entry is another domain's", doors: MMU_UPDATE },
    Family { number: 26, name: "mmuext op", header: "xen.h", prefix: "MMUEXT_", asked: "`do_mmuext_op()`, each request, if the page is another domain's", doors: MMUEXT },
    Family { number: 20, name: "grant table op", header: "grant_table.h", prefix: "GNTTABOP_", asked: "where another domain's table is named", doors: GRANT_TABLE },
    Family { number: 24, name: "vcpu op", header: "vcpu.h", prefix: "VCPUOP_", asked: "nowhere: there is no operation on another domain", doors: VCPU },
    Family { number: 29, name: "sched op", header: "sched.h", prefix: "SCHEDOP_", asked: "in `remote_shutdown`", doors: SCHED },
    Family { number: 32, name: "event channel op", header: "event_channel.h", prefix: "EVTCHNOP_", asked: "nowhere: no operation reads or changes more than event channels", doors: EVENT_CHANNEL },
    Family { number: 33, name: "physdev op", header: "physdev.h", prefix: "PHYSDEVOP_", asked: "in `map_pirq` and `apic_write`", doors: PHYSDEV },
    Family { number: 34, name: "hvm op", header: "hvm/hvm_op.h", prefix: "HVMOP_", asked: "nowhere: Xen looks at the target's kind first", doors: HVM },
    Family { number: 41, name: "dm op", header: "hvm/dm_op.h", prefix: "XEN_DMOP_", asked: "nowhere: `dm_op()` begins by refusing targets that are not HVM", doors: DM },
    Family { number: 40, name: "xenpmu op", header: "pmu.h", prefix: "XENPMU_", asked: "`do_xenpmu_op()`", doors: PMU },
    Family { number: 42, name: "hypfs op", header: "hypfs.h", prefix: "XEN_HYPFS_OP_", asked: "`do_hypfs_op()`", doors: HYPFS },
    Family { number: 48, name: "mca", header: "arch-x86/xen-mca.h", prefix: "XEN_MC_", asked: "`do_mca()`", doors: MCA },
    Family { number: KEYS, name: "debug key", header: "", prefix: "", asked: "sysctl `debug_keys`, each key; keys typed at the serial line are not dom0's", doors: DEBUG_KEYS },
];

#[rustfmt::skip] // a table
const HYPERCALL: &[Door] = &[
    row(0, "set_trap_table", Own, "the caller's trap handlers"),
    row(1, "mmu_update", Hooked, "below; maps of another domain's frames are `map.c`'s"),
    row(2, "set_gdt", Own, "the caller's descriptor table"),
    row(3, "stack_switch", Own, "the caller's kernel stack"),
    row(4, "set_callbacks", Own, "the caller's entry points"),
    row(5, "fpu_taskswitch", Own, "the caller's CR0.TS"),
    row(6, "sched_op_compat", Own, "yield and block of an old interface"),
    row(7, "platform_op", Hooked, "below"),
    row(8, "set_debugreg", Own, "the caller's debug registers"),
    row(9, "get_debugreg", Own, "the caller's debug registers"),
    row(10, "update_descriptor", Own, "a descriptor of the caller's; the frame must be his"),
    row(12, "memory_op", Hooked, "below"),
    row(13, "multicall", Allowed, "other hypercalls in a row; each comes by its own hook"),
    row(14, "update_va_mapping", Hooked, "an entry of the caller's own; a foreign frame in it is `map.c`'s"),
    row(15, "set_timer_op", Own, "the caller's timer"),
    row(16, "event_channel_op_compat", Allowed, "an old way to the event channel operations below"),
    row(17, "xen_version", Allowed, "version, command line and build id of Xen: no secrets"),
    row(18, "console_io", Allowed, "writes to Xen's console; reading gives what is typed there"),
    row(19, "physdev_op_compat", Allowed, "an old way to the physdev operations below"),
    row(20, "grant_table_op", Hooked, "below; the guest alone grants, and maps of grants are counted"),
    row(21, "vm_assist", Own, "the caller's paging assists"),
    row(22, "update_va_mapping_otherdomain", Hooked, "an entry of the caller's own for another domain's frame: `map.c`'s"),
    row(23, "iret", Own, "the caller's return from a trap"),
    row(24, "vcpu_op", Own, "below"),
    row(25, "set_segment_base", Own, "the caller's segment bases"),
    row(26, "mmuext_op", Hooked, "below"),
    row(27, "xsm_op", Absent("CONFIG_XSM"), "could load a policy that lets other domains in"),
    row(28, "nmi_op", Own, "the caller's NMI handler"),
    row(29, "sched_op", Hooked, "below"),
    row(30, "callback_op", Own, "the caller's entry points"),
    row(31, "xenoprof_op", Absent("CONFIG_XENOPROF"), "samples the registers of other domains"),
    row(32, "event_channel_op", Allowed, "below"),
    row(33, "physdev_op", Hooked, "below"),
    row(34, "hvm_op", NotPv, "below"),
    row(35, "sysctl", Hooked, "below"),
    row(36, "domctl", Hooked, "below"),
    row(37, "kexec_op", Absent("CONFIG_KEXEC"), "runs code of dom0's choice over all memory"),
    row(38, "tmem_op", Absent(""), "was removed from Xen"),
    row(39, "argo_op", Absent("CONFIG_ARGO"), "copies between domains by rings that each registers itself"),
    row(40, "xenpmu_op", Hooked, "below"),
    row(41, "dm_op", NotPv, "below"),
    row(42, "hypfs_op", Hooked, "below"),
    row(48, "arch_0", Hooked, "machine checks, below"),
    row(49, "arch_1", Hooked, "the continuation of domctl `shadow_op`"),
    row(50, "arch_2", Allowed, "VMCrypt's own: it shows what it does, and takes sealed keys; tells any domain of itself, and of no other"),
    row(51, "arch_3", Absent(""), "not in use"),
    row(52, "arch_4", Absent(""), "not in use"),
    row(53, "arch_5", Absent(""), "not in use"),
    row(54, "arch_6", Absent(""), "not in use"),
    row(55, "arch_7", Absent(""), "not in use"),
];

#[rustfmt::skip] // a table
const DOMCTL: &[Door] = &[
    row(1, "createdomain", Allowed, "makes a domain; whether it is protected is decided by its kind alone"),
    row(2, "destroydomain", Allowed, "availability is not promised; keys are wiped first"),
    row(3, "pausedomain", Allowed, "availability is not promised"),
    row(4, "unpausedomain", Hooked, "the first one verifies, decrypts and seals; each sees that the guest does not live elsewhere"),
    row(5, "getdomaininfo", Allowed, "sizes, times, flags and the place of shared_info: `xl list`"),
    row(9, "setvcpuaffinity", Allowed, "scheduling; sharing a core is a side channel that is not promised against"),
    row(10, "shadow_op", Hooked, "below"),
    row(11, "max_mem", Hooked, "tables grow with the limit"),
    row(12, "setvcpucontext", Hooked, "of a sealed domain, RAX = 1 after a cancelled suspend alone").owned(),
    row(13, "getvcpucontext", Hooked, "shows what libxc needs to find frames"),
    row(14, "getvcpuinfo", Allowed, "CPU, time used, runnable or not"),
    row(15, "max_vcpus", UntilSealed, "allocates vCPUs; the record names those that there are"),
    row(16, "scheduler_op", Allowed, "weights and caps: `xl sched-credit`"),
    row(17, "setdomainhandle", Never, "the handle is part of what a record and an owner's key are bound to"),
    row(18, "setdebugging", Never, "a debugger stops the guest at an instruction of its choice"),
    row(19, "irq_permission", Never, "no devices for protected domains: they write its memory, and dom0 can reprogram them"),
    row(20, "iomem_permission", Never, "no devices for protected domains").devices(),
    row(21, "ioport_permission", Never, "no devices for protected domains").ports(),
    row(22, "hypercall_init", UntilSealed, "overwrites a page with stubs; the domain builder needs it").owned(),
    row(23, "soft_reset_cont", NotPv, "the second half of a soft reset"),
    row(24, "settimeoffset", UntilSealed, "moves the guest's wall clock; the domain builder needs it"),
    row(25, "getvcpuaffinity", Allowed, "scheduling"),
    row(26, "real_mode_area", Absent(""), "PowerPC"),
    row(27, "resumedomain", Hooked, "ends the session first, and is refused if the guest lives on elsewhere; a paused one does not go on by it"),
    row(28, "sendtrigger", Allowed, "`xl trigger`: an NMI that the guest handles"),
    row(29, "subscribe", Allowed, "event channel that tells of a suspend"),
    row(33, "gethvmcontext", NotPv, "registers and devices"),
    row(34, "sethvmcontext", NotPv, "registers and devices"),
    row(35, "set_address_size", Hooked, "32-bit guests are refused"),
    row(36, "get_address_size", Allowed, "64, always"),
    row(37, "assign_device", Never, "a device reads and writes the domain's memory, and dom0 can reprogram it"),
    row(38, "bind_pt_irq", Never, "no devices for protected domains"),
    row(39, "memory_mapping", Never, "device memory in place of the domain's own").devices(),
    row(40, "ioport_mapping", Never, "no devices for protected domains").ports(),
    row(42, "set_ext_vcpucontext", UntilSealed, "entry points of system calls; they come from the record"),
    row(43, "get_ext_vcpucontext", Hooked, "entry points are blanked, what remains is the virtual machine check state"),
    row(44, "set_opt_feature", Absent(""), "Itanium"),
    row(45, "test_assign_device", Allowed, "asks whether a device is free"),
    row(46, "set_target", Never, "gives another domain dom0's rights over this one"),
    row(47, "deassign_device", Allowed, "takes away what it cannot have"),
    row(48, "unbind_pt_irq", Allowed, "takes away what it cannot have"),
    row(50, "get_device_group", Allowed, "which devices the IOMMU cannot tell apart"),
    row(54, "debug_op", Nobody, "single steps of an HVM guest, with answers that Xen takes unchecked"),
    row(55, "gethvmcontext_partial", NotPv, "registers and devices"),
    row(56, "vm_event_op", Nobody, "reports what a guest does; of the answer Xen takes a size unchecked, and copies what lies behind"),
    row(57, "mem_sharing_op", NotPv, "one page for several domains"),
    row(59, "gettscinfo", Allowed, "libxc saves it"),
    row(60, "settscinfo", UntilSealed, "moves the guest's time stamp counter; at restore it is dom0's choice"),
    row(61, "getpageframeinfo3", Allowed, "types and pins of pages: what dom0 sees by mapping them").owned(),
    row(62, "setvcpuextstate", Hooked, "brings the record; of a sealed domain, nothing"),
    row(63, "getvcpuextstate", Hooked, "gives the record"),
    row(64, "set_access_required", NotPv, "lets an observer stop the domain"),
    row(65, "audit_p2m", NotPv, "counts inconsistencies"),
    row(66, "set_virq_handler", Allowed, "which domain gets a virtual interrupt of the machine's"),
    row(67, "set_broken_page_p2m", NotPv, "marks a page as broken"),
    row(68, "setnodeaffinity", Allowed, "where memory is taken from"),
    row(69, "getnodeaffinity", Allowed, "where memory is taken from"),
    row(71, "cacheflush", Absent(""), "Arm"),
    row(72, "get_vcpu_msrs", Hooked, "shows none"),
    row(73, "set_vcpu_msrs", UntilSealed, "MSRs come from the record"),
    row(74, "setvnumainfo", UntilSealed, "the guest's picture of NUMA; the domain builder needs it"),
    row(75, "psr_cmt_op", Allowed, "cache monitoring; the counters are read by platform op `resource_op`, which is denied"),
    row(77, "monitor_op", Nobody, "reports what a guest does, as `vm_event_op`"),
    row(78, "psr_alloc", Allowed, "shares of the cache; a side channel that is not promised against"),
    row(79, "soft_reset", NotPv, "starts a domain's memory anew"),
    row(81, "vuart_op", Absent(""), "Arm"),
    row(82, "get_cpu_policy", Allowed, "CPUID as the guest sees it: libxc saves it"),
    row(83, "set_cpu_policy", UntilSealed, "hides features; a restored domain must have the recorded one"),
    row(84, "vmtrace_op", Nobody, "records every branch"),
    row(85, "get_paging_mempool_size", Allowed, "pages for shadow tables"),
    row(86, "set_paging_mempool_size", Allowed, "pages for shadow tables"),
    row(87, "dt_overlay", Absent(""), "Arm"),
    row(88, "gsi_permission", Never, "no devices for protected domains"),
    row(89, "set_llc_colors", Allowed, "Arm; libxl asks at each creation and goes on when Xen on x86 says that it has none"),
    row(1000, "gdbsx_guestmemio", Never, "reads and writes memory by its virtual address"),
    row(1001, "gdbsx_pausevcpu", Never, "a debugger stops the guest at an instruction of its choice"),
    row(1002, "gdbsx_unpausevcpu", Never, "a debugger stops the guest at an instruction of its choice"),
    row(1003, "gdbsx_domstatus", Never, "a debugger's view of the vCPUs"),
];

#[rustfmt::skip] // a table
const SHADOW: &[Door] = &[
    row(0, "OFF", Allowed, "ends log-dirty; libxc does after each save"),
    row(1, "ENABLE_TEST", Nobody, "a mode for testing Xen; no stock tool asks for it"),
    row(2, "ENABLE_LOGDIRTY", Allowed, "shows which pages are written; what it loses withholds the record (`dirty.c`)"),
    row(3, "ENABLE_TRANSLATE", Never, "was removed from Xen"),
    row(11, "CLEAN", Allowed, "the bitmap of log-dirty"),
    row(12, "PEEK", Allowed, "the bitmap of log-dirty"),
    row(30, "GET_ALLOCATION", Allowed, "pages for shadow tables"),
    row(31, "SET_ALLOCATION", Allowed, "pages for shadow tables"),
    row(32, "ENABLE", Nobody, "any mode of paging: of a PV domain Xen takes fields for an HVM one's and frees the frame that one names; of an HVM domain its error path leaves frame 0 as root of the p2m"),
];

#[rustfmt::skip] // a table
const SYSCTL: &[Door] = &[
    row(1, "readconsole", Allowed, "`xl dmesg`; what is printed there of protected guests holds no registers or memory"),
    row(2, "tbuf_op", Host, "a trace holds guests' instruction addresses, hypercall arguments and fault addresses"),
    row(3, "physinfo", Allowed, "`xl info`"),
    row(4, "sched_id", Allowed, "the scheduler's name"),
    row(5, "perfc_op", Host, "counts by CPU what guests make Xen do"),
    row(6, "getdomaininfolist", Allowed, "`xl list`"),
    row(7, "debug_keys", Hooked, "key by key, below"),
    row(8, "getcpuinfo", Allowed, "idle times of CPUs"),
    row(9, "availheap", Allowed, "free memory"),
    row(10, "get_pmstat", Allowed, "`xenpm`: frequencies and idle states"),
    row(11, "cpu_hotplug", Allowed, "CPUs on and off; that includes hyperthreads, a side channel that is not promised against"),
    row(12, "pm_op", Allowed, "`xenpm`: governors within the limits of the hardware"),
    row(14, "page_offline_op", Host, "takes pages from domains and has dom0 exchange them"),
    row(15, "lockprof_op", Host, "how long Xen holds which lock for whom"),
    row(16, "cputopoinfo", Allowed, "`xl info -n`"),
    row(17, "numainfo", Allowed, "`xl info -n`"),
    row(18, "cpupool_op", Allowed, "`xl cpupool-*`: scheduling"),
    row(19, "scheduler_op", Allowed, "`xl sched-*`: scheduling"),
    row(20, "coverage_op", Host, "which lines of Xen ran: secrets decide none in the page cipher, elsewhere nobody looked"),
    row(21, "psr_cmt_op", Allowed, "whether the cache can be monitored"),
    row(22, "pcitopoinfo", Allowed, "which node a device is near"),
    row(23, "psr_alloc", Allowed, "shares of the cache"),
    row(25, "get_cpu_levelling_caps", Allowed, "features of CPUs"),
    row(26, "get_cpu_featureset", Allowed, "features of CPUs"),
    row(27, "livepatch_op", Host, "puts code into Xen; left out of the shipped hypervisor, too"),
    row(29, "get_cpu_policy", Allowed, "features of CPUs"),
    row(30, "dt_overlay", Absent(""), "Arm"),
];

#[rustfmt::skip] // a table
const PLATFORM: &[Door] = &[
    row(17, "settime32", Allowed, "the wall clock is dom0's: it runs NTP"),
    row(31, "add_memtype", Host, "another cache attribute for guests' frames"),
    row(32, "del_memtype", Host, "another cache attribute for guests' frames"),
    row(33, "read_memtype", Allowed, "dom0's kernel asks at boot"),
    row(35, "microcode_update", Host, "changes the CPU under running guests; load it at boot, by Xen's `ucode=`"),
    row(39, "platform_quirk", Host, "work-arounds for chipsets of 2005; no Linux that runs here asks for one"),
    row(48, "get_cpu_version", Allowed, "family, model, stepping"),
    row(49, "efi_runtime_call", Allowed, "clock and variables of the firmware, which is trusted; dom0 may change what boots next"),
    row(50, "firmware_info", Allowed, "what the firmware left about disks and displays"),
    row(51, "enter_acpi_sleep", Host, "memory and keys stay readable in S3; power off goes on working").only("any state but S5"),
    row(52, "change_freq", Host, "frequencies are Xen's, by `xenpm`"),
    row(53, "getidletime", Allowed, "idle times of CPUs"),
    row(54, "set_processor_pminfo", Allowed, "the ACPI tables' states, for Xen's own governors; states, their limit and the port that sets them are checked (`devices.c`)").ports(),
    row(55, "get_cpuinfo", Allowed, "numbers of CPUs"),
    row(56, "cpu_online", Allowed, "CPUs on and off"),
    row(57, "cpu_offline", Allowed, "CPUs on and off"),
    row(58, "cpu_hotadd", Host, "a CPU by its APIC number, of which one means all: they would be reset"),
    row(59, "mem_hotadd", Host, "dom0 could name a device's memory, which it reads, as memory for guests"),
    row(60, "core_parking", Allowed, "idle CPUs"),
    row(61, "resource_op", Host, "reads and writes MSRs: how much of the cache each guest fills"),
    row(62, "settime64", Allowed, "the wall clock is dom0's: it runs NTP"),
    row(63, "get_symbol", Host, "places in Xen, for whoever wants to attack it"),
    row(64, "get_dom0_console", Allowed, "the display that Xen left"),
    row(65, "get_ucode_revision", Allowed, "which microcode runs"),
    row(66, "microcode_update2", Host, "changes the CPU under running guests; load it at boot, by Xen's `ucode=`"),
];

#[rustfmt::skip] // a table
const MEMORY: &[Door] = &[
    row(0, "increase_reservation", UntilSealed, "a frame more; M2P entries are the domain's own").owned(),
    row(1, "decrease_reservation", UntilSealed, "frees the domain's pages, so that others get them").owned(),
    row(2, "maximum_ram_page", Allowed, "how large the machine is"),
    row(3, "current_reservation", Allowed, "how large a domain is"),
    row(4, "maximum_reservation", Allowed, "how large a domain may be"),
    row(5, "machphys_mfn_list", Allowed, "where the M2P is, which every PV domain reads"),
    row(6, "populate_physmap", UntilSealed, "a second page at a PFN").owned(),
    row(7, "add_to_physmap", NotPv, "puts a page at a guest's address").owned(),
    row(9, "memory_map", Own, "the caller's memory map"),
    row(10, "machine_memory_map", Allowed, "the machine's memory map, dom0's alone"),
    row(11, "exchange", UntilSealed, "replaces pages").owned(),
    row(12, "machphys_mapping", Allowed, "where the M2P is"),
    row(13, "set_memory_map", UntilSealed, "the map that the launch measurement covers"),
    row(14, "maximum_gpfn", Allowed, "the largest PFN: `xl save` asks"),
    row(15, "remove_from_physmap", NotPv, "takes a page from a guest's address"),
    row(16, "set_pod_target", NotPv, "populate on demand"),
    row(17, "get_pod_target", NotPv, "populate on demand"),
    row(18, "get_sharing_freed_pages", Allowed, "a count, always zero"),
    row(19, "get_sharing_shared_pages", Allowed, "a count, always zero"),
    row(20, "paging_op", NotPv, "dom0 pages a guest's memory out"),
    row(21, "access_op", NotPv, "dom0 watches accesses"),
    row(22, "sharing_op", NotPv, "one page for several domains"),
    row(23, "add_to_physmap_batch", NotPv, "puts pages at a guest's addresses").owned(),
    row(24, "claim_pages", Allowed, "sets memory aside for a domain"),
    row(25, "machphys_compat_mfn_list", Allowed, "where the M2P of 32-bit domains would be"),
    row(26, "get_vnumainfo", Allowed, "the picture of NUMA that dom0 gave the domain"),
    row(27, "reserved_device_memory_map", Allowed, "which memory devices need"),
    row(28, "acquire_resource", UntilSealed, "writable grant table frames; the domain builder needs it"),
];

#[rustfmt::skip] // a table
const MMU_UPDATE: &[Door] = &[
    row(0, "NORMAL_PT_UPDATE", UntilSealed, "edits a domain's page tables, and writes eight bytes into any of its pages").owned(),
    row(1, "MACHPHYS_UPDATE", UntilSealed, "PFNs are part of a page's tweak").owned(),
    row(2, "PT_UPDATE_PRESERVE_AD", UntilSealed, "as `NORMAL_PT_UPDATE`").owned(),
    row(3, "PT_UPDATE_NO_TRANSLATE", UntilSealed, "as `NORMAL_PT_UPDATE`").owned(),
];

#[rustfmt::skip] // a table
const MMUEXT: &[Door] = &[
    row(0, "PIN_L1_TABLE", UntilSealed, "restore pins what was pinned").owned(),
    row(1, "PIN_L2_TABLE", UntilSealed, "restore pins what was pinned").owned(),
    row(2, "PIN_L3_TABLE", UntilSealed, "restore pins what was pinned").owned(),
    row(3, "PIN_L4_TABLE", UntilSealed, "the domain builder pins the root, restore what was pinned").owned(),
    row(4, "UNPIN_TABLE", UntilSealed, "then the page can change its type").owned(),
    row(5, "NEW_BASEPTR", UntilSealed, "Xen takes it of the caller alone").owned(),
    row(6, "TLB_FLUSH_LOCAL", UntilSealed, "Xen takes it of the caller alone"),
    row(7, "INVLPG_LOCAL", UntilSealed, "Xen takes it of the caller alone"),
    row(8, "TLB_FLUSH_MULTI", UntilSealed, "Xen takes it of the caller alone"),
    row(9, "INVLPG_MULTI", UntilSealed, "Xen takes it of the caller alone"),
    row(10, "TLB_FLUSH_ALL", UntilSealed, "Xen takes it of the caller alone"),
    row(11, "INVLPG_ALL", UntilSealed, "Xen takes it of the caller alone"),
    row(12, "FLUSH_CACHE", UntilSealed, "Xen takes it of the caller alone"),
    row(13, "SET_LDT", UntilSealed, "Xen takes it of the caller alone"),
    row(15, "NEW_USER_BASEPTR", UntilSealed, "Xen takes it of the caller alone").owned(),
    row(16, "CLEAR_PAGE", Never, "destroys a page without mapping it; no stock tool does").owned(),
    row(17, "COPY_PAGE", Never, "copies a private page over a plain one; no stock tool does").owned(),
    row(18, "FLUSH_CACHE_GLOBAL", UntilSealed, "Xen takes it of the caller alone"),
    row(19, "MARK_SUPER", UntilSealed, "Xen does not implement it any more").owned(),
    row(20, "UNMARK_SUPER", UntilSealed, "Xen does not implement it any more").owned(),
];

#[rustfmt::skip] // a table
const GRANT_TABLE: &[Door] = &[
    row(0, "map_grant_ref", Hooked, "of a frame that the guest granted; counted, and at the first unpause there is none but the rings"),
    row(1, "unmap_grant_ref", Hooked, "counted"),
    row(2, "setup_table", UntilSealed, "grows a domain's table and names its frames").only("another domain's table"),
    row(3, "dump_table", Absent(""), "was removed from Xen"),
    row(4, "transfer", Allowed, "gives a page of the caller's to who asked for one").owned(),
    row(5, "copy", Allowed, "between the caller's frames and what was granted to it").owned(),
    row(6, "query_size", Allowed, "how large a table is"),
    row(7, "unmap_and_replace", Hooked, "counted"),
    row(8, "set_version", Own, "the caller's table"),
    row(9, "get_status_frames", UntilSealed, "grows a domain's table and names its frames").only("another domain's table"),
    row(10, "get_version", Allowed, "1 or 2"),
    row(11, "swap_grant_ref", Own, "the caller's table"),
    row(12, "cache_flush", Allowed, "of what is the caller's or granted to it").owned(),
];

#[rustfmt::skip] // a table
const VCPU: &[Door] = &[
    row(0, "initialise", Own, "a vCPU of the caller's"),
    row(1, "up", Own, "a vCPU of the caller's"),
    row(2, "down", Own, "a vCPU of the caller's"),
    row(3, "is_up", Own, "a vCPU of the caller's"),
    row(4, "get_runstate_info", Own, "a vCPU of the caller's"),
    row(5, "register_runstate_memory_area", Own, "Xen writes it past log-dirty, which the threat model names (R5)"),
    row(6, "set_periodic_timer", Own, "a vCPU of the caller's"),
    row(7, "stop_periodic_timer", Own, "a vCPU of the caller's"),
    row(8, "set_singleshot_timer", Own, "a vCPU of the caller's"),
    row(9, "stop_singleshot_timer", Own, "a vCPU of the caller's"),
    row(10, "register_vcpu_info", Own, "Xen writes it past log-dirty, which the threat model names (R5)"),
    row(11, "send_nmi", Own, "a vCPU of the caller's"),
    row(12, "get_physid", Own, "a vCPU of the caller's"),
    row(13, "register_vcpu_time_memory_area", Own, "Xen writes it past log-dirty, which the threat model names (R5)"),
    row(14, "register_runstate_phys_area", Own, "Xen writes it past log-dirty, which the threat model names (R5)"),
    row(15, "register_vcpu_time_phys_area", Own, "Xen writes it past log-dirty, which the threat model names (R5)"),
];

#[rustfmt::skip] // a table
const SCHED: &[Door] = &[
    row(0, "yield", Own, "the caller's vCPU"),
    row(1, "block", Own, "the caller's vCPU"),
    row(2, "shutdown", Hooked, "the guest's own suspend, by which alone a domain becomes Suspended"),
    row(3, "poll", Own, "the caller's vCPU"),
    row(4, "remote_shutdown", UntilSealed, "dom0 could stop the guest at an instruction of its choice and save it").only("a suspend"),
    row(5, "shutdown_code", Own, "the caller's"),
    row(6, "watchdog", Own, "the caller's"),
    row(7, "pin_override", Own, "the caller's vCPU, dom0's alone"),
];

#[rustfmt::skip] // a table
const EVENT_CHANNEL: &[Door] = &[
    row(0, "bind_interdomain", Allowed, "to a port that the other side opened"),
    row(1, "bind_virq", Own, "the caller's ports"),
    row(2, "bind_pirq", Own, "the caller's ports"),
    row(3, "close", Own, "the caller's ports"),
    row(4, "send", Own, "the caller's ports"),
    row(5, "status", Allowed, "which ports a domain has: `lsevtchn`"),
    row(6, "alloc_unbound", Allowed, "opens a port in a domain: libxl does for console and xenstore"),
    row(7, "bind_ipi", Own, "the caller's ports"),
    row(8, "bind_vcpu", Own, "the caller's ports"),
    row(9, "unmask", Own, "the caller's ports"),
    row(10, "reset", Allowed, "closes a domain's ports; availability is not promised"),
    row(11, "init_control", Own, "the caller's ports"),
    row(12, "expand_array", Own, "the caller's ports"),
    row(13, "set_priority", Own, "the caller's ports"),
    row(14, "reset_cont", Allowed, "the second half of a reset"),
];

#[rustfmt::skip] // a table
const PHYSDEV: &[Door] = &[
    row(5, "irq_status_query", Own, "the caller's interrupts"),
    row(6, "set_iopl", Own, "the caller's"),
    row(7, "set_iobitmap", Own, "the caller's"),
    row(8, "apic_read", Allowed, "I/O APICs, dom0's alone"),
    row(9, "apic_write", Host, "writes to an I/O APIC by a pin that nobody bounds; Linux's PV dom0 does not"),
    row(10, "alloc_irq_vector", Allowed, "dom0's alone"),
    row(11, "free_irq_vector", Absent(""), "does nothing"),
    row(12, "eoi", Own, "the caller's interrupts"),
    row(13, "map_pirq", Never, "no devices for protected domains").only("another domain's").devices(),
    row(14, "unmap_pirq", Allowed, "takes away what it cannot have"),
    row(15, "manage_pci_add", Allowed, "tells Xen of a device: dom0's kernel does at boot"),
    row(16, "manage_pci_remove", Allowed, "tells Xen that a device went"),
    row(17, "pirq_eoi_gmfn_v1", Own, "a page of the caller's"),
    row(19, "restore_msi", Allowed, "what Xen itself had set up"),
    row(20, "manage_pci_add_ext", Allowed, "tells Xen of a device"),
    row(21, "setup_gsi", Allowed, "polarity and trigger of an interrupt line"),
    row(23, "get_free_pirq", Own, "the caller's numbers"),
    row(24, "pci_mmcfg_reserved", Allowed, "which of the places that Xen found in ACPI's tables are configuration space; another address is refused").known(),
    row(25, "pci_device_add", Allowed, "tells Xen of a device; one that is in use does not change its kind (`devices.c`)"),
    row(26, "pci_device_remove", Allowed, "tells Xen that a device went; not one whose interrupts are in use, or Xen's own (`devices.c`)"),
    row(27, "restore_msi_ext", Allowed, "what Xen itself had set up"),
    row(28, "pirq_eoi_gmfn_v2", Own, "a page of the caller's"),
    row(29, "dbgp_op", Allowed, "the debug port behind Xen's console, which is told of resets"),
    row(30, "prepare_msix", Allowed, "a device that changes hands; where its table may be is checked (`devices.c`)").devices(),
    row(31, "release_msix", Allowed, "a device that changes hands"),
    row(32, "pci_device_reset", Allowed, "Xen forgets what it knew of the device"),
];

#[rustfmt::skip] // a table
const HVM: &[Door] = &[
    row(0, "set_param", NotPv, "parameters"),
    row(1, "get_param", NotPv, "parameters"),
    row(2, "set_pci_intx_level", NotPv, "interrupts"),
    row(3, "set_isa_irq_level", NotPv, "interrupts"),
    row(4, "set_pci_link_route", NotPv, "interrupts"),
    row(5, "flush_tlbs", Own, "the caller's TLBs"),
    row(9, "pagetable_dying", Own, "a hint about the caller's page tables"),
    row(10, "get_time", Own, "the time"),
    row(11, "xentrace", Own, "the caller's words into a trace that is not kept"),
    row(12, "set_mem_access", NotPv, "an old way to memory op `access_op`"),
    row(13, "get_mem_access", NotPv, "an old way to memory op `access_op`"),
    row(15, "get_mem_type", NotPv, "types of pages"),
    row(23, "set_evtchn_upcall_vector", Own, "the caller's vCPU"),
    row(24, "guest_request_vm_event", Own, "the caller's wish to be looked at"),
    row(25, "altp2m", NotPv, "other views of memory"),
];

#[rustfmt::skip] // a table
const DM: &[Door] = &[
    row(1, "create_ioreq_server", NotPv, "emulated devices"),
    row(2, "get_ioreq_server_info", NotPv, "emulated devices"),
    row(3, "map_io_range_to_ioreq_server", NotPv, "emulated devices"),
    row(4, "unmap_io_range_from_ioreq_server", NotPv, "emulated devices"),
    row(5, "set_ioreq_server_state", NotPv, "emulated devices"),
    row(6, "destroy_ioreq_server", NotPv, "emulated devices"),
    row(7, "track_dirty_vram", NotPv, "emulated displays"),
    row(8, "set_pci_intx_level", NotPv, "interrupts"),
    row(9, "set_isa_irq_level", NotPv, "interrupts"),
    row(10, "set_pci_link_route", NotPv, "interrupts"),
    row(11, "modified_memory", NotPv, "log-dirty"),
    row(12, "set_mem_type", NotPv, "types of pages"),
    row(13, "inject_event", NotPv, "exceptions"),
    row(14, "inject_msi", NotPv, "interrupts"),
    row(15, "map_mem_type_to_ioreq_server", NotPv, "emulated devices"),
    row(16, "remote_shutdown", NotPv, "a suspend at an instruction of the device model's choice"),
    row(17, "relocate_memory", NotPv, "moves pages"),
    row(18, "pin_memory_cacheattr", NotPv, "cache attributes"),
    row(19, "set_irq_level", Absent(""), "Arm"),
    row(20, "nr_vcpus", NotPv, "how many vCPUs there are"),
];

#[rustfmt::skip] // a table
const PMU: &[Door] = &[
    row(0, "mode_get", Allowed, "which mode is on"),
    row(1, "mode_set", Host, "in mode `all` dom0 samples the registers of every guest"),
    row(2, "feature_get", Allowed, "which features are on"),
    row(3, "feature_set", Host, "branch traces"),
    row(4, "init", Own, "the caller's counters, if Xen was booted with `vpmu`"),
    row(5, "finish", Own, "the caller's counters"),
    row(6, "lvtpc_set", Own, "the caller's counters"),
    row(7, "flush", Own, "the caller's counters"),
];

#[rustfmt::skip] // a table
const HYPFS: &[Door] = &[
    row(0, "get_version", Allowed, "a number"),
    row(1, "read", Allowed, "Xen's configuration and parameters"),
    row(2, "write_contents", Host, "changes Xen's parameters at run time, mitigations included"),
];

#[rustfmt::skip] // a table
const MCA: &[Door] = &[
    row(1, "fetch", Allowed, "reports of broken hardware; a report may hold the address of an access"),
    row(2, "notifydomain", Absent(""), "was removed from Xen"),
    row(3, "physcpuinfo", Allowed, "numbers and features of CPUs"),
    row(4, "msrinject", Host, "makes up machine checks"),
    row(5, "mceinject", Host, "makes up machine checks"),
    row(6, "inject_v2", Host, "makes up machine checks"),
];

#[rustfmt::skip] // a table
const DEBUG_KEYS: &[Door] = &[
    row(b'*' as u32, "*", Hooked, "all diagnostics at once; each is allowed by itself"),
    row(b'+' as u32, "+", Allowed, "more log"),
    row(b'-' as u32, "-", Allowed, "less log; refusals are counted all the same"),
    row(b'0' as u32, "0", Hooked, "dom0's registers; Xen's stack is hidden (0011)"),
    row(b'A' as u32, "A", Allowed, "another order of CPUs in dumps"),
    row(b'C' as u32, "C", Absent("CONFIG_KEXEC"), "runs the crash kernel over all memory"),
    row(b'D' as u32, "D", Allowed, "frames of HVM guests, which are not protected"),
    row(b'G' as u32, "G", Allowed, "which log is printed"),
    row(b'H' as u32, "H", Allowed, "free memory"),
    row(b'I' as u32, "I", Allowed, "interrupts of HVM guests"),
    row(b'K' as u32, "K", Host, "shows the host's public key and holds back what dom0 prints: for whoever types at the serial line"),
    row(b'L' as u32, "L", Absent("CONFIG_DEBUG_LOCK_PROFILE"), "counts of locks"),
    row(b'M' as u32, "M", Allowed, "interrupts of devices"),
    row(b'N' as u32, "N", Host, "sends a CPU a non-maskable interrupt"),
    row(b'O' as u32, "O", Absent(""), "checks shadow tables, in builds that have it compiled in"),
    row(b'P' as u32, "P", Absent("CONFIG_PERF_COUNTERS"), "counters"),
    row(b'Q' as u32, "Q", Allowed, "devices"),
    row(b'R' as u32, "R", Allowed, "reboots; keys are wiped"),
    row(b'S' as u32, "S", Allowed, "throws away shadow tables; the next write of each page is noticed anew"),
    row(b'T' as u32, "T", Absent("CONFIG_DEBUG_TRACE"), "a trace of Xen's own"),
    row(b'V' as u32, "V", Allowed, "the IOMMU's tables"),
    row(b'a' as u32, "a", Allowed, "timers"),
    row(b'c' as u32, "c", Allowed, "idle states"),
    row(b'd' as u32, "d", Hooked, "registers and stacks are hidden (0011)"),
    row(b'e' as u32, "e", Allowed, "event channels"),
    row(b'g' as u32, "g", Allowed, "grants: which frames a guest shows to whom"),
    row(b'h' as u32, "h", Allowed, "the list of keys"),
    row(b'i' as u32, "i", Allowed, "interrupts"),
    row(b'l' as u32, "l", Absent("CONFIG_DEBUG_LOCK_PROFILE"), "counts of locks"),
    row(b'm' as u32, "m", Allowed, "free memory"),
    row(b'n' as u32, "n", Allowed, "counts of interrupts"),
    row(b'o' as u32, "o", Allowed, "the IOMMU's tables"),
    row(b'p' as u32, "p", Absent("CONFIG_PERF_COUNTERS"), "counters"),
    row(b'q' as u32, "q", Hooked, "domains: sizes, states, pending events; registers are hidden (0011)"),
    row(b'r' as u32, "r", Allowed, "run queues"),
    row(b's' as u32, "s", Allowed, "time stamp counters"),
    row(b't' as u32, "t", Allowed, "clocks"),
    row(b'u' as u32, "u", Allowed, "NUMA nodes: where domains' memory is"),
    row(b'v' as u32, "v", Allowed, "registers of HVM guests, which are not protected"),
    row(b'w' as u32, "w", Allowed, "the console once more"),
    row(b'x' as u32, "x", Absent("CONFIG_LIVEPATCH"), "live patches"),
    row(b'z' as u32, "z", Allowed, "I/O APICs"),
];
