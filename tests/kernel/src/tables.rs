//! A GDT, an LDT and a page table for user mode: so that there are pages of these kinds.

use core::arch::asm;

use crate::memory::{Memory, address};
use crate::xen;

/// A data segment over all memory for user mode, with the bit set that is for software to use.
const DESCRIPTOR: u64 = 0x00df_f300_0000_ffff;
/// What `lar` makes of it, and which of its bits mean something.
const RIGHTS: u32 = 0x00d0_f300;
const MEANINGFUL: u32 = 0x00f0_ff00;
/// Entry 1, privilege level 3.
const GDT_SELECTOR: u16 = 1 << 3 | 3;
/// The same in the LDT.
const LDT_SELECTOR: u16 = 1 << 3 | 4 | 3;
/// Entries of a table of one page.
pub const ENTRIES: u64 = 512;

pub struct Tables {
    /// The page of the GDT.
    pub gdt: u64,
    /// The page of the LDT.
    pub ldt: u64,
    /// The root of the page tables for user mode, which are empty.
    pub user: u64,
}

impl Tables {
    /// Makes them and tells Xen of them.
    pub fn set_up(memory: &mut Memory) -> Tables {
        let (gdt, ldt) = (descriptors(memory), descriptors(memory));
        let (user, _) = memory.page();
        memory.protect(user);
        let frame = memory.mfn(gdt);
        // SAFETY: tables of ours, which nothing can write; no selector of them is in use.
        let done = unsafe {
            xen::call(xen::SET_GDT, [&raw const frame as u64, ENTRIES, 0, 0]) == 0
                && xen::mmuext(xen::SET_LDT, address(ldt), ENTRIES)
                && xen::mmuext(xen::PIN_L4, memory.mfn(user), 0)
                && xen::mmuext(xen::NEW_USER_BASEPTR, memory.mfn(user), 0)
        };
        assert!(done);
        Tables { gdt, ldt, user }
    }

    /// Writes a number into descriptors that nobody uses.
    pub fn mark(&self, memory: &Memory, number: u64) {
        const UNUSED: u64 = 4;
        for table in [self.gdt, self.ldt] {
            let place = (memory.mfn(table) << 12) | (8 * UNUSED);
            // SAFETY: a descriptor of no segment, which is not present.
            let result = unsafe { xen::call(xen::UPDATE_DESCRIPTOR, [place, number & 0xffff, 0, 0]) };
            assert!(result == 0);
        }
    }

    /// Whether the CPU finds the descriptors.
    pub fn usable(&self) -> bool {
        [GDT_SELECTOR, LDT_SELECTOR]
            .map(rights)
            .iter()
            .all(|rights| rights & MEANINGFUL == RIGHTS)
    }
}

fn descriptors(memory: &mut Memory) -> u64 {
    let (pfn, page) = memory.page();
    page[1] = DESCRIPTOR;
    memory.protect(pfn);
    pfn
}

fn rights(selector: u16) -> u32 {
    let rights: u32;
    // SAFETY: reads a descriptor; what cannot be read leaves the zero.
    unsafe {
        asm!("lar {0:e}, {1:e}", inlateout(reg) 0u32 => rights, in(reg) u32::from(selector), options(nostack))
    };
    rights
}
