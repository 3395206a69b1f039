//! A page that dom0 may see in clear as a P2M leaf is one by its definition, read without any cleverness.

#![no_main]

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use libfuzzer_sys::fuzz_target;
use vmcrypt_core::p2m::{LEAF_ENTRIES, M2p, is_leaf};

const MFNS: u64 = 2048;
const INVALID: u64 = u64::MAX;
const IDENTITY: u64 = 1 << 62;
const FOREIGN: u64 = 1 << 63;

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, base], changes)) = bytes.split_first_chunk() else {
        return;
    };
    let base = u64::from(base % 4) * 128;
    let mut m2p: Vec<u64> = (0..MFNS).map(|mfn| mfn ^ 0x2a).collect();
    // A leaf that is right or nearly so, then changes of single entries of leaf and M2P.
    let mut leaf = [INVALID; LEAF_ENTRIES];
    if kind & 1 != 0 {
        for (index, entry) in leaf.iter_mut().enumerate() {
            *entry = (base + index as u64) ^ 0x2a;
        }
    }
    for change in changes.chunks_exact(4) {
        let value = u64::from(u16::from_le_bytes([change[2], change[3]]));
        let index = u16::from_le_bytes([change[0], change[1] & 1]) as usize;
        let pfn = base + index as u64;
        leaf[index] = match change[1] >> 1 & 7 {
            0 => INVALID,
            1 => value | IDENTITY,
            2 => pfn | IDENTITY,
            3 => value | FOREIGN,
            4 => pfn ^ 0x2a,
            5 => value << 47 | value,
            6 => {
                m2p[value as usize % MFNS as usize] = pfn;
                value
            }
            _ => value,
        };
    }
    let table: Vec<_> = m2p.iter().map(|pfn| AtomicU64::new(*pfn)).collect();
    let plain = is_leaf(&leaf, None, M2p(&table));
    if plain {
        assert!(defined(&leaf, &m2p), "a page that is no leaf was taken for one");
    } else {
        assert!(!strictly_defined(&leaf, &m2p), "a leaf was not taken for one");
    }
});

/// Every entry is nothing, its own PFN's identity, a frame whose M2P entry is its PFN, or a foreign frame's number.
fn defined(leaf: &[u64; LEAF_ENTRIES], m2p: &[u64]) -> bool {
    bases(leaf, m2p).into_iter().any(|base| {
        leaf.iter().zip(base..).all(|(&entry, pfn)| {
            entry == INVALID
                || entry == pfn | IDENTITY
                || m2p.get(entry as usize) == Some(&pfn)
                || entry >> 62 == 2 && ((entry & !FOREIGN) as usize) < m2p.len()
        })
    })
}

/// The same without foreign frames: those may be refused, the others never.
fn strictly_defined(leaf: &[u64; LEAF_ENTRIES], m2p: &[u64]) -> bool {
    !leaf.iter().any(|entry| entry >> 62 == 2) && defined(leaf, m2p)
}

/// First PFNs that any entry speaks for.
fn bases(leaf: &[u64; LEAF_ENTRIES], m2p: &[u64]) -> BTreeSet<u64> {
    let told = leaf
        .iter()
        .flat_map(|&entry| [Some(entry & !IDENTITY), m2p.get(entry as usize).copied()]);
    let bases = told
        .flatten()
        .map(|pfn| pfn - pfn % LEAF_ENTRIES as u64)
        .chain([0]);
    bases
        .filter(|base| base.checked_add(LEAF_ENTRIES as u64).is_some())
        .collect()
}
