//! The table of hypercall operations.

use crate::STATES;
use proptest::prelude::*;
use std::collections::BTreeSet;
use vmcrypt_core::State;
use vmcrypt_core::doors::{
    Door, FAMILIES, Family, KEYS, Names, Rule, SHADOW_OPS, denies, denies_all, denies_frames, name,
};
use vmcrypt_core::machine::{Frames, Right};
use vmcrypt_core::weakness::Weakness;

fn rows() -> impl Iterator<Item = (&'static Family, &'static Door)> {
    FAMILIES
        .iter()
        .flat_map(|family| family.doors.iter().map(move |door| (family, door)))
}

/// The rules once more, in the words of the documents.
fn expected(rule: Rule, state: Option<State>) -> bool {
    match rule {
        Rule::Allowed | Rule::Own | Rule::Hooked => false,
        Rule::UntilSealed => state != Some(State::Building),
        Rule::Never | Rule::Host | Rule::Nobody | Rule::NotPv | Rule::Absent(_) => true,
    }
}

#[test]
fn every_row_is_judged_by_its_rule_in_every_state() {
    for (family, door) in rows() {
        for state in STATES.into_iter().map(Some).chain([None]) {
            assert_eq!(
                denies(family.number, door.number.into(), state),
                expected(door.rule, state),
                "{} {} {state:?}",
                family.name,
                door.name
            );
        }
    }
}

/// What must not change without somebody changing it here, too.
#[test]
fn the_dangerous_ones_are_denied() {
    let denied_while_running = [
        // domctl: handle, target, devices, registers, debuggers
        (36, &[17, 46, 37, 20, 21, 19, 88, 42, 73, 22, 18, 83, 1000][..]),
        // memory op: reservations, exchange, memory map, resources
        (12, &[0, 1, 6, 11, 13, 28]),
        (1, &[0, 1, 2, 3]),
        (26, &[0, 1, 2, 3, 4, 16, 17]),
        // every mode of paging but log-dirty
        (SHADOW_OPS, &[1, 3, 32]),
    ];
    for (family, operations) in denied_while_running {
        for operation in operations {
            for state in STATES.into_iter().filter(|state| *state != State::Building) {
                assert!(denies(family, *operation, Some(state)), "{family} {operation}");
            }
        }
    }
    // sysctl, platform op, vPMU, hypfs, machine checks.
    for (family, operations) in [
        (35, &[2, 14, 27][..]),
        (7, &[35, 66, 51, 59, 61]),
        (40, &[1, 3]),
        (42, &[2]),
        (48, &[4, 5, 6]),
    ] {
        for operation in operations {
            assert!(denies(family, *operation, None), "{family} {operation}");
        }
    }
}

/// What stock tools do to a domain at any time, or to the machine.
#[test]
fn what_stock_tools_need_is_allowed() {
    for operation in [
        2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 16, 25, 27, 29, 36, 59, 61, 62, 63, 72, 82, 89,
    ] {
        for state in STATES {
            assert!(!denies(36, operation, Some(state)), "domctl {operation}");
        }
    }
    for operation in [1, 3, 4, 6, 7, 8, 9, 10, 12, 16, 17, 18, 19] {
        assert!(!denies(35, operation, None), "sysctl {operation}");
    }
    for operation in [0, 2, 11, 12, 30, 31] {
        for state in STATES {
            assert!(
                !denies(SHADOW_OPS, operation, Some(state)),
                "shadow op {operation}"
            );
        }
    }
    for key in b"dq0*hR" {
        assert!(!denies(KEYS, u64::from(*key), None), "key {}", char::from(*key));
    }
}

