//! The sealed record: what is written comes back, and nothing else does.

use crate::{config, words};
use proptest::prelude::*;
use std::collections::BTreeSet;
use vmcrypt_core::cipher::PageTag;
use vmcrypt_core::domain::Digests;
use vmcrypt_core::ids::{KeyId, SessionId};
use vmcrypt_core::keys::{CIPHER, RecordKey, RootKey};
use vmcrypt_core::record::{FACTS, Facts, HEADER, Header, MAGIC, STATES, TAG, VERSION, capacity, numbers};
use vmcrypt_core::seal::{Opener, SealTag, Sealer};
use vmcrypt_core::sethash::SetHash;
use vmcrypt_core::{Pfn, PfnSet, Refusal};

fn header(total: u64) -> Header {
    Header {
        total,
        key: KeyId([1; 16]),
        epoch: 4,
        session: SessionId([2; 16]),
        sequence: 3,
    }
}

fn facts(pfns: u64, states: u32, state_size: u32) -> Facts {
    let mut digests = Digests::default();
    digests.private.add(&PageTag([0xa5; 16]));
    digests.plain.add(&PageTag([0x5a; 16]));
    Facts {
        uuid: *b"sixteen letters!",
        pages: pfns / 2,
        pfns,
        start_info: Pfn(11),
        console: Pfn(12),
        store: Pfn(13),
        p2m_root: Pfn(14),
        p2m_address: 0xffff_c900_0000_0000,
        p2m_end: pfns,
        digests,
        measurement: [0xa5; 32],
        states,
        state_size,
        boot: KeyId([0x5a; 16]),
    }
}

/// Bytes of header and facts without the padding.
const USED: usize = HEADER + 16 + 8 * 8 + 2 * SetHash::SIZE + 2 * 4;

/// A whole record, not encrypted, its states all `state`.
fn record(facts: &Facts, plain: &BTreeSet<u64>, state: u8) -> Vec<u8> {
    let words = words(facts.pfns);
    let set = PfnSet::new(&words);
    plain.iter().for_each(|pfn| assert!(set.insert(Pfn(*pfn))));
    let room = capacity(facts.pfns, facts.states, facts.state_size) as usize;
    let mut record = vec![0; room];
    record[STATES..][..(facts.states * facts.state_size) as usize].fill(state);
    let total = facts.write(&mut record, set).expect("the capacity is enough");
    assert!(total <= room, "{total} of {room} bytes");
    record.truncate(total);
    header(total as u64)
        .write(&mut record)
        .expect("room for a header");
    record
}

fn read(record: &[u8]) -> Result<(Header, Facts, BTreeSet<u64>), Refusal> {
    let header = Header::read(record)?;
    let facts = Facts::read(record)?;
    // Xen would refuse such a domain for want of memory.
    if facts.pfns > 1 << 20 {
        return Err(Refusal::NoMemory);
    }
    let words = words(facts.pfns);
    let set = PfnSet::new(&words);
    facts.read_plain(record, set)?;
    Ok((header, facts, set.common(set).map(|pfn| pfn.0).collect()))
}

/// Sets of every kind that the run-length code has to do with.
fn plain(pfns: u64) -> BoxedStrategy<BTreeSet<u64>> {
    if pfns == 0 {
        return Just(BTreeSet::new()).boxed();
    }
    let few = prop::collection::btree_set(0..pfns, 0..10);
    let many = prop::collection::btree_set(0..pfns, 0..500);
    let runs = prop::collection::vec((0..pfns, 0..300u64), 0..5).prop_map(move |runs| {
        let run = |(from, len)| from..pfns.min(from + len);
        runs.into_iter().flat_map(run).collect()
    });
    // One page in every other word is what the code is worst at.
    let worst = (0..2u64).prop_map(move |odd| (0..pfns).filter(|pfn| pfn % 128 == odd * 64).collect());
    let ends = Just([0, pfns - 1].into());
    let all = Just((0..pfns).collect());
    prop_oneof![few, many, runs, worst, ends, all].boxed()
}

