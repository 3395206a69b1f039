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
}

impl Weakness {
    /// Every one, in numeric order.
    pub const ALL: [Self; 4] = [
        Self::NoIommu,
        Self::Dom0Relaxed,
        Self::NoInterruptRemapping,
        Self::L1tf,
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
        }
    }

    /// What follows from it, and what to do.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoIommu => {
                "no IOMMU in use: dom0 can have its devices read and write every guest's memory; enable VT-d or AMD-Vi"
            }
            Self::Dom0Relaxed => {
                "dom0's devices can read and write every guest's memory; boot Xen with dom0-iommu=strict"
            }
            Self::NoInterruptRemapping => {
                "the IOMMU does not remap interrupts: dom0's devices can raise any interrupt; enable it in the firmware"
            }
            Self::L1tf => {
                "CPU has L1TF: dom0 can read what is in the first level cache; boot Xen with pv-l1tf=dom0 and smt=0"
            }
        }
    }
}