/// Every operation, and every set of what can lie at an address: only what names devices' frames may, and only devices.
#[test]
fn frames_are_a_devices_or_denied() {
    for (family, door) in rows() {
        for bits in 0..16 {
            let fine = door.names == Names::Devices && bits == 0;
            assert_eq!(
                denies_frames(family.number, door.number.into(), Frames(bits)),
                !fine,
                "{} {} {bits}",
                family.name,
                door.name
            );
        }
    }
    assert!(denies_frames(36, 7, Frames(0)), "an operation without a row");
    assert!(
        denies_frames(u32::MAX, u64::MAX, Frames(0)),
        "a family without rows"
    );
}

#[test]
fn what_is_for_no_domain_is_denied_for_all() {
    let all: Vec<_> = rows()
        .filter(|(family, door)| denies_all(family.number, door.number.into()))
        .map(|(family, door)| (family.number, door.number))
        .collect();
    let wanted = [
        (36, 54),
        (36, 56),
        (36, 77),
        (36, 84),
        (SHADOW_OPS, 1),
        (SHADOW_OPS, 32),
    ];
    assert_eq!(all, wanted);
    assert!(
        !denies_all(36, 7),
        "an operation without a row is the target's matter"
    );
}

/// What must not change without somebody changing it here, too.
#[test]
fn operations_that_name_addresses_are_known() {
    let named = |names| {
        rows()
            .filter(move |(_, door)| door.names == names)
            .map(|(family, door)| (family.number, door.number))
            .collect::<Vec<_>>()
    };
    assert_eq!(named(Names::Devices), [(36, 20), (36, 39), (33, 13), (33, 30)]);
    assert_eq!(named(Names::Known), [(33, 24)]);
    assert_eq!(named(Names::Ports), [(36, 21), (36, 40), (7, 54)]);
}

#[test]
fn nobody_has_a_right_to_what_is_not_known_to_be_a_device() {
    for bits in 0..=u16::MAX.into() {
        let right = match Frames(bits) {
            Frames(0) => Right::All,
            // The trampoline, the firmware, or both.
            Frames(2 | 4 | 6) => Right::Read,
            _ => Right::Nothing,
        };
        assert_eq!(Frames(bits).right(), right, "{bits:#x}");
    }
    assert_eq!(Frames(u32::MAX).right(), Right::Nothing);
}

#[test]
fn rows_are_told_apart() {
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (family, door) in rows() {
        assert!(
            numbers.insert((family.number, door.number)),
            "{} {} comes twice",
            family.name,
            door.number
        );
        assert!(names.insert((family.number, door.name)), "{}", door.name);
        assert!(!door.why.is_empty(), "{} {}: why?", family.name, door.name);
    }
    let families: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(families.len(), FAMILIES.len());
    for family in FAMILIES {
        let padded = name(family.number);
        let text = std::str::from_utf8(padded).unwrap();
        assert_eq!(text.trim_end_matches('\0'), family.name);
    }
    assert_eq!(name(5), &[0; 16]);
    assert_eq!(name(u32::MAX), &[0; 16]);
}

proptest! {
    #![proptest_config(crate::config(2000))]

    /// An operation without a row, of a family with or without rows.
    #[test]
    fn what_nobody_judged_is_denied(
        family in prop_oneof![0..80u32, any::<u32>()],
        operation in prop_oneof![0..1100u64, any::<u64>()],
        state in 0..7u32,
    ) {
        let known = rows().any(|(f, door)| f.number == family && u64::from(door.number) == operation);
        prop_assume!(!known);
        prop_assert!(denies(family, operation, State::from_number(state)));
    }
}

#[test]
fn weaknesses_have_names_and_texts() {
    for (number, weakness) in (0..).zip(Weakness::ALL) {
        assert_eq!(Weakness::from_number(number), Some(weakness));
        assert!(weakness.text().is_ascii() && weakness.text().len() < 120);
    }
    assert_eq!(Weakness::from_number(Weakness::ALL.len() as u32), None);
    let names: BTreeSet<_> = Weakness::ALL.map(Weakness::name).into();
    assert_eq!(names.len(), Weakness::ALL.len());
}
