//! The generator on an image made here: nothing is left out, and each change is one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use vmcrypt_tamper::changes::{Change, Operation, Sources, every_change, sample};
use vmcrypt_tamper::harmless;
use vmcrypt_tamper::layout::{PageClass, pages, parts};
use vmcrypt_tamper::stream::Stream;

const LDT_ADDRESS: u64 = 0x4000_5000;
const TABLES: [(u64, u64, u8); 4] = [(10, 11, 4), (11, 12, 3), (12, 13, 2), (13, 5, 1)];
const GDT: u64 = 4;
const LDT: u64 = 5;
const START_INFO: u64 = 6;
const CONSOLE: u64 = 7;
const STORE: u64 = 8;
const P2M: u64 = 9;

/// An image of a domain with a page of each class, two vCPUs, and content that depends on `salt`.
fn image(salt: u8) -> Stream {
    let mut bytes = b"Xen saved domain, xl format\n \0 \r".to_vec();
    let config = format!("{{\"name\": \"tiny{salt}\"}}");
    for word in [0x0102_0304, 3, 0, config.len() as u32 + 4, config.len() as u32] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(config.as_bytes());
    bytes.extend(b"LibxlFmt\0\0\0\x02\0\0\0\0");
    bytes.extend(Stream::encode(1, &[]));
    bytes.extend([0xff; 8]);
    bytes.extend(b"XENF\0\0\0\x03\0\0\0\0\0\0\0\0");
    bytes.extend([1, 0, 0, 0, 12, 0, 0, 0, 4, 0, 0, 0, 20, 0, 0, 0]);
    for kind in [2, 16, 17, 18] {
        bytes.extend(Stream::encode(kind, &[salt; 24]));
    }
    bytes.extend(Stream::encode(3, &[0u64, P2M].map(u64::to_le_bytes).concat()));
    for batch in [0..7u64, 7..14, 14..20] {
        bytes.extend(Stream::encode(1, &batch_of(batch, salt)));
    }
    bytes.extend(Stream::encode(8, &[salt; 24]));
    bytes.extend(Stream::encode(7, &vec![salt; 4096]));
    for vcpu in [0u8, 1] {
        bytes.extend(Stream::encode(4, &context(vcpu)));
        for (kind, length) in [(5, 128), (6, 700 - 684 * usize::from(vcpu)), (12, 16)] {
            let mut body = vec![salt ^ vcpu; 8 + length];
            body[..8].fill(0);
            body[0] = vcpu;
            bytes.extend(Stream::encode(kind, &body));
        }
    }
    bytes.extend(Stream::encode(0, &[]));
    bytes.extend(Stream::encode(0, &[]));
    Stream::parse(bytes).unwrap()
}

fn batch_of(pfns: std::ops::Range<u64>, salt: u8) -> Vec<u8> {
    let count = (pfns.end - pfns.start) as u32;
    let mut body = [count, 0].map(u32::to_le_bytes).concat();
    for pfn in pfns.clone() {
        let level = TABLES
            .iter()
            .find(|table| table.0 == pfn)
            .map_or(0, |table| u64::from(table.2));
        body.extend((pfn | level << 60).to_le_bytes());
    }
    for pfn in pfns {
        let mut page = [salt ^ pfn as u8; 4096];
        if let Some((_, next, level)) = TABLES.iter().find(|table| table.0 == pfn) {
            page.fill(0);
            let place = (LDT_ADDRESS >> (12 + 9 * (u32::from(*level) - 1))) as usize % 512 * 8;
            page[place..place + 8].copy_from_slice(&(next << 12 | 0x67).to_le_bytes());
            page[4000] = salt << 1;
        }
        if pfn == START_INFO {
            page[56..64].copy_from_slice(&STORE.to_le_bytes());
            page[72..80].copy_from_slice(&CONSOLE.to_le_bytes());
        }
        body.extend(page);
    }
    body
}

fn context(vcpu: u8) -> Vec<u8> {
    let mut body = vec![0; 8 + 5168];
    body[0] = vcpu;
    for (at, value) in [
        (520 + 96, START_INFO),
        (4816, LDT_ADDRESS),
        (4832, GDT),
        (4960, 512),
        (5008, 10 << 12),
    ] {
        body[8 + at..16 + at].copy_from_slice(&value.to_le_bytes());
    }
    body
}

struct Made {
    image: Stream,
    changes: Vec<Change>,
}

fn made(seed: u64) -> Made {
    let (image, older, other) = (image(1), image(2), image(4));
    let changes = every_change(
        &image,
        &Sources {
            older: &older,
            other: &other,
        },
        seed,
    )
    .unwrap();
    Made { image, changes }
}

#[test]
fn every_byte_belongs_to_one_part() {
    let image = image(1);
    let parts = parts(&image).unwrap();
    assert_eq!(parts[0].whole.start, 0);
    assert!(
        parts
            .windows(2)
            .all(|pair| pair[0].whole.end == pair[1].whole.start)
    );
    assert_eq!(parts.last().unwrap().whole.end, image.bytes.len());
}

