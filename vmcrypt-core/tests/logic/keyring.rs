//! The keyring: what it remembers while the machine is up.

use vmcrypt_core::Refusal;
use vmcrypt_core::attempts::Attempts;
use vmcrypt_core::hpke::PublicKey;
use vmcrypt_core::ids::KeyId;
use vmcrypt_core::keyring::{Keyring, OWNERS, Owned, Owners, SLOTS};
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
        epoch: 0,
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
    let id = begun.map_or_else(|| RootKey::empty().key_id(), |owned| owned.id);
    assert_eq!(root.key_id(), id, "the key is the one that is named");
    begun.map(|owned| owned.id)
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
fn serials_only_rise_and_one_grant_has_each() {
    let mut ring = Keyring::new();
    load(&mut ring, 3, 7, 0).unwrap();
    assert_eq!(load(&mut ring, 3, 6, 0), Err(Refusal::KeySerial));
    assert_eq!(load(&mut ring, 4, 6, 0), Err(Refusal::KeySerial));
    assert_eq!(begin(&ring, &UUID), Some(key(3).key_id()));
    load(&mut ring, 3, 7, 0).unwrap();
    // Another key, and the same key with each other thing that a grant says.
    assert_eq!(load(&mut ring, 4, 7, 0), Err(Refusal::KeyGrant));
    assert_eq!(load(&mut ring, 3, 7, 1), Err(Refusal::KeyGrant));
    let root = key(3);
    let good = header(UUID, &root, 7, 0);
    for change in [
        |header: &mut Header| header.policy.measurement = MEASURED,
        |header: &mut Header| header.hosts = 2,
        |header: &mut Header| header.epoch = 1,
        |header: &mut Header| header.owner = PublicKey([6; 32]),
    ] {
        let mut other = good;
        change(&mut other);
        assert_eq!(ring.load(&other, &root), Err(Refusal::KeyGrant));
    }
    assert_eq!(begin(&ring, &UUID), Some(key(3).key_id()));
    load(&mut ring, 4, u64::MAX, 0).unwrap();
    assert_eq!(load(&mut ring, 4, u64::MAX - 1, 0), Err(Refusal::KeySerial));
}

/// Grants of one owner, by epoch and serial; the key of epoch n is `key(n)`.
fn epoch(ring: &mut Keyring, epoch: u32, serial: u64) -> Result<(), Refusal> {
    let root = key(epoch as u8);
    let mut header = header(UUID, &root, serial, 1);
    header.epoch = epoch;
    ring.load(&header, &root)
}

fn reopens(ring: &Keyring, epoch: u32) -> bool {
    let (mut root, id) = (RootKey::empty(), key(epoch as u8).key_id());
    let reopened = ring.reopen(&UUID, id, &mut root);
    assert!(reopened.is_err() || reopened == Ok(Owned { id, epoch }) && root.key_id() == id);
    reopened.is_ok()
}

#[test]
fn the_keys_of_the_two_latest_epochs_are_held() {
    let mut ring = Keyring::new();
    let held = |ring: &Keyring| (1..9).filter(|&n| reopens(ring, n)).collect::<Vec<_>>();
    epoch(&mut ring, 5, 1).unwrap();
    assert_eq!(held(&ring), [5]);
    // The one before, later: new domains go on beginning under the latest.
    epoch(&mut ring, 3, 2).unwrap();
    assert_eq!(
        (held(&ring), begin(&ring, &UUID)),
        (vec![3, 5], Some(key(5).key_id()))
    );
    epoch(&mut ring, 4, 3).unwrap();
    assert_eq!(
        (held(&ring), begin(&ring, &UUID)),
        (vec![4, 5], Some(key(5).key_id()))
    );
    assert_eq!(epoch(&mut ring, 3, 4), Err(Refusal::KeyEpoch));
    assert_eq!(epoch(&mut ring, 0, 4), Err(Refusal::KeyEpoch));
    assert_eq!(held(&ring), [4, 5]);
    epoch(&mut ring, 8, 4).unwrap();
    assert_eq!(
        (held(&ring), begin(&ring, &UUID)),
        (vec![5, 8], Some(key(8).key_id()))
    );
    epoch(&mut ring, 8, 5).unwrap();
    epoch(&mut ring, 5, 6).unwrap();
    epoch(&mut ring, 5, 6).unwrap();
    assert_eq!(held(&ring), [5, 8]);
}

#[test]
fn a_restored_domain_goes_on_under_the_latest_epoch() {
    let mut ring = Keyring::new();
    epoch(&mut ring, 1, 1).unwrap();
    epoch(&mut ring, 2, 2).unwrap();
    let mut root = RootKey::empty();
    let renewed = |ring: &Keyring, id: KeyId, root: &mut RootKey| ring.renew(&UUID, id, &[0; 32], root);
    for old in [1, 2] {
        let latest = Owned {
            id: key(2).key_id(),
            epoch: 2,
        };
        assert_eq!(renewed(&ring, key(old).key_id(), &mut root), Ok(Some(latest)));
        assert_eq!(root.key_id(), latest.id);
    }
    epoch(&mut ring, 3, 3).unwrap();
    let gone = renewed(&ring, key(1).key_id(), &mut root);
    assert_eq!(gone, Err(Refusal::RecordKey), "two epochs on");
    // A grant that came meanwhile, and names another launch.
    let root3 = key(3);
    let mut named = header(UUID, &root3, 4, 1);
    (named.epoch, named.policy.measurement) = (3, MEASURED);
    ring.load(&named, &root3).unwrap();
    let other = renewed(&ring, key(2).key_id(), &mut root);
    assert_eq!(other, Err(Refusal::Measurement));
    assert_eq!(ring.admits(&UUID, &MEASURED), Ok(()));
    assert_eq!(ring.admits(&UUID, &[0; 32]), Err(Refusal::Measurement));
    assert_eq!(ring.admits(&[0; 16], &[0; 32]), Ok(()), "nobody's domain");
}

