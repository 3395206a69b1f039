//! Structures of a 64-bit PV guest that the toolstack reads, as laid out in Xen's public headers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::content::PAGE;

/// Size of `struct vcpu_guest_context` (`public/arch-x86/xen.h`).
pub const CONTEXT_BYTES: usize = 5168;

/// Register `rdx` in it, which names `start_info` at a suspend: after 512 bytes of FPU state, the flags and twelve
/// registers.
pub(crate) const RDX: usize = 512 + 8 + 12 * 8;
/// After 200 bytes of registers, 256 traps and the LDT.
pub(crate) const GDT_FRAMES: usize = 512 + 8 + 200 + 256 * 16 + 2 * 8;
pub(crate) const GDT_ENTS: usize = GDT_FRAMES + 16 * 8;
/// After the kernel's stack, the fourth control register.
const CR3: usize = GDT_ENTS + 8 + 2 * 8 + 3 * 8;

/// In `struct start_info` (`public/xen.h`).
/// Frame of the xenstore ring.
pub const STORE_MFN: usize = 56;
/// Frame of the console ring.
pub const CONSOLE_MFN: usize = 72;
pub(crate) const MAGIC: &[u8] = b"xen-3.0-x86_64\0";

/// Frames that hold the GDT of the vCPU with this context; machine frames, or PFNs in a save image.
pub fn gdt_frames(context: &[u8]) -> impl Iterator<Item = u64> + use<> {
    let entries = le64(context, GDT_ENTS).unwrap_or(0).min(16 * 512);
    let frames: Vec<u64> = (0..entries.div_ceil(512) as usize)
        .filter_map(|i| le64(context, GDT_FRAMES + 8 * i))
        .collect();
    frames.into_iter()
}

/// Frame of the page table that the vCPU with this context uses.
pub fn root(context: &[u8]) -> Option<u64> {
    le64(context, CR3).map(|cr3| cr3 >> 12)
}

/// Whether a page looks like `start_info`.
pub fn is_start_info(page: &[u8; PAGE]) -> bool {
    page.starts_with(MAGIC)
}

/// Frames of the xenstore and the console ring that a `start_info` page names.
pub fn rings(start_info: &[u8; PAGE]) -> [u64; 2] {
    [STORE_MFN, CONSOLE_MFN].map(|at| le64(start_info, at).unwrap_or(u64::MAX))
}

/// Whether every entry of a page is a frame of the guest's, Linux's identity mapping of its own place, or none at all:
/// such a page tells nobody anything.
pub fn is_p2m(page: &[u8; PAGE], owned: impl Fn(u64) -> bool) -> bool {
    const IDENTITY: u64 = 1 << 62;
    let mut base = None;
    let (entries, _) = page.as_chunks::<8>();
    entries
        .iter()
        .map(|entry| u64::from_le_bytes(*entry))
        .zip(0..)
        .all(|(entry, place)| {
            let identity = entry & IDENTITY != 0 && {
                let first = (entry & !IDENTITY).wrapping_sub(place);
                first % ENTRIES == 0 && *base.get_or_insert(first) == first
            };
            entry == u64::MAX || identity || owned(entry)
        })
}

/// Reads a guest's P2M table, machine frames by PFN, as libxc does: through the page tables that `shared_info` names.
///
/// `read` reads a machine frame. `None` if the guest has not set the table up, or if it leads nowhere.
pub fn p2m(shared_info: &[u8; PAGE], mut read: impl FnMut(u64) -> Option<[u8; PAGE]>) -> Option<Vec<u64>> {
    let pages = le64(shared_info, MAX_PFN)?;
    let (cr3, start) = (le64(shared_info, P2M_CR3)?, le64(shared_info, P2M_VADDR)?);
    if cr3 == 0 || pages == 0 || pages > MOST_PAGES || start % PAGE as u64 != 0 {
        return None;
    }
    let mut tables: HashMap<u64, [u8; PAGE]> = HashMap::new();
    let mut table = Vec::new();
    for leaf in 0..pages.div_ceil(ENTRIES) {
        let address = start.checked_add(leaf * PAGE as u64)?;
        let mut frame = cr3 >> 12;
        for level in [39, 30, 21, 12] {
            let page = match tables.entry(frame) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(read(frame)?),
            };
            let entry = le64(page, (address >> level) as usize % 512 * 8)?;
            if entry & PRESENT == 0 {
                return None;
            }
            frame = (entry & ADDRESS) >> 12;
        }
        let page = read(frame)?;
        table.extend(
            page.as_chunks::<8>()
                .0
                .iter()
                .map(|entry| u64::from_le_bytes(*entry)),
        );
    }
    table.truncate(pages as usize);
    Some(table)
}

