//! `PfnSet` against a `BTreeSet`.

use crate::{config, words};
use proptest::prelude::*;
use std::collections::BTreeSet;
use vmcrypt_core::{Pfn, PfnSet};

/// In range, just beyond the last word, and far out of any range.
fn pfn() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..200u64, 1 => 200..400u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64),
    Remove(u64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => pfn().prop_map(Step::Insert),
        15 => pfn().prop_map(Step::Remove),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn behaves_like_a_set(pfns in 0..200u64, steps in prop::collection::vec(step(), 0..200)) {
        let words = words(pfns);
        let room = words.len() as u64 * 64;
        let set = PfnSet::new(&words);
        let mut model = BTreeSet::new();
        for step in steps {
            match step {
                Step::Insert(pfn) => prop_assert_eq!(set.insert(Pfn(pfn)), pfn < room && model.insert(pfn)),
                Step::Remove(pfn) => prop_assert_eq!(set.remove(Pfn(pfn)), model.remove(&pfn)),
                Step::Clear => {
                    set.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(set.count(), model.len() as u64);
        }
        for pfn in (0..400).chain([u64::MAX - 64, u64::MAX]) {
            prop_assert_eq!(set.contains(Pfn(pfn)), model.contains(&pfn));
        }
        let members = set.common(set).map(|pfn| pfn.0);
        prop_assert!(members.eq(model.iter().copied()), "in ascending order, each once");
        for (index, word) in (0u64..).zip(set.snapshot()) {
            let expected = model.range(index * 64..(index + 1) * 64).fold(0, |w, pfn| w | 1u64 << (pfn % 64));
            prop_assert_eq!(word, expected);
        }
    }

    #[test]
    fn common_is_the_intersection(
        a in prop::collection::btree_set(0..192u64, 0..100),
        b in prop::collection::btree_set(0..320u64, 0..100),
    ) {
        // The sets need not have one size.
        let (mine, yours) = (words(192), words(320));
        let (left, right) = (PfnSet::new(&mine), PfnSet::new(&yours));
        a.iter().for_each(|pfn| assert!(left.insert(Pfn(*pfn))));
        b.iter().for_each(|pfn| assert!(right.insert(Pfn(*pfn))));
        let expected: Vec<u64> = a.intersection(&b).copied().collect();
        prop_assert_eq!(left.common(right).map(|pfn| pfn.0).collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(right.common(left).map(|pfn| pfn.0).collect::<Vec<_>>(), expected);
    }
}

/// What cannot be judged reads as private.
#[test]
fn a_set_without_memory_has_no_members() {
    let set = PfnSet::new(&[]);
    for pfn in [0, 1, 63, 64, u64::MAX] {
        assert!(!set.insert(Pfn(pfn)) && !set.contains(Pfn(pfn)) && !set.remove(Pfn(pfn)));
    }
    assert_eq!(set.count(), 0);
}

#[test]
fn words_are_rounded_up() {
    for (pfns, words) in [(0, 0), (1, 1), (64, 1), (65, 2), (u64::MAX, 1 << 58)] {
        assert_eq!(PfnSet::words_for(pfns), words);
    }
}

/// Exactly one of several CPUs learns that it was the one that changed the set.
#[test]
fn every_change_is_reported_once() {
    let words = words(128);
    let set = PfnSet::new(&words);
    let changes = |change: fn(PfnSet<'_>, Pfn) -> bool| -> usize {
        std::thread::scope(|scope| {
            let cpus: Vec<_> = (0..4)
                .map(|_| scope.spawn(move || (0..128).filter(|pfn| change(set, Pfn(*pfn))).count()))
                .collect();
            cpus.into_iter().map(|cpu| cpu.join().expect("no panic")).sum()
        })
    };
    assert_eq!(changes(|set, pfn| set.insert(pfn)), 128);
    assert_eq!(set.count(), 128);
    assert_eq!(changes(|set, pfn| set.remove(pfn)), 128);
    assert_eq!(set.count(), 0);
}
