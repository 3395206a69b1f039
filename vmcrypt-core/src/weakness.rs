//! What the machine lacks, so that dom0 gets at guests' memory in ways that VMCrypt does not control.

/// Number of a bit in [`HostInfo::weaknesses`](crate::abi::HostInfo::weaknesses).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// There is no IOMMU, or it is off.
    NoIommu = 0,
    /// The IOMMU lets dom0's devices reach all memory.
    Dom0Relaxed = 1,
    /// The IOMMU does not remap interrupts.
    NoInterruptRemapping = 2,
    /// The CPU has L1TF, and dom0 is not kept from using it.
    L1tf = 3,
    /// Some devices' accesses pass the IOMMU by.
    UntranslatedDevices = 4,
    /// The CPU has Meltdown, and a PV domain is not kept from using it.
    Meltdown = 5,
    /// Hyperthreads are on, and share buffers of a CPU that leaks them.
    Hyperthreads = 6,
    /// The CPU needs more done when dom0 enters Xen than is done.
    EntryMitigations = 7,
    /// dom0 samples itself, and Xen's work for it, by performance counters.
    PerformanceCounters = 8,
    /// dom0 writes registers of the CPU that set frequency and voltage.
    FrequencyRegisters = 9,
    /// Xen does not know which registers put the machine to sleep.
    NoAcpi = 10,
}

impl Weakness {
    /// Every one, in numeric order.
    pub const ALL: [Self; 11] = [
        Self::NoIommu,
        Self::Dom0Relaxed,
        Self::NoInterruptRemapping,
        Self::L1tf,
        Self::UntranslatedDevices,
        Self::Meltdown,
        Self::Hyperthreads,
        Self::EntryMitigations,
        Self::PerformanceCounters,
        Self::FrequencyRegisters,
        Self::NoAcpi,
    ];

    /// The weakness with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|weakness| *weakness as u32 == number)
    }

    /// Short name, as `vmcrypt status --json` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoIommu => "no-iommu",
            Self::Dom0Relaxed => "dom0-iommu-relaxed",
            Self::NoInterruptRemapping => "no-interrupt-remapping",
            Self::L1tf => "l1tf",
            Self::UntranslatedDevices => "untranslated-devices",
            Self::Meltdown => "meltdown",
            Self::Hyperthreads => "hyperthreads",
            Self::EntryMitigations => "entry-mitigations",
            Self::PerformanceCounters => "performance-counters",
            Self::FrequencyRegisters => "frequency-registers",
            Self::NoAcpi => "no-acpi",
        }
    }

    /// What follows from it, and what to do.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoIommu => {
                "no IOMMU in use: dom0 can have its devices read and write every guest's memory; enable VT-d or AMD-Vi"
            }
            Self::Dom0Relaxed => {
                "dom0's devices can read and write guests' memory; boot Xen with dom0-iommu=strict, not map-inclusive or passthrough"
            }
            Self::NoInterruptRemapping => {
                "the IOMMU does not remap interrupts: dom0's devices can raise any interrupt; enable it in the firmware"
            }
            Self::L1tf => {
                "CPU has L1TF: dom0 can read what is in the first level cache; boot Xen with pv-l1tf=1 and smt=0"
            }
            Self::UntranslatedDevices => {
                "some devices pass the IOMMU by; boot Xen without ats, iommu=no-igfx and amd-iommu-perdev-intremap=0"
            }
            Self::Meltdown => "CPU has Meltdown: a PV domain can read all memory; boot Xen with xpti=1",
            Self::Hyperthreads => {
                "CPU leaks buffers to the other hyperthread, which may be dom0's; boot Xen with smt=0"
            }
            Self::EntryMitigations => {
                "CPU leaks to dom0, which Xen trusts; boot Xen with spec-ctrl=ibpb-entry,bhb-entry,verw"
            }
            Self::PerformanceCounters => {
                "dom0 can count what Xen does while it encrypts; boot Xen without vpmu"
            }
            Self::FrequencyRegisters => {
                "dom0 sets the CPU's voltage and frequency by itself; boot Xen without cpufreq=dom0-kernel"
            }
            Self::NoAcpi => {
                "Xen finds no register that puts the machine to sleep, and keeps none from dom0; boot Xen without acpi=off"
            }
        }
    }
}
