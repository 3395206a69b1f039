//! One whole record and one whole sealed key, byte by byte: a change of format or of any derivation shows here, and needs a
//! new version.
//!
//! `vectors/record-2.txt` is rebuilt from fixed keys. `vectors/sealed-key-2.txt` was made once by `vmcrypt key seal`, whose
//! ephemeral key is random; only the host can open it.

use vmcrypt_core::cipher::PageTag;
use vmcrypt_core::domain::Digests;
use vmcrypt_core::hpke::KeyPair;
use vmcrypt_core::ids::{KeyId, SessionId};
use vmcrypt_core::keys::{RecordKey, RootKey};
use vmcrypt_core::record::{Facts, HEADER, Header, STATES, TAG, capacity};
use vmcrypt_core::seal::{Opener, SealTag, Sealer};
use vmcrypt_core::sealed_key::{self, SealedKey};
use vmcrypt_core::{Pfn, PfnSet};

/// The owner's secret is 32 bytes 0x55, the domain's uuid 0x33, the epoch 7; the host's secret 0x11.
const UUID: [u8; 16] = [0x33; 16];
const EPOCH: u32 = 7;
/// HKDF-SHA-256 of that secret, salt "vmcrypt/2 owner", info "domain root" || uuid || epoch: computed by Python's `hmac`.
const ROOT: &str = "742484962e49e07c30cd225ae6c1c478541cba0dbf86b35934b4cc7c2135b59d";
const STATE: usize = 64;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.bytes())
        .filter(u8::is_ascii_hexdigit)
        .collect();
    let digit = |c: u8| char::from(c).to_digit(16).expect("a hexadecimal digit") as u8;
    let pairs = digits.as_chunks::<2>().0;
    pairs
        .iter()
        .map(|&[high, low]| digit(high) << 4 | digit(low))
        .collect()
}

fn root() -> RootKey {
    let mut root = RootKey::empty();
    root.set(bytes(ROOT).first_chunk().expect("32 bytes"));
    root
}

fn facts() -> Facts {
    let mut digests = Digests::default();
    digests.private.add(&PageTag([0xa5; 16]));
    digests.private.add(&PageTag([0xff; 16]));
    digests.plain.add(&PageTag([0x5a; 16]));
    Facts {
        uuid: UUID,
        pages: 190,
        pfns: 200,
        start_info: Pfn(11),
        console: Pfn(12),
        store: Pfn(13),
        p2m_root: Pfn(14),
        p2m_address: 0xffff_c900_0000_0000,
        p2m_end: 199,
        digests,
        measurement: [0x77; 32],
        states: 2,
        state_size: STATE as u32,
        boot: KeyId([0x99; 16]),
    }
}

fn keys(session: &SessionId) -> RecordKey {
    let mut key = RecordKey::empty();
    key.derive(&root(), session);
    key
}

#[test]
fn the_record_is_what_it_was() {
    let frozen = bytes(include_str!("vectors/record-2.txt"));
    let words = [0, 0, 0, 0].map(core::sync::atomic::AtomicU64::new);
    let plain = PfnSet::new(&words);
    for pfn in [5, 70, 71, 199] {
        assert!(plain.insert(Pfn(pfn)));
    }
    let mut record = vec![0; capacity(200, 2, STATE as u32) as usize];
    for (at, byte) in record[STATES..][..2 * STATE].iter_mut().enumerate() {
        *byte = at as u8;
    }
    let total = facts().write(&mut record, plain).expect("the capacity is enough");
    record.truncate(total);
    let header = Header {
        total: total as u64,
        key: root().key_id(),
        epoch: EPOCH,
        session: SessionId([0x44; 16]),
        sequence: 3,
    };
    header.write(&mut record).expect("room");
    let (clear, rest) = record.split_at_mut(HEADER);
    let (body, tag) = rest.split_last_chunk_mut::<TAG>().expect("room");
    let mut sealer = Sealer::empty();
    sealer.begin(&keys(&header.session), header.sequence, clear);
    sealer.update(body);
    *tag = sealer.finish().0;
    assert_eq!(record, frozen, "{record:02x?}");
}

#[test]
fn the_frozen_record_opens() {
    let mut frozen = bytes(include_str!("vectors/record-2.txt"));
    let header = Header::read(&frozen).expect("a record");
    assert_eq!((header.epoch, header.sequence), (EPOCH, 3));
    assert_eq!(header.key, root().key_id());
    let (clear, rest) = frozen.split_at_mut(HEADER);
    let (body, tag) = rest.split_last_chunk_mut::<TAG>().expect("a tag");
    let mut opener = Opener::empty();
    opener.begin(&keys(&header.session), header.sequence, clear);
    opener.check(body);
    opener.verify(&SealTag(*tag)).expect("genuine");
    opener.open(body).expect("as much as was verified");
    assert_eq!(Facts::read(&frozen), Ok(facts()));
    let words = [0, 0, 0, 0].map(core::sync::atomic::AtomicU64::new);
    let plain = PfnSet::new(&words);
    facts().read_plain(&frozen, plain).expect("the recorded set");
    let pfns: Vec<u64> = plain.common(plain).map(|pfn| pfn.0).collect();
    assert_eq!(pfns, [5, 70, 71, 199]);
}

#[test]
fn the_frozen_sealed_key_opens() {
    let frozen = bytes(include_str!("vectors/sealed-key-2.txt"));
    let sealed = SealedKey::read(&frozen).expect("a sealed key");
    assert_eq!(frozen[..sealed_key::HEADER], sealed.header().to_bytes());
    let header = sealed.header();
    assert_eq!((header.uuid, header.epoch, header.hosts), (UUID, EPOCH, 2));
    assert_eq!(
        (
            header.policy.serial,
            header.policy.restores,
            header.policy.measurement
        ),
        (1_700_000_000, 3, [0x77; 32])
    );
    for secret in [0x11, 0x22] {
        let (mut host, mut opened) = (KeyPair::empty(), RootKey::empty());
        host.set(&[secret; 32]);
        sealed.open(&host, &mut opened).expect("sealed to this host");
        assert_eq!(opened.key_id(), root().key_id());
    }
    let mut stranger = KeyPair::empty();
    stranger.set(&[0x12; 32]);
    assert!(sealed.open(&stranger, &mut RootKey::empty()).is_err());
}