/// Smaller under Miri, which is some hundred times slower: the set is then of three words.
fn shape() -> impl Strategy<Value = (Facts, BTreeSet<u64>)> {
    let (pfns, states, size) = if cfg!(miri) {
        (150u64, 2u32, 40u32)
    } else {
        (3000, 5, 200)
    };
    (0..pfns, 0..states, 0..size)
        .prop_flat_map(|(pfns, states, size)| (Just(facts(pfns, states, size)), plain(pfns)))
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn what_is_written_is_read((facts, plain) in shape()) {
        let record = record(&facts, &plain, 0xee);
        prop_assert_eq!(read(&record), Ok((header(record.len() as u64), facts, plain)));
        let states = (facts.states * facts.state_size) as usize;
        prop_assert!(record[STATES..][..states].iter().all(|byte| *byte == 0xee));
    }

    /// A buffer that is too small is never written beyond its end, and never mistaken for large enough.
    #[test]
    fn too_small_a_buffer_is_noticed((facts, plain) in shape(), missing in 1..100usize) {
        let size = record(&facts, &plain, 0).len();
        let words = words(facts.pfns);
        let set = PfnSet::new(&words);
        plain.iter().for_each(|pfn| assert!(set.insert(Pfn(*pfn))));
        let mut small = vec![0; size.saturating_sub(missing)];
        prop_assert!(facts.write(&mut small, set).is_none_or(|total| total > small.len()));
    }

    #[test]
    fn every_longer_one_is_refused((facts, plain) in shape(), more in 1..100usize) {
        let mut record = record(&facts, &plain, 0);
        record.resize(record.len() + more, 0);
        prop_assert_eq!(Header::read(&record), Err(Refusal::RecordSize));
        prop_assert_eq!(Facts::read(&record), Err(Refusal::RecordFormat));
    }

    /// Whatever bytes change, reading ends in a refusal or in something that shows the change: no two records
    /// say the same. Only the vCPU states, the padding of the facts and the tag are not read here.
    #[test]
    fn a_change_is_refused_or_seen(
        (facts, plain) in shape(),
        at in any::<prop::sample::Index>(),
        change in prop_oneof![any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit), Just(u64::MAX)],
    ) {
        let good = record(&facts, &plain, 0);
        let mut bad = good.clone();
        let at = at.index(bad.len());
        for (byte, change) in bad[at..].iter_mut().zip(change.to_le_bytes()) {
            *byte ^= change;
        }
        let states = (facts.states * facts.state_size) as usize;
let read_parts = |r: &[u8]| [&r[..USED], &r[STATES + states..r.len() - TAG]].concat();
        if read_parts(&good) != read_parts(&bad) {
            prop_assert_ne!(read(&bad), read(&good));
        }
    }

    /// Any bytes at all behind a good header.
    #[test]
    fn noise_does_no_harm(mut noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let total = noise.len() as u64;
        if header(total).write(&mut noise).is_some() && noise.len() >= STATES + TAG + 8 {
            prop_assert!(Header::read(&noise).is_ok());
        }
        let _ = read(&noise);
    }
}

proptest! {
    // Every length of each record.
    #![proptest_config(config(8))]

    #[test]
    fn every_truncation_is_refused((facts, plain) in shape()) {
        let record = record(&facts, &plain, 0);
        for len in 0..record.len() {
            let expected = if len < HEADER { Refusal::RecordFormat } else { Refusal::RecordSize };
            prop_assert_eq!(read(&record[..len]), Err(expected), "{} of {} bytes", len, record.len());
            prop_assert_eq!(Facts::read(&record[..len]), Err(Refusal::RecordFormat));
        }
    }
}

