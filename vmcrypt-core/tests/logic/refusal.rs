//! The table of reasons.

use std::collections::BTreeSet;
use vmcrypt_core::{Errno, Refusal};

#[test]
fn the_table_is_in_order_and_whole() {
    let all: Vec<Refusal> = Refusal::all().collect();
    for (number, refusal) in (0u32..).zip(&all) {
        assert_eq!(*refusal as u32, number);
        assert_eq!(Refusal::from_number(number), Some(*refusal));
    }
    assert_eq!(Refusal::from_number(all.len() as u32), None);
    assert_eq!(Refusal::from_number(u32::MAX), None);
    assert!(all.len() <= vmcrypt_core::abi::REFUSALS, "each has a counter");
}

#[test]
fn names_and_texts_tell_reasons_apart() {
    let names: BTreeSet<_> = Refusal::all().map(Refusal::name).collect();
    let texts: BTreeSet<_> = Refusal::all().map(Refusal::text).collect();
    assert_eq!(names.len(), Refusal::all().count());
    assert_eq!(texts.len(), Refusal::all().count());
    for refusal in Refusal::all() {
        let (name, text) = (refusal.name(), refusal.text());
        assert!(
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "{name}: a key of a JSON object"
        );
        // One line of Xen's log, whose line ends the printk adds.
        assert!(!text.is_empty() && text.len() < 120, "{name}");
        assert!(
            text.bytes().all(|b| (b' '..=b'~').contains(&b)),
            "{name}: printable"
        );
        assert_eq!(text, text.trim(), "{name}");
    }
}

/// Xen returns the negative of it, so that zero would be success.
#[test]
fn every_errno_is_one() {
    for refusal in Refusal::all() {
        let errno = refusal.errno() as i32;
        assert!((1..=133).contains(&errno), "{}: {errno}", refusal.name());
    }
    // What dom0 may try again, and what it may not: libxc looks at these.
    for (refusal, errno) in [
        (Refusal::WritableMap, Errno::EPERM),
        (Refusal::PoolExhausted, Errno::ENOMEM),
        (Refusal::StillMapped, Errno::EBUSY),
        (Refusal::Incomplete, Errno::EAGAIN),
        (Refusal::Guest32, Errno::EOPNOTSUPP),
    ] {
        assert_eq!(refusal.errno(), errno);
    }
}
