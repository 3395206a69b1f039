//! The whole table of what dom0 gets when it maps a page.

use crate::STATES;
use vmcrypt_core::policy::{Frame, MapRequest, View, judge};
use vmcrypt_core::{PlainClass, Refusal, State};

fn frames() -> impl Iterator<Item = Frame> {
    let by_class = |frame: fn(PlainClass) -> Frame| PlainClass::ALL.into_iter().map(frame);
    [Frame::Ordinary, Frame::Ring]
        .into_iter()
        .chain(by_class(Frame::Xen))
        .chain(by_class(Frame::Changing))
}

/// Every question there is, and its answer.
fn table() -> Vec<(State, MapRequest, Result<View, Refusal>)> {
    let mut table = Vec::new();
    for state in STATES {
        for frame in frames() {
            for (writable, write_back) in [(false, false), (false, true), (true, false), (true, true)] {
                let request = MapRequest {
                    writable,
                    write_back,
                    frame,
                };
                table.push((state, request, judge(state, request)));
            }
        }
    }
    assert_eq!(table.len(), 6 * 16 * 4);
    table
}

/// The policy as a table, written down once more.
#[test]
fn every_answer_is_the_one_written_here() {
    use State::{Building, Dying, Refused, Running, Sealing, Suspended};
    for (state, request, answer) in table() {
        let expected = match (state, request.write_back, request.writable, request.frame) {
            (Building, ..) => Ok(View::Live),
            (Sealing | Refused, ..) => Err(Refusal::Sealing),
            (Running | Suspended | Dying, false, ..) => Err(Refusal::NotWriteBack),
            (_, true, _, Frame::Ring) => Ok(View::Live),
            (_, true, true, _) => Err(Refusal::WritableMap),
            (_, true, false, Frame::Xen(_)) => Ok(View::Live),
            (_, true, false, Frame::Changing(class)) => Ok(View::Snapshot(class)),
            (_, true, false, Frame::Ordinary) => Ok(View::Cipher),
        };
        assert_eq!(answer, expected, "{state:?} {request:?}");
    }
}

#[test]
fn ordinary_memory_is_never_live_after_building() {
    for (state, request, answer) in table() {
        if state != State::Building && request.frame == Frame::Ordinary {
            assert!(
                matches!(answer, Ok(View::Cipher) | Err(_)),
                "{state:?} {request:?}: {answer:?}"
            );
        }
    }
}

#[test]
fn what_may_change_class_is_never_live_after_building() {
    for (state, request, answer) in table() {
        if state != State::Building && matches!(request.frame, Frame::Changing(_)) {
            assert_ne!(answer, Ok(View::Live), "{state:?} {request:?}");
        }
    }
}

#[test]
fn only_rings_are_writable_after_building() {
    for (state, request, answer) in table() {
        if state != State::Building && request.writable && answer.is_ok() {
            assert_eq!(request.frame, Frame::Ring, "{state:?}");
            assert!(request.write_back);
        }
    }
}

#[test]
fn nothing_is_shown_while_sealing_or_refused() {
    for (state, request, answer) in table() {
        if matches!(state, State::Sealing | State::Refused) {
            assert_eq!(answer, Err(Refusal::Sealing), "{request:?}");
        }
    }
}

/// A replica in the cache under one attribute and in a map under another would show dom0 old content.
#[test]
fn other_cache_attributes_end_with_building() {
    for (state, request, answer) in table() {
        if !request.write_back {
            assert_eq!(answer.is_ok(), state == State::Building, "{state:?} {request:?}");
        }
    }
}

#[test]
fn numbers_name_states_and_classes() {
    for state in STATES {
        assert_eq!(State::from_number(state as u32), Some(state));
    }
    for number in [0, 7, 8, u32::MAX] {
        assert_eq!(State::from_number(number), None);
    }
    for class in PlainClass::ALL {
        assert_eq!(PlainClass::from_number(class as u32), Some(class));
        assert_eq!(
            PlainClass::ALL
                .iter()
                .filter(|c| c.name() == class.name())
                .count(),
            1
        );
    }
    assert_eq!(PlainClass::from_number(7), None);
}
