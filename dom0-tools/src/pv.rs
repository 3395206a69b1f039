//! Structures of a 64-bit PV guest that the toolstack reads, as laid out in Xen's public headers.

use crate::content::PAGE;

/// Size of `struct vcpu_guest_context` (`public/arch-x86/xen.h`).
pub const CONTEXT_BYTES: usize = 5168;

/// Register `rdx` in it, which names `start_info` at a suspend: after 512 bytes of FPU state, the flags and twelve
/// registers.
pub(crate) const RDX: usize = 512 + 8 + 12 * 8;
/// After 200 bytes of registers, 256 traps and the LDT.
pub(crate) const GDT_FRAMES: usize = 512 + 8 + 200 + 256 * 16 + 2 * 8;
pub(crate) const GDT_ENTS: usize = GDT_FRAMES + 16 * 8;

/// In `struct start_info` (`public/xen.h`).
pub(crate) const STORE_MFN: usize = 56;
pub(crate) const CONSOLE_MFN: usize = 72;
const MAGIC: &[u8] = b"xen-3.0-x86_64\0";

/// Frames that hold the GDT of the vCPU with this context; machine frames, or PFNs in a save image.
pub fn gdt_frames(context: &[u8]) -> impl Iterator<Item = u64> + use<> {
    let entries = le64(context, GDT_ENTS).unwrap_or(0).min(16 * 512);
    let frames: Vec<u64> = (0..entries.div_ceil(512) as usize)
        .filter_map(|i| le64(context, GDT_FRAMES + 8 * i))
        .collect();
    frames.into_iter()
}

/// Whether a page looks like `start_info`.
pub fn is_start_info(page: &[u8; PAGE]) -> bool {
    page.starts_with(MAGIC)
}

/// Frames of the xenstore and the console ring that a `start_info` page names.
pub fn rings(start_info: &[u8; PAGE]) -> [u64; 2] {
    [STORE_MFN, CONSOLE_MFN].map(|at| le64(start_info, at).unwrap_or(u64::MAX))
}

/// Whether every entry of a page is a frame of the guest's, an identity mapping of Linux, or none at all.
pub fn is_p2m(page: &[u8; PAGE], owned: impl Fn(u64) -> bool) -> bool {
    const IDENTITY: u64 = 1 << 62;
    page.as_chunks::<8>()
        .0
        .iter()
        .map(|entry| u64::from_le_bytes(*entry))
        .all(|entry| {
            entry == u64::MAX || owned(entry) || (entry & IDENTITY != 0 && entry & !IDENTITY < 1 << 40)
        })
}

/// A little-endian word, if it lies within.
pub(crate) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
