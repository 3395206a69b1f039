//! The keyring: what it remembers while the machine is up.

use vmcrypt_core::Refusal;
use vmcrypt_core::hpke::PublicKey;
use vmcrypt_core::ids::KeyId;
use vmcrypt_core::keyring::{Keyring, OWNERS, Owners, SLOTS};
use vmcrypt_core::keys::RootKey;
use vmcrypt_core::sealed_key::{Header, Policy};
use zeroize::Zeroize;

const UUID: [u8; 16] = [1; 16];
const MEASURED: [u8; 32] = [9; 32];

fn key(byte: u8) -> RootKey {
    let mut key = RootKey::empty();
    key.set(&[byte; 32]);
    key
}

fn header(uuid: [u8; 16], key: &RootKey, serial: u64, restores: u32) -> Header {
    Header {
        hosts: 1,
        uuid,
        owner: PublicKey([5; 32]),
        key: key.key_id(),
        policy: Policy {
            measurement: [0; 32],
            serial,
            restores,
        },
    }
}

fn load(ring: &mut Keyring, byte: u8, serial: u64, restores: u32) -> Result<(), Refusal> {
    let key = key(byte);
    ring.load(&header(UUID, &key, serial, restores), &key)
}

fn begin(ring: &Keyring, uuid: &[u8; 16]) -> Option<KeyId> {
    let mut root = RootKey::empty();
    let begun = ring
        .begin(uuid, &[0; 32], &mut root)
        .expect("no policy forbids it");
    let id = begun.map_or_else(|| RootKey::empty().key_id(), |(id, _)| id);
    assert_eq!(root.key_id(), id, "the key is the one that is named");
    begun.map(|(id, _)| id)
}

#[test]
fn a_key_is_for_its_domain_alone() {
    let mut ring = Keyring::new();
    assert_eq!(begin(&ring, &UUID), None);
    load(&mut ring, 3, 0, 0).unwrap();
    assert_eq!(begin(&ring, &UUID), Some(key(3).key_id()));
    assert_eq!(begin(&ring, &[0; 16]), None);
    let mut root = RootKey::empty();
    let mut reopen = |uuid: [u8; 16], id: KeyId| ring.reopen(&uuid, id, &mut root).map(|_| ());
    assert_eq!(reopen(UUID, key(3).key_id()), Ok(()));
    assert_eq!(reopen(UUID, key(4).key_id()), Err(Refusal::RecordKey));
    assert_eq!(reopen([2; 16], key(3).key_id()), Err(Refusal::RecordKey));
    assert_eq!(reopen([0; 16], KeyId::default()), Err(Refusal::RecordKey));
}

#[test]
fn serials_only_rise() {
    let mut ring = Keyring::new();
    load(&mut ring, 3, 7, 0).unwrap();
    assert_eq!(load(&mut ring, 3, 6, 0), Err(Refusal::KeySerial));
    assert_eq!(load(&mut ring, 4, 6, 0), Err(Refusal::KeySerial));
    assert_eq!(begin(&ring, &UUID), Some(key(3).key_id()));
    load(&mut ring, 4, 7, 0).unwrap();
    assert_eq!(begin(&ring, &UUID), Some(key(4).key_id()));
    load(&mut ring, 4, u64::MAX, 0).unwrap();
    assert_eq!(load(&mut ring, 4, u64::MAX - 1, 0), Err(Refusal::KeySerial));
}

#[test]
fn restores_are_counted_whatever_is_loaded_in_between() {
    let mut ring = Keyring::new();
    let id = key(3).key_id();
    load(&mut ring, 3, 0, 2).unwrap();
    for _ in 0..5 {
        assert_eq!(ring.restore(&UUID, id, false), Ok(()), "asking takes none");
    }
    assert_eq!(ring.restore(&UUID, id, true), Ok(()));
    load(&mut ring, 3, 0, 2).unwrap();
    assert_eq!(ring.restore(&UUID, id, true), Ok(()));
    assert_eq!(ring.restore(&UUID, id, false), Err(Refusal::KeyUsed));
    // The same again, a later grant of as many, and the way over another key.
    load(&mut ring, 3, 0, 2).unwrap();
    assert_eq!(ring.restore(&UUID, id, true), Err(Refusal::KeyUsed));
    load(&mut ring, 4, 1, 2).unwrap();
    assert_eq!(ring.restore(&UUID, id, true), Err(Refusal::RecordKey));
    load(&mut ring, 3, 2, 2).unwrap();
    assert_eq!(ring.restore(&UUID, id, true), Err(Refusal::KeyUsed));
    // The owner allows more, or all.
    load(&mut ring, 3, 2, 3).unwrap();
    assert_eq!(ring.restore(&UUID, id, true), Ok(()));
    assert_eq!(ring.restore(&UUID, id, true), Err(Refusal::KeyUsed));
    load(&mut ring, 3, 2, 0).unwrap();
    for _ in 0..9 {
        assert_eq!(ring.restore(&UUID, id, true), Ok(()));
    }
    assert_eq!(ring.restore(&[2; 16], id, true), Err(Refusal::RecordKey));
}

#[test]
fn a_measurement_that_the_owner_names_must_be_met() {
    let mut ring = Keyring::new();
    let root = key(3);
    let mut header = header(UUID, &root, 0, 0);
    header.policy.measurement = MEASURED;
    ring.load(&header, &root).unwrap();
    let mut out = RootKey::empty();
    for wrong in [[0; 32], [8; 32]] {
        assert_eq!(ring.begin(&UUID, &wrong, &mut out), Err(Refusal::Measurement));
        assert_eq!(out.key_id(), RootKey::empty().key_id(), "no key is given out");
    }
    assert!(matches!(ring.begin(&UUID, &MEASURED, &mut out), Ok(Some(_))));
    assert!(
        ring.reopen(&UUID, root.key_id(), &mut out)
            .is_ok_and(|p| p.admits(&MEASURED) && !p.admits(&[0; 32]))
    );
}

#[test]
fn a_full_keyring_takes_no_other_domain_and_forgets_all_when_wiped() {
    let mut ring = Keyring::new();
    let root = key(3);
    for i in 0..SLOTS as u8 {
        ring.load(&header([i; 16], &root, 0, 0), &root).unwrap();
    }
    let more = header([0xff; 16], &root, 0, 0);
    assert_eq!(ring.load(&more, &root), Err(Refusal::KeyringFull));
    ring.load(&header([0; 16], &root, 1, 0), &root).unwrap();
    ring.zeroize();
    for i in 0..SLOTS as u8 {
        assert_eq!(begin(&ring, &[i; 16]), None);
    }
    assert!(!format!("{ring:?}").contains("3, 3"), "keys are not printed");
}

#[test]
fn owners_are_named_by_64_hexadecimal_digits() {
    let mut owners = Owners::new();
    assert!(!owners.has(&PublicKey([0; 32])), "an empty slot is nobody");
    let digits = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
    let owner = PublicKey(std::array::from_fn(|i| match i {
        0..16 => i as u8 * 0x11,
        _ => (31 - i as u8) * 0x11,
    }));
    assert!(!owners.has(&owner));
    owners.add(digits.as_bytes()).expect("an owner");
    assert!(owners.has(&owner));
    for bad in ["", "0", &digits[..62], &digits[..63], &digits.replace('F', "g")] {
        assert!(owners.add(bad.as_bytes()).is_none(), "{bad}");
    }
    assert!(owners.add(format!("{digits}00").as_bytes()).is_none());
    for _ in 1..OWNERS {
        owners.add(digits.as_bytes()).expect("room");
    }
    assert!(owners.add(digits.as_bytes()).is_none());
}
