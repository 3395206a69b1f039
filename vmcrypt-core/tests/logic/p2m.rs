//! Which pages count as P2M leaves, and why the others do not.

use crate::config;
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;
use vmcrypt_core::Pfn;
use vmcrypt_core::p2m::{LEAF_ENTRIES, M2p, is_leaf, saved_end};

const INVALID: u64 = u64::MAX;
const IDENTITY: u64 = 1 << 62;
const FOREIGN: u64 = 1 << 63;
/// Frames of the machine.
const MFNS: u64 = 4096;

type Leaf = [u64; LEAF_ENTRIES];

/// A machine whose M2P is a permutation without a pattern that a leaf would share by chance.
struct Machine(Vec<AtomicU64>);

impl Machine {
    fn new() -> Self {
        Self((0..MFNS).map(|mfn| AtomicU64::new(pfn_of(mfn))).collect())
    }

    fn set(&mut self, mfn: u64, pfn: u64) {
        *self.0[mfn as usize].get_mut() = pfn;
    }

    fn takes(&self, leaf: &Leaf) -> bool {
        is_leaf(leaf, None, M2p(&self.0))
    }

    fn takes_at(&self, base: u64, leaf: &Leaf) -> bool {
        is_leaf(leaf, Some(Pfn(base)), M2p(&self.0))
    }
}

fn pfn_of(mfn: u64) -> u64 {
    mfn.wrapping_mul(5).wrapping_add(3) % MFNS
}

fn mfn_of(pfn: u64) -> u64 {
    // 5 * 3277 = 16385 = 1 modulo 4096.
    (pfn % MFNS).wrapping_sub(3).wrapping_mul(3277) % MFNS
}

fn real(base: u64) -> Leaf {
    std::array::from_fn(|index| mfn_of(base + index as u64))
}

#[test]
fn the_model_s_m2p_is_a_permutation() {
    assert!((0..MFNS).all(|mfn| mfn_of(pfn_of(mfn)) == mfn));
}

#[test]
fn a_real_leaf_is_taken() {
    let machine = Machine::new();
    for base in (0..MFNS).step_by(LEAF_ENTRIES) {
        assert!(machine.takes(&real(base)), "base {base}");
    }
}

/// A leaf holds PFNs from a multiple of 512 on; shifted by one it is some other array of the guest.
#[test]
fn a_leaf_from_elsewhere_is_not_taken() {
    let machine = Machine::new();
    for base in [1, 8, 256, 511, 513] {
        assert!(!machine.takes(&real(base)), "base {base}");
    }
}

/// Where the walk knows for which PFNs a leaf must stand, no other leaf will do, but for the one of absent memory.
#[test]
fn a_leaf_of_other_pfns_is_not_taken() {
    let machine = Machine::new();
    for base in (0..MFNS).step_by(LEAF_ENTRIES) {
        let identity: Leaf = std::array::from_fn(|index| (base + index as u64) | IDENTITY);
        for at in [0, 1, 511, 512, 1024, MFNS, u64::MAX - 511, u64::MAX] {
            assert_eq!(machine.takes_at(at, &real(base)), at == base, "{base} at {at}");
            assert_eq!(
                machine.takes_at(at, &identity),
                at == base,
                "identity of {base} at {at}"
            );
            assert!(machine.takes_at(at, &[INVALID; LEAF_ENTRIES]));
        }
    }
}

/// What a leaf may say of a PFN: nothing, itself, its frame, a frame of another domain. All of that is in
/// the M2P, which dom0 may read, or says that there is nothing.
#[test]
fn every_single_entry_may_be_absent_or_identity_or_foreign() {
    let machine = Machine::new();
    for index in 0..LEAF_ENTRIES {
        for entry in [INVALID, (512 + index as u64) | IDENTITY, 77 | FOREIGN, FOREIGN] {
            let mut leaf = real(512);
            leaf[index] = entry;
            assert!(machine.takes(&leaf), "{entry:#x} at {index}");
        }
    }
}

/// One wrong entry, wherever it is, and the page is private.
#[test]
fn any_single_entry_of_anything_else_makes_it_private() {
    let machine = Machine::new();
    for index in 0..LEAF_ENTRIES {
        let pfn = 512 + index as u64;
        let wrong = [
            0x6d6f_6f72_7465_7473, // text
            mfn_of(pfn) + 1,       // a neighbour's frame
            mfn_of(pfn ^ 1),
            mfn_of(pfn ^ 512),   // the same place in another leaf
            MFNS,                // beyond the machine
            INVALID - 1,         // nearly absent
            pfn | IDENTITY << 1, // foreign, but beyond the machine: see below
            (pfn + 1) | IDENTITY,
            pfn ^ 512 | IDENTITY,
            IDENTITY | FOREIGN,
            pfn | IDENTITY | FOREIGN,
            MFNS | FOREIGN,
        ];
        for entry in wrong {
            let mut leaf = real(512);
            leaf[index] = entry;
            // The one of the list that is a foreign frame's number after all.
            let foreign = entry == pfn | FOREIGN;
            assert_eq!(machine.takes(&leaf), foreign, "{entry:#x} at {index}");
        }
    }
}

/// Linux keeps such leaves for memory that is not there. They show that a page is all ones, and that is all.
#[test]
fn a_page_of_ones_is_the_leaf_of_absent_memory() {
    assert!(Machine::new().takes(&[INVALID; LEAF_ENTRIES]));
    assert!(is_leaf(&[INVALID; LEAF_ENTRIES], None, M2p(&[])));
}