/// The header's numbers, one by one, and who notices.
#[test]
fn header_fields() {
    let good = record(&facts(100, 2, 64), &[5, 64].into(), 0);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..][..bytes.len()].copy_from_slice(bytes);
        Header::read(&bad)
    };
    use Refusal::{RecordCipher, RecordFormat, RecordVersion};
    for (at, bytes, why) in [
        (0, b"VMCRYPT\0".as_slice(), RecordFormat),
        (0, &[0; 8], RecordFormat),
        (8, &(VERSION + 1).to_le_bytes(), RecordVersion),
        (8, &1u32.to_le_bytes(), RecordVersion),
        (8, &0u32.to_le_bytes(), RecordVersion),
        (8, &u32::MAX.to_le_bytes(), RecordVersion),
        (12, &(CIPHER + 1).to_le_bytes(), RecordCipher),
        (12, &0u32.to_le_bytes(), RecordCipher),
        (16, &(HEADER as u32 + 8).to_le_bytes(), RecordFormat),
        (16, &0u32.to_le_bytes(), RecordFormat),
    ] {
        assert_eq!(with(at, bytes), Err(why), "{bytes:x?} at {at}");
    }
    // A record of another version is named, however long it is.
    let mut later = MAGIC.to_vec();
    later.extend([9, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(Header::read(&later), Err(RecordVersion));
    assert_eq!(numbers(&later), Some((9, 7)));
    assert_eq!(numbers(&good), Some((VERSION, CIPHER)));
    assert_eq!(numbers(&later[..15]), None);
    for total in [0, 1, good.len() as u64 - 1, good.len() as u64 + 1, u64::MAX] {
        assert_eq!(
            with(24, &total.to_le_bytes()),
            Err(Refusal::RecordSize),
            "{total}"
        );
    }
    assert_eq!(with(20, &[9; 4]).map(|h| h.epoch), Ok(0x0909_0909));
    assert_eq!(with(32, &[9; 16]).map(|h| h.key), Ok(KeyId([9; 16])));
    assert_eq!(with(48, &[9; 16]).map(|h| h.session), Ok(SessionId([9; 16])));
    assert_eq!(
        with(64, &[9; 8]).map(|h| h.sequence),
        Ok(u64::from_le_bytes([9; 8]))
    );
}

/// The shortest thing with a header is still no record.
#[test]
fn a_header_alone_is_refused() {
    for len in HEADER..STATES + TAG + 8 {
        let mut record = vec![0; len];
        header(len as u64).write(&mut record).expect("room for a header");
        assert_eq!(Header::read(&record), Err(Refusal::RecordSize), "{len} bytes");
    }
    assert!(Header::is_record(&MAGIC) && !Header::is_record(&MAGIC[..7]) && !Header::is_record(&[]));
}

/// Sizes that overlap the end, or whose product is no number.
#[test]
fn parts_that_do_not_fit_are_refused() {
    let good = record(&facts(100, 2, 64), &[5].into(), 0);
    // The last two fields of the facts.
    let (states, size) = (
        HEADER + 16 + 8 * 8 + 2 * SetHash::SIZE + 32,
        HEADER + 16 + 8 * 8 + 2 * SetHash::SIZE + 36,
    );
    assert!(size + 4 <= HEADER + FACTS);
    assert_eq!(good[states..size + 4], [2, 0, 0, 0, 64, 0, 0, 0]);
    for (at, value) in [
        (states, 0),
        (states, 1),
        (states, 3),
        (states, u32::MAX),
        (size, 0),
        (size, 63),
        (size, u32::MAX),
    ] {
        let mut bad = good.clone();
        bad[at..][..4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(Facts::read(&bad), Err(Refusal::RecordFormat), "{value} at {at}");
    }
    let mut bad = good.clone();
    bad[states..][..8].fill(0xff);
    assert_eq!(Facts::read(&bad), Err(Refusal::RecordFormat));
    let set = STATES + 2 * 64;
    for len in [0u64, 1, 15, 17, 1 << 40, u64::MAX] {
        let mut bad = good.clone();
        bad[set..][..8].copy_from_slice(&len.to_le_bytes());
        assert_eq!(
            Facts::read(&bad),
            Err(Refusal::RecordFormat),
            "{len} bytes of set"
        );
    }
}

/// Runs that skip beyond the last word, stop before it, or name pages beyond the last PFN.
#[test]
fn sets_that_are_not_the_domain_s_are_refused() {
    let shape = facts(100, 0, 0);
    // Two words: one of zeros, then page 64 + 1.
    let good = record(&shape, &[65].into(), 0);
    let run = STATES + 8;
    assert_eq!(
        good[run..][..16],
        [1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    );
    for (zeros, literals, word) in [
        (0u32, 1u32, 2u64), // ends before the last word
        (2, 1, 2),          // a word beyond the last
        (1, 0, 2),          // bytes left over, taken for another run
        (1, 2, 2),          // more words than there are
        (u32::MAX, 1, 2),
        (1, u32::MAX, 2),
        (1, 1, 1 << 36), // PFN 100
        (1, 1, u64::MAX),
    ] {
        let mut bad = good.clone();
        bad[run..][..4].copy_from_slice(&zeros.to_le_bytes());
        bad[run + 4..][..4].copy_from_slice(&literals.to_le_bytes());
        bad[run + 8..][..8].copy_from_slice(&word.to_le_bytes());
        let words = words(100);
        assert_eq!(
            shape.read_plain(&bad, PfnSet::new(&words)),
            Err(Refusal::RecordFormat),
            "{zeros} zero words, {literals} literals, {word:#x}"
        );
    }
    // Too little memory for the set.
    assert_eq!(
        shape.read_plain(&good, PfnSet::new(&[])),
        Err(Refusal::RecordFormat)
    );
}

/// Sealed as the hypervisor seals it, no bit of it can change.
#[test]
fn a_sealed_record_shows_nothing_and_admits_no_change() {
    let mut host = RootKey::empty();
    host.set(&[7; 32]);
    let mut key = RecordKey::empty();
    key.derive(&host, &SessionId([2; 16]));
    let clear = record(&facts(100, 1, 64), &[5, 64].into(), 0xee);
    let mut sealed = clear.clone();
    let (head, rest) = sealed.split_at_mut(HEADER);
    let (body, tag) = rest.split_at_mut(rest.len() - TAG);
    let mut sealer = Sealer::empty();
    sealer.begin(&key, 3, head);
    sealer.update(body);
    tag.copy_from_slice(&sealer.finish().0);
    assert!(!sealed.windows(4).any(|window| window == [0xee; 4]));
    assert!(!sealed.windows(8).any(|window| window == b"sixteen "));

    let open = |record: &[u8]| -> Result<Vec<u8>, Refusal> {
        let mut copy = record.to_vec();
        let header = Header::read(&copy)?;
        let mut key = RecordKey::empty();
        key.derive(&host, &header.session);
        let (head, rest) = copy.split_at_mut(HEADER);
        let (body, tag) = rest.split_at_mut(rest.len() - TAG);
        let mut opener = Opener::empty();
        opener.begin(&key, header.sequence, head);
        opener.check(body);
        opener
            .verify(&SealTag(tag.try_into().expect("its size")))
            .and_then(|()| opener.open(body))
            .map_err(|_| Refusal::RecordChanged)?;
        Ok(copy)
    };
    let opened = open(&sealed).expect("the good one opens");
    assert_eq!(opened[..opened.len() - TAG], clear[..clear.len() - TAG]);
    assert_eq!(read(&opened), read(&clear));
    let step = if cfg!(miri) { 397 } else { 1 };
    for bit in (0..8 * sealed.len()).step_by(step) {
        let mut bad = sealed.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&bad).is_err(), "bit {bit}");
    }
}
