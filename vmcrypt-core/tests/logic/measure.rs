//! The launch measurement, against its definition in `docs/MEASUREMENT.md` written down once more.

use sha2::{Digest, Sha256};
use vmcrypt_core::Pfn;
use vmcrypt_core::measure::{LaunchKind, Measurement, Section};

fn word(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn section(number: u64, content: &[u8]) -> Vec<u8> {
    [word(number), word(content.len() as u64), content.to_vec()].concat()
}

/// A launch of two measured pages.
fn measure(change: impl FnOnce(&mut Launch)) -> [u8; 32] {
    let mut launch = Launch {
        sizes: (9, 2),
        map: vec![1; 20],
        context: vec![2; 5168],
        pages: vec![(1, LaunchKind::Data, [3; 4096]), (4, LaunchKind::L4, [4; 4096])],
    };
    change(&mut launch);
    let mut measurement = Measurement::new();
    measurement.begin(launch.sizes.0, launch.sizes.1);
    measurement.add(Section::MemoryMap, &launch.map);
    measurement.add(Section::Vcpu, &launch.context);
    for (pfn, kind, page) in &launch.pages {
        measurement.page(Pfn(*pfn), *kind, page);
    }
    measurement.finish()
}

struct Launch {
    sizes: (u64, u64),
    map: Vec<u8>,
    context: Vec<u8>,
    pages: Vec<(u64, LaunchKind, [u8; 4096])>,
}

#[test]
fn it_is_what_the_document_says() {
    let mut label = b"VMCrypt launch measurement 1".to_vec();
    label.resize(32, 0);
    let message = [
        label,
        section(1, &[word(9), word(2)].concat()),
        section(2, &[1; 20]),
        section(3, &[2; 5168]),
        section(4, &[word(1), word(0), vec![3; 4096]].concat()),
        section(4, &[word(4), word(4), vec![4; 4096]].concat()),
        section(5, &word(2)),
    ]
    .concat();
    let expected: [u8; 32] = Sha256::digest(message).into();
    assert_eq!(measure(|_| {}), expected);
}

// An interpreter takes long over a dozen of them, and finds nothing that one does not show.
#[cfg_attr(miri, ignore)]
#[test]
fn every_part_counts() {
    let values = [
        measure(|_| {}),
        measure(|launch| launch.sizes.0 = 10),
        measure(|launch| launch.sizes.1 = 1),
        measure(|launch| launch.sizes = (2, 9)),
        measure(|launch| launch.map[19] ^= 1),
        measure(|launch| launch.map.extend_from_slice(&[0; 20])),
        measure(|launch| launch.context[5167] ^= 1),
        measure(|launch| launch.pages[0].0 = 2),
        measure(|launch| launch.pages[0].1 = LaunchKind::P2m),
        measure(|launch| launch.pages[1].2[4095] ^= 1),
        measure(|launch| launch.pages.truncate(1)),
        measure(|launch| launch.pages.swap(0, 1)),
    ];
    for (i, value) in values.iter().enumerate() {
        assert!(!values[..i].contains(value), "{i}");
    }
}

#[test]
fn an_abandoned_one_leaves_nothing_behind() {
    let mut measurement = Measurement::new();
    assert_eq!(measurement.finish(), [0; 32]);
    measurement.begin(1, 1);
    measurement.page(Pfn(0), LaunchKind::Data, &[1; 4096]);
    measurement.begin(1, 1);
    let again = measurement.finish();
    measurement.begin(1, 1);
    assert_eq!(measurement.finish(), again);
    assert_eq!(measurement.finish(), [0; 32]);
}

#[test]
fn numbers_and_kinds_are_one_to_one() {
    for number in 0..10 {
        let kind = LaunchKind::from_number(number);
        assert_eq!(kind.map(|kind| kind as u32), (number < 8).then_some(number));
        let section = Section::from_number(number).map(|section| section as u32);
        assert_eq!(section, (1..6).contains(&number).then_some(number));
    }
}