#[test]
fn every_class_of_page_is_found() {
    let found: HashMap<u64, PageClass> = pages(&image(1))
        .unwrap()
        .into_iter()
        .map(|(class, page)| (page.pfn, class))
        .collect();
    assert_eq!(
        PageClass::ALL
            .iter()
            .filter(|class| !found.values().any(|one| one == *class))
            .count(),
        0
    );
    for (pfn, class) in [
        (GDT, PageClass::Gdt),
        (LDT, PageClass::Ldt),
        (START_INFO, PageClass::StartInfo),
        (CONSOLE, PageClass::ConsoleRing),
        (STORE, PageClass::StoreRing),
        (P2M, PageClass::P2m),
        (10, PageClass::Table(4)),
        (0, PageClass::Private),
    ] {
        assert_eq!(found[&pfn], class);
    }
}

#[test]
fn every_class_meets_every_operation() {
    use Operation::*;
    let made = made(1);
    let mut met: BTreeMap<&str, BTreeSet<Operation>> = BTreeMap::new();
    for change in &made.changes {
        met.entry(&change.class).or_default().insert(change.operation);
    }
    for class in PageClass::ALL {
        assert_eq!(met[&*class.name()], Operation::ALL.into(), "{}", class.name());
    }
    for part in parts(&made.image).unwrap() {
        let mut wanted = BTreeSet::from([Flip, Drop, Duplicate, Truncate, Extend]);
        // The two END records are equal.
        if !part.class.ends_with("END") || part.class == "STATIC_DATA_END" {
            wanted.insert(Reorder);
        }
        // Headers are the same in every image; what a vCPU shows is, too.
        if [
            "SHARED_INFO",
            "sealed record",
            "PAGE_DATA",
            "X86_TSC_INFO",
            "xl configuration",
        ]
        .contains(&&*part.class)
        {
            wanted.extend([Replay, Splice]);
        }
        let missing: Vec<_> = wanted.difference(&met[&*part.class]).collect();
        // What has no body has no bit to flip but in its header, and an empty record is not left out unnoticed.
        assert!(missing.is_empty(), "{}: {missing:?}", part.class);
    }
    assert!(met["PAGE_DATA"].contains(&Swap) && met["vCPU 0 MSRS"].contains(&Swap));
}

#[test]
fn every_change_changes_something() {
    let made = made(1);
    let mut seen = BTreeSet::new();
    for change in &made.changes {
        let changed = change.apply(&made.image.bytes);
        assert_ne!(changed, made.image.bytes, "{change}");
        assert!(seen.insert(change.to_string()), "twice: {change}");
    }
    assert!(made.changes.len() > 500, "{}", made.changes.len());
}

#[test]
fn a_flip_is_one_bit() {
    let made = made(3);
    for change in made
        .changes
        .iter()
        .filter(|change| change.operation == Operation::Flip)
    {
        let changed = change.apply(&made.image.bytes);
        let bits: u32 = changed
            .iter()
            .zip(&made.image.bytes)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!((bits, changed.len()), (1, made.image.bytes.len()), "{change}");
    }
}

/// Changes of pages keep the records whole: what is refused is refused for the page.
#[test]
fn changes_of_pages_are_still_images() {
    let made = made(1);
    let names = PageClass::ALL.map(PageClass::name);
    let count = made.image.pages().unwrap().len();
    for change in made.changes.iter().filter(|change| names.contains(&change.class)) {
        let parsed = Stream::parse(change.apply(&made.image.bytes))
            .unwrap_or_else(|error| panic!("{change}: {error}"));
        let pages = parsed.pages().map(|pages| pages.len());
        match change.operation {
            Operation::Drop => assert_eq!(pages.unwrap(), count - 1, "{change}"),
            Operation::Duplicate => assert_eq!(pages.unwrap(), count + 1, "{change}"),
            Operation::Truncate | Operation::Extend => assert!(pages.is_err(), "{change}"),
            // A type may say that there is no content.
            Operation::Flip => {}
            _ => assert_eq!(pages.unwrap(), count, "{change}"),
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_list() {
    let names = |seed| {
        made(seed)
            .changes
            .iter()
            .map(Change::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(7), names(7));
    assert_ne!(names(7), names(8));
}

#[test]
fn a_sample_has_one_of_each_kind() {
    let made = made(1);
    let kinds: BTreeSet<_> = made
        .changes
        .iter()
        .map(|change| (&change.class, change.operation))
        .collect();
    let drawn = sample(&made.changes, 5);
    let of_sample: BTreeSet<_> = drawn
        .iter()
        .map(|number| (&made.changes[*number].class, made.changes[*number].operation))
        .collect();
    assert_eq!((drawn.len(), of_sample), (kinds.len(), kinds));
    assert_ne!(drawn, sample(&made.changes, 6));
}

/// What matters most is never excused.
#[test]
fn no_excuse_for_the_guests_own() {
    for operation in Operation::ALL {
        for class in [
            "private page",
            "L1 table",
            "L2 table",
            "L3 table",
            "GDT",
            "LDT",
            "sealed record",
        ] {
            if operation == Operation::Reorder || operation == Operation::Duplicate {
                continue;
            }
            assert_eq!(
                harmless::argument(class, operation, "PFN 0x10"),
                None,
                "{class} {operation}"
            );
        }
    }
}
