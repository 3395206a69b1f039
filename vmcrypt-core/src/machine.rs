//! What of the machine itself dom0 may have.
//!
//! Xen gives its hardware domain all memory that is not RAM, and lets it name any address where it names a device's. Both
//! reach further than devices: Xen keeps code of its own in low memory and calls the firmware's.

/// What lies at some frames of the machine: the bits of everything that is found there.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frames(pub u32);

impl Frames {
    /// Whole pages of RAM from 1 MiB on: Xen's, domains', or free.
    pub const RAM: Self = Self(1 << 0);
    /// The code that CPUs run when they come up, in real mode and with Xen's rights.
    pub const TRAMPOLINE: Self = Self(1 << 1);
    /// Code and data of the firmware that Xen calls.
    pub const FIRMWARE: Self = Self(1 << 2);

    /// Whether only a device's memory can be there, or nothing.
    pub const fn are_a_device(self) -> bool {
        self.0 == 0
    }

    /// What dom0 may do with them by their address alone, be it in page tables or through a device.
    ///
    /// What Xen runs there it may read: Linux looks through low memory for tables of the firmware, and does not start if a
    /// page is missing.
    pub const fn right(self) -> Right {
        const CODE: u32 = Frames::TRAMPOLINE.0 | Frames::FIRMWARE.0;
        if self.are_a_device() {
            Right::All
        } else if self.0 & !CODE == 0 {
            Right::Read
        } else {
            // Unknown bits, too.
            Right::Nothing
        }
    }
}

/// A right to frames.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// None.
    Nothing = 0,
    /// To read them.
    Read = 1,
    /// To read and to write them.
    All = 2,
}

/// The bit that puts the machine to sleep in the one byte of a register that has it: SLP_EN is bit 13 of PM1a_CNT and
/// PM1b_CNT, and bit 5 of the 8-bit sleep control register (ACPI 6.5, 4.8.3.2 and 4.8.3.7).
pub const SLEEP_ENABLE: u8 = 1 << 5;
