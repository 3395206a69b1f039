//! Judgement of P2M leaves: the only data pages whose content decides that they are plain.
//!
//! A leaf maps 512 consecutive PFNs to MFNs. Its content tells dom0 nothing that the machine-to-phys
//! table, which dom0 may read, does not say, provided that every entry is what the M2P says. A page
//! with any other entry is private, whatever points to it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::Pfn;

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
/// of 512, and that is `base` if one is given. A leaf without any entry that tells its PFNs stands for
/// memory that is not there, wherever that is.
pub fn is_leaf(leaf: &[u64; LEAF_ENTRIES], base: Option<Pfn>, m2p: M2p<'_>) -> bool {
    let first = leaf
        .iter()
        .zip(0u64..)
        .find(|(entry, _)| **entry != INVALID && **entry & FOREIGN == 0);
    let told = match first {
        None => return leaf.iter().all(|&entry| is_absent(entry, m2p)),
        Some((&entry, index)) if entry & IDENTITY != 0 => (entry & !IDENTITY).checked_sub(index),
        Some((&entry, index)) => m2p.pfn(entry).and_then(|pfn| pfn.checked_sub(index)),
    };
    // A guest can write any number into its M2P entries: the leaf must end below the last PFN there is.
    told.is_some_and(|told| {
        told % LEAF_ENTRIES as u64 == 0
            && told.checked_add(LEAF_ENTRIES as u64).is_some()
            && base.is_none_or(|base| base.0 == told)
            && maps_from(leaf, told, m2p)
    })
}

/// PFNs that one page table of the lowest level covers where it maps a P2M.
const TABLE_PFNS: u64 = (LEAF_ENTRIES * LEAF_ENTRIES) as u64;

/// PFNs below this number are saved of a guest whose P2M covers those below `end`: libxc leaves out what the guest's last
/// page tables cover if they are all the same one, which stands for memory that is not there (Xen:
/// `tools/libs/guest/xg_sr_save_x86_pv.c`, `map_p2m_list()`). The last of them that differs
/// from the one before it is number `change`, which libxc counts from the first, but compares with the last one's `slot` in
/// the table above.
pub const fn saved_end(end: u64, change: u64, slot: u64) -> u64 {
    let tables = if change == slot {
        change.saturating_add(1)
    } else {
        change
    };
    match tables.checked_mul(TABLE_PFNS) {
        Some(saved) if saved > 0 && saved < end => saved,
        _ => end,
    }
}

/// Whether `entry` names no frame of the domain.
fn is_absent(entry: u64, m2p: M2p<'_>) -> bool {
    entry == INVALID || (entry & FOREIGN != 0 && entry & IDENTITY == 0 && m2p.pfn(entry & !FOREIGN).is_some())
}

fn maps_from(leaf: &[u64; LEAF_ENTRIES], base: u64, m2p: M2p<'_>) -> bool {
    leaf.iter().zip(base..).all(|(&entry, pfn)| {
        is_absent(entry, m2p) || entry == (pfn | IDENTITY) || m2p.pfn(entry) == Some(pfn)
    })
}
