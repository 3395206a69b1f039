//! Judgement of P2M leaves: the only data pages whose content decides that they are plain.
//!
//! A leaf maps 512 consecutive PFNs to MFNs. Its content tells dom0 nothing that the machine-to-phys
//! table, which dom0 may read, does not say, provided that every entry is what the M2P says. A page
//! with any other entry is private, whatever points to it.

use core::sync::atomic::{AtomicU64, Ordering};

/// Entries in a leaf.
pub const LEAF_ENTRIES: usize = 512;
/// Entry of a PFN without memory (Linux: `INVALID_P2M_ENTRY`, `arch/x86/include/asm/xen/page.h`).
const INVALID: u64 = u64::MAX;
/// Marks an entry that maps a PFN to the machine frame of the same number (ibid.).
const IDENTITY: u64 = 1 << 62;
/// Marks a frame of another domain, mapped by grant (ibid.); tells a frame number only.
const FOREIGN: u64 = 1 << 63;

/// Machine-to-phys table, indexed by MFN. Guests write it, so it is read atomically.
#[derive(Clone, Copy)]
pub struct M2p<'a>(pub &'a [AtomicU64]);

impl M2p<'_> {
    fn pfn(&self, mfn: u64) -> Option<u64> {
        Some(self.0.get(usize::try_from(mfn).ok()?)?.load(Ordering::Relaxed))
    }
}

/// Whether `leaf` is a P2M leaf: every entry is what it should be for some first PFN that is a multiple
/// of 512. A leaf without any entry that tells its PFNs is the one that stands for memory not there.
pub fn is_leaf(leaf: &[u64; LEAF_ENTRIES], m2p: M2p<'_>) -> bool {
    let first = leaf
        .iter()
        .zip(0u64..)
        .find(|(entry, _)| **entry != INVALID && **entry & FOREIGN == 0);
    let base = match first {
        None => Some(0),
        Some((&entry, index)) if entry & IDENTITY != 0 => (entry & !IDENTITY).checked_sub(index),
        Some((&entry, index)) => m2p.pfn(entry).and_then(|pfn| pfn.checked_sub(index)),
    };
    // A guest can write any number into its M2P entries: the leaf must end below the last PFN there is.
    base.is_some_and(|base| {
        let count = LEAF_ENTRIES as u64;
        base % count == 0 && base.checked_add(count).is_some() && maps_from(leaf, base, m2p)
    })
}

fn maps_from(leaf: &[u64; LEAF_ENTRIES], base: u64, m2p: M2p<'_>) -> bool {
    leaf.iter().zip(base..).all(|(&entry, pfn)| {
        entry == INVALID
            || entry == (pfn | IDENTITY)
            || m2p.pfn(entry) == Some(pfn)
            || (entry & FOREIGN != 0 && entry & IDENTITY == 0 && m2p.pfn(entry & !FOREIGN).is_some())
    })
}