/// Likewise for memory mapped as on the machine: nothing but the first PFN can be read off it.
#[test]
fn an_identity_leaf_is_taken() {
    let machine = Machine::new();
    for base in [0, 512, 0xa0000, 1 << 30] {
        let mut leaf: Leaf = std::array::from_fn(|index| (base + index as u64) | IDENTITY);
        assert!(machine.takes(&leaf), "base {base:#x}");
        leaf.swap(3, 4);
        assert!(!machine.takes(&leaf));
    }
    // From a first PFN that is none of a leaf's.
    let leaf: Leaf = std::array::from_fn(|index| (1 + index as u64) | IDENTITY);
    assert!(!machine.takes(&leaf));
}

/// The commonest page of all. Frame 0 can be one PFN only, not 512.
#[test]
fn a_zero_page_is_private() {
    assert!(!Machine::new().takes(&[0; LEAF_ENTRIES]));
    let mut machine = Machine::new();
    for pfn in [0, 512, u64::MAX] {
        machine.set(0, pfn);
        assert!(!machine.takes(&[0; LEAF_ENTRIES]));
    }
}

/// The guest writes its own M2P entries, and frames of nobody have no PFN. Neither makes a word of the guest's
/// memory an entry of a leaf that would end beyond the last PFN.
#[test]
fn a_leaf_at_the_end_of_all_numbers_is_private() {
    let mut machine = Machine::new();
    for (pfn, index) in [(u64::MAX, 511), (u64::MAX - 511, 0), (u64::MAX - 1, 510)] {
        machine.set(9, pfn);
        let mut leaf = [INVALID; LEAF_ENTRIES];
        leaf[index] = 9;
        assert!(!machine.takes(&leaf), "PFN {pfn:#x} at {index}");
    }
}

/// What the strict rule still lets through, so that nobody believes more of it: a page of words that are
/// nothing but frame numbers of other domains. Only the guest's own P2M tree leads to a page that is
/// judged by content (`vmcrypt_mark_p2m()`), so it must have put that page there.
#[test]
fn content_alone_is_not_enough() {
    let leaf: Leaf = std::array::from_fn(|index| index as u64 | FOREIGN);
    assert!(Machine::new().takes(&leaf));
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..MFNS,
        Just(0),
        (0..1u64 << 47).prop_map(|low| 0xffff_8000_0000_0000 | low)
    ]
}

/// What libxc does, in its own steps: `first` is where the first of the `tables` stands in the table above.
fn libxc_end(end: u64, first: u64, tables: &[u64]) -> u64 {
    let last = first + tables.len() as u64 - 1;
    let (mut saved_table, mut saved_index) = (0, 0);
    for (index, &table) in (first..).zip(tables) {
        if table != saved_table {
            saved_table = table;
            saved_index = index - first;
        }
    }
    if saved_index == last {
        saved_index += 1;
    }
    // With nothing left the subtraction wraps, and the number is as large as can be.
    ((saved_index << 9) * 512).wrapping_sub(1).min(end - 1) + 1
}

#[test]
fn what_stands_for_absent_memory_alone_is_not_saved() {
    const GIB: u64 = 1 << 18;
    // One page table is never left out; the last is saved unless it is the one before it.
    assert_eq!(saved_end(GIB, 0, 0), GIB);
    assert_eq!(saved_end(3 * GIB, 2, 2), 3 * GIB);
    assert_eq!(saved_end(3 * GIB, 1, 2), GIB);
    assert_eq!(saved_end(3 * GIB - 5, 2, 2), 3 * GIB - 5);
    assert_eq!(saved_end(GIB, u64::MAX, 0), GIB, "no number is too large");
}

proptest! {
    #![proptest_config(config(60))]

    /// 4,096 random bytes, small numbers, pointers: private.
    #[test]
    fn ordinary_pages_are_private(page in prop::collection::vec(word(), LEAF_ENTRIES)) {
        let page: Leaf = page.try_into().expect("512");
        prop_assert!(!Machine::new().takes(&page));
    }

    /// One entry of a page of ones may be a frame in its right place; then, and only then, it is a leaf.
    #[test]
    fn a_lonely_entry_must_be_in_its_place(mfn in 0..MFNS, index in 0..LEAF_ENTRIES) {
        let mut leaf = [INVALID; LEAF_ENTRIES];
        leaf[index] = mfn;
        prop_assert_eq!(Machine::new().takes(&leaf), pfn_of(mfn) % 512 == index as u64);
    }

    /// Any word of any real leaf replaced by any word.
    #[test]
    fn replaced_words(leaf in 0..MFNS / 512, index in 0..LEAF_ENTRIES, word in word()) {
        let base = leaf * 512;
        let pfn = base + index as u64;
        let mut page = real(base);
        page[index] = word;
        let good = word == INVALID
            || word == mfn_of(pfn)
            || word == pfn | IDENTITY
            || (word >> 62 == 2 && word & !FOREIGN < MFNS);
        prop_assert_eq!(Machine::new().takes(&page), good);
    }

    /// However page tables repeat, wherever the first of them stands.
    #[test]
    fn as_much_is_saved_as_libxc_saves(
        first in 0u64..512,
        tables in prop::collection::vec(1u64..4, 1..9),
        short in 0u64..1 << 18,
    ) {
        let end = tables.len() as u64 * (1 << 18) - short;
        let change = (1..tables.len()).rfind(|&i| tables[i] != tables[i - 1]).unwrap_or(0) as u64;
        let slot = first + tables.len() as u64 - 1;
        prop_assert_eq!(saved_end(end, change, slot), libxc_end(end, first, &tables));
    }
}