/// In `struct shared_info` (`public/xen.h`): 32 vCPUs of 64 bytes, two event channel bitmaps of 512, 16 bytes of time,
/// then `struct arch_shared_info`.
const MAX_PFN: usize = 32 * 64 + 2 * 512 + 16;
const P2M_CR3: usize = MAX_PFN + 3 * 8;
const P2M_VADDR: usize = P2M_CR3 + 8;
const ENTRIES: u64 = PAGE as u64 / 8;
/// 512 GiB: bounds what a guest can make us allocate.
const MOST_PAGES: u64 = 1 << 27;
const PRESENT: u64 = 1;
const ADDRESS: u64 = ((1 << 52) - 1) & !(PAGE as u64 - 1);

/// A little-endian word, if it lies within.
pub(crate) fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest of 1,000 pages whose P2M lies in frames 50 and 51, with page tables in 10 to 13.
    fn guest() -> (HashMap<u64, [u8; PAGE]>, [u8; PAGE]) {
        const START: u64 = 0xffff_c900_0000_0000;
        let mut memory = HashMap::from([10, 11, 12, 13, 50, 51].map(|frame| (frame, [0; PAGE])));
        let mut put = |frame: u64, index: u64, entry: u64| {
            let page = memory.get_mut(&frame).expect("a frame");
            page[index as usize * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        };
        put(10, START >> 39 & 511, 11 << 12 | PRESENT);
        put(11, START >> 30 & 511, 12 << 12 | PRESENT);
        put(12, START >> 21 & 511, 13 << 12 | PRESENT | 1 << 63);
        put(13, 0, 50 << 12 | PRESENT);
        put(13, 1, 51 << 12 | PRESENT);
        (0..512).for_each(|i| put(50, i, 1000 + i));
        (0..512).for_each(|i| put(51, i, 2000 + i));
        let mut shared_info = [0; PAGE];
        for (at, value) in [(MAX_PFN, 1000), (P2M_CR3, 10 << 12), (P2M_VADDR, START)] {
            shared_info[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        (memory, shared_info)
    }

    #[test]
    fn a_p2m_page_has_room_for_nothing_else() {
        let page = |entry: &dyn Fn(u64) -> u64| {
            let mut page = [0; PAGE];
            for (chunk, i) in page.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
                *chunk = entry(i).to_le_bytes();
            }
            page
        };
        let owned = |mfn| (1000..2000).contains(&mfn);
        assert!(is_p2m(&page(&|i| 1000 + i), owned));
        assert!(is_p2m(&page(&|_| u64::MAX), owned));
        assert!(is_p2m(&page(&|i| 1 << 62 | (5120 + i)), owned));
        assert!(is_p2m(&page(&|i| if i < 9 { 1234 } else { 1 << 62 | i }), owned));
        assert!(!is_p2m(&page(&|i| 1600 + i), owned), "a frame of somebody else's");
        assert!(
            !is_p2m(&page(&|i| 1 << 62 | (5121 + i)), owned),
            "an identity of another place"
        );
        assert!(
            !is_p2m(&page(&|i| 1 << 62 | (512 * i + i)), owned),
            "several bases"
        );
        assert!(!is_p2m(&[b'x'; PAGE], owned));
    }

    #[test]
    fn the_p2m_is_found_through_shared_info() {
        let (memory, shared_info) = guest();
        let p2m = p2m(&shared_info, |frame| memory.get(&frame).copied()).expect("a P2M");
        assert_eq!(
            (p2m.len(), p2m[0], p2m[511], p2m[512], p2m[999]),
            (1000, 1000, 1511, 2000, 2487)
        );
    }

    #[test]
    fn a_p2m_that_leads_nowhere_is_none() {
        for missing in [10, 12, 51] {
            let (mut memory, shared_info) = guest();
            memory.remove(&missing);
            assert_eq!(p2m(&shared_info, |frame| memory.get(&frame).copied()), None);
        }
        for (at, value) in [
            (MAX_PFN, 1 << 40),
            (P2M_CR3, 0),
            (P2M_VADDR, u64::MAX - 4095),
            (P2M_VADDR, 1),
        ] {
            let (memory, mut shared_info) = guest();
            shared_info[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            assert_eq!(
                p2m(&shared_info, |frame| memory.get(&frame).copied()),
                None,
                "{at} {value:#x}"
            );
        }
    }
}
