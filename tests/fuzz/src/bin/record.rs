//! An opened record is still dom0's choice if a key leaks: whatever its bytes, reading them stays inside them.

#![no_main]

use std::sync::atomic::AtomicU64;

use libfuzzer_sys::fuzz_target;
use vmcrypt_core::keys::CIPHER;
use vmcrypt_core::record::{Facts, HEADER, Header, MAGIC, STATES, TAG, VERSION, capacity};
use vmcrypt_core::{Pfn, PfnSet};

/// More memory than this is not what is looked for.
const PFNS: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    header(bytes);
    // What a fuzzer does not guess: the bytes that every record begins with, and its size.
    let mut begun = bytes.to_vec();
    if let Some(start) = begun.first_chunk_mut::<20>() {
        let numbers = [VERSION, CIPHER, HEADER as u32].map(u32::to_le_bytes);
        *start = [&MAGIC[..], &numbers.concat()]
            .concat()
            .try_into()
            .expect("twenty bytes");
        header(&begun);
    }
    if let Some(total) = begun.get_mut(24..32) {
        total.copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        let sized = bytes.len() >= STATES + TAG + 8;
        assert_eq!(header(&begun), sized, "the size is that of the bytes");
    }
    if let Some((&[0, groups], set)) = bytes.split_first_chunk() {
        written(groups, set);
    }
    let Ok(facts) = Facts::read(bytes) else { return };
    if facts.pfns > PFNS {
        return;
    }
    let words = words(facts.pfns);
    let plain = PfnSet::new(&words);
    if facts.read_plain(bytes, plain).is_ok() {
        survives_writing(&facts, plain);
    }
});

/// Whether the bytes begin with a header; one that was read survives being written.
fn header(bytes: &[u8]) -> bool {
    let Ok(header) = Header::read(bytes) else {
        return false;
    };
    assert!(Header::is_record(bytes));
    let mut again = bytes.to_vec();
    header
        .write(&mut again)
        .expect("a header that was read fits where it was");
    assert_eq!(Header::read(&again), Ok(header));
    true
}

/// A record of any set of pages, as Xen writes it.
fn written(groups: u8, set: &[u8]) {
    let pfns = u64::from(groups) * 64 + u64::from(set.len() as u8 % 64);
    let words = words(pfns);
    let plain = PfnSet::new(&words);
    for (byte, bits) in (0u64..).zip(set) {
        for pfn in (0..8)
            .filter(|bit| bits >> bit & 1 != 0)
            .map(|bit| byte * 8 + bit)
        {
            assert_eq!(plain.insert(Pfn(pfn)), pfn < words.len() as u64 * 64);
            if pfn >= pfns {
                plain.remove(Pfn(pfn));
            }
        }
    }
    let empty = [0; STATES + 8 + TAG];
    let facts = Facts::read(&empty).expect("no states and no pages are a record");
    survives_writing(
        &Facts {
            pfns,
            states: 3,
            state_size: 40,
            ..facts
        },
        plain,
    );
}

fn survives_writing(facts: &Facts, plain: PfnSet<'_>) {
    let mut record = vec![0; capacity(facts.pfns, facts.states, facts.state_size) as usize];
    let size = facts
        .write(&mut record, plain)
        .expect("every set fits into the capacity");
    record.truncate(size);
    assert_eq!(Facts::read(&record).as_ref(), Ok(facts));
    let words = words(facts.pfns);
    let other = PfnSet::new(&words);
    facts
        .read_plain(&record, other)
        .expect("what was written can be read");
    assert!(plain.snapshot().eq(other.snapshot()));
}

fn words(pfns: u64) -> Vec<AtomicU64> {
    (0..PfnSet::words_for(pfns)).map(|_| AtomicU64::new(0)).collect()
}