/// What dom0 may do is what one grant says, not what two say together.
#[test]
fn the_latest_grant_speaks_for_both_epochs() {
    let mut ring = Keyring::new();
    let (old, new) = (key(1), key(2));
    ring.load(&header(UUID, &old, 1, 0), &old).unwrap();
    assert_eq!(ring.may_restore(&UUID, old.key_id(), false), Ok(()), "many");
    let mut once = header(UUID, &new, 2, 1);
    once.epoch = 1;
    ring.load(&once, &new).unwrap();
    for key in [&old, &new] {
        assert_eq!(ring.may_restore(&UUID, key.key_id(), false), Err(Refusal::Spent));
        assert_eq!(ring.may_restore(&UUID, key.key_id(), true), Ok(()));
    }
    assert_eq!(ring.restored(&UUID, old.key_id(), true), Ok(()));
    assert_eq!(ring.may_restore(&UUID, new.key_id(), true), Err(Refusal::KeyUsed));
}

/// Nor does one owner's grant speak for another's key.
#[test]
fn another_owners_grant_ends_the_former_ones_keys() {
    let mut ring = Keyring::new();
    epoch(&mut ring, 1, 1).unwrap();
    epoch(&mut ring, 2, 2).unwrap();
    let root = key(9);
    let mut other = header(UUID, &root, 3, 0);
    other.owner = PublicKey([6; 32]);
    ring.load(&other, &root).unwrap();
    assert!(!reopens(&ring, 1) && !reopens(&ring, 2));
    assert_eq!(begin(&ring, &UUID), Some(root.key_id()));
}

#[test]
fn restores_are_counted_whatever_is_loaded_in_between() {
    let mut ring = Keyring::new();
    let id = key(3).key_id();
    let restored = |ring: &mut Keyring| ring.restored(&UUID, id, true);
    load(&mut ring, 3, 0, 2).unwrap();
    for _ in 0..5 {
        assert_eq!(ring.may_restore(&UUID, id, true), Ok(()), "asking takes none");
        assert_eq!(ring.try_restore(&UUID, id, true, 9), Ok(()), "nor does a failure");
        assert_eq!(ring.may_restore(&UUID, id, false), Err(Refusal::Spent));
    }
    assert_eq!(restored(&mut ring), Ok(()));
    load(&mut ring, 3, 0, 2).unwrap();
    assert_eq!(restored(&mut ring), Ok(()));
    assert_eq!(ring.may_restore(&UUID, id, true), Err(Refusal::KeyUsed));
    assert_eq!(ring.try_restore(&UUID, id, true, 9), Err(Refusal::KeyUsed));
    // The same again, a later grant of as many, and the way over another key.
    load(&mut ring, 3, 0, 2).unwrap();
    assert_eq!(restored(&mut ring), Err(Refusal::KeyUsed));
    load(&mut ring, 4, 1, 2).unwrap();
    assert_eq!(restored(&mut ring), Err(Refusal::RecordKey));
    load(&mut ring, 3, 2, 2).unwrap();
    assert_eq!(restored(&mut ring), Err(Refusal::KeyUsed));
    // The owner allows more, or all.
    load(&mut ring, 3, 3, 3).unwrap();
    assert_eq!(restored(&mut ring), Ok(()));
    assert_eq!(restored(&mut ring), Err(Refusal::KeyUsed));
    load(&mut ring, 3, 4, 0).unwrap();
    for _ in 0..9 {
        assert_eq!(restored(&mut ring), Ok(()));
        assert_eq!(ring.restored(&UUID, id, false), Ok(()));
    }
    assert_eq!(ring.restored(&[2; 16], id, true), Err(Refusal::RecordKey));
}

/// 2^16 restores whatever the image's size; more of them only of small images.
#[test]
fn attempts_are_bounded_and_never_below_what_is_promised() {
    const MANY: u32 = 1 << 16;
    let mut large = Attempts::default();
    for _ in 0..MANY {
        assert_eq!(large.begin(1 << 40), Ok(()));
    }
    assert_eq!(large.begin(1), Err(Refusal::Attempts));
    assert_eq!(large.begin(0), Err(Refusal::Attempts));
    let mut small = Attempts::default();
    for _ in 0..MANY * 2 {
        assert_eq!(small.begin(1 << 15), Ok(()), "2^32 pages altogether");
    }
    assert_eq!(small.begin(1), Err(Refusal::Attempts));
    assert_eq!(small.begin(u64::MAX), Err(Refusal::Attempts));
    // The keyring counts them for a domain, under whichever key and grant.
    let mut ring = Keyring::new();
    load(&mut ring, 3, 0, 0).unwrap();
    let id = key(3).key_id();
    for _ in 0..MANY {
        assert_eq!(ring.try_restore(&UUID, id, true, 1 << 20), Ok(()));
    }
    load(&mut ring, 3, 1, 0).unwrap();
    let more = ring.try_restore(&UUID, id, true, 1);
    assert_eq!(more, Err(Refusal::Attempts));
    assert_eq!(ring.may_restore(&UUID, id, true), Ok(()), "what began may end");
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
