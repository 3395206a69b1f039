//! Why a page may be shown to dom0 in clear.

/// Reason for which dom0 sees a page in clear. Everything else is private.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainClass {
    /// `shared_info` page, allocated by Xen.
    SharedInfo = 0,
    /// Grant table and status frames, allocated by Xen.
    GrantTable = 1,
    /// Validated page table of any level.
    PageTable = 2,
    /// Validated descriptor table (GDT or LDT).
    Descriptor = 3,
    /// Leaf or inner node of the P2M table, its content checked.
    P2m = 4,
    /// The `start_info` page.
    StartInfo = 5,
    /// Console or xenstore ring.
    Ring = 6,
}

impl PlainClass {
    /// Every class, in numeric order.
    /// cbindgen:ignore
    pub const ALL: [Self; 7] = [
        Self::SharedInfo,
        Self::GrantTable,
        Self::PageTable,
        Self::Descriptor,
        Self::P2m,
        Self::StartInfo,
        Self::Ring,
    ];

    /// The class with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u32 == number)
    }

    /// Short name, as the tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SharedInfo => "shared-info",
            Self::GrantTable => "grant-table",
            Self::PageTable => "page-table",
            Self::Descriptor => "descriptor",
            Self::P2m => "p2m",
            Self::StartInfo => "start-info",
            Self::Ring => "ring",
        }
    }
}
