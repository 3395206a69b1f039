//! Sealed keys: what the owner's side writes, by the `hpke` crate, and Xen's side opens, by its own.

use proptest::prelude::*;
use vmcrypt_core::abi::{self, Answer};
use vmcrypt_core::answer;
use vmcrypt_core::hpke::{KeyPair, PublicKey};
use vmcrypt_core::keys::RootKey;
use vmcrypt_core::sealed_key::{ENVELOPE, HEADER, MAX, MAX_HOSTS, Policy, SealedKey, TAG};
use vmcrypt_core::{Refusal, State};
use vmcrypt_tools::owner::{Error, OwnerKey};

const UUID: [u8; 16] = *b"the domain's own";

fn host(byte: u8) -> KeyPair {
    let mut pair = KeyPair::empty();
    pair.set(&[byte; 32]);
    pair
}

fn publics(hosts: &[KeyPair]) -> Vec<PublicKey> {
    hosts.iter().map(|host| *host.public()).collect()
}

fn open(file: &[u8], host: &KeyPair, root: &mut RootKey) -> Result<(), Refusal> {
    SealedKey::read(file)?.open(host, root)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn every_host_that_it_was_sealed_to_opens_it_and_no_other(
        count in 1..=MAX_HOSTS, uuid: [u8; 16], epoch: u32, measurement: [u8; 32], serial: u64, restores: u32,
    ) {
        let owner = OwnerKey::draw().unwrap();
        let hosts: Vec<KeyPair> = (1..=count as u8).map(host).collect();
        let policy = Policy { measurement, serial, restores };
        let file = owner.seal(uuid, epoch, policy, &publics(&hosts)).unwrap();
        prop_assert_eq!(file.len(), HEADER + count * ENVELOPE + TAG);
        prop_assert!(file.len() <= MAX);
        let sealed = SealedKey::read(&file).unwrap();
        prop_assert_eq!(sealed.header().uuid, uuid);
        prop_assert_eq!(sealed.header().epoch, epoch);
        prop_assert_eq!(sealed.header().policy, policy);
        prop_assert_eq!(sealed.header().owner, owner.public());
        prop_assert_eq!(sealed.envelopes().map(|e| e.host).collect::<Vec<_>>(), publics(&hosts));
        let mut root = RootKey::empty();
        for host in &hosts {
            prop_assert_eq!(sealed.open(host, &mut root), Ok(()));
            prop_assert_eq!(root.key_id(), owner.root(&uuid, epoch).key_id());
        }
        prop_assert_eq!(sealed.open(&host(200), &mut root), Err(Refusal::KeyHost));
        prop_assert_eq!(root.key_id(), RootKey::empty().key_id());
    }
}

#[test]
fn every_changed_bit_and_every_other_length_is_refused() {
    let owner = OwnerKey::draw().unwrap();
    let hosts = [host(1), host(2)];
    let file = owner.seal(UUID, 0, Policy::default(), &publics(&hosts)).unwrap();
    let mut root = RootKey::empty();
    assert_eq!(open(&file, &hosts[0], &mut root), Ok(()));
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut root = RootKey::empty();
        let opened = open(&changed, &hosts[0], &mut root);
        assert!(opened.is_err(), "bit {bit}");
        assert_eq!(
            root.key_id(),
            RootKey::empty().key_id(),
            "no key is left after a refusal"
        );
    }
    for length in 0..file.len() {
        assert!(
            open(&file[..length], &hosts[0], &mut root).is_err(),
            "{length} bytes"
        );
    }
    assert!(open(&[&file[..], &[0]].concat(), &hosts[0], &mut root).is_err());
    // A whole envelope more, or less.
    let end = file.len() - TAG;
    let more = [&file[..end], &file[HEADER..HEADER + ENVELOPE], &file[end..]].concat();
    assert_eq!(open(&more, &hosts[0], &mut root), Err(Refusal::KeyFormat));
    let mut less = [&file[..end - ENVELOPE], &file[end..]].concat();
    assert_eq!(open(&less, &hosts[0], &mut root), Err(Refusal::KeyFormat));
    less[16] = 1;
    assert_eq!(open(&less, &hosts[0], &mut root), Err(Refusal::KeyChanged));
}

/// dom0 can seal, too: what it seals is not the owner's.
#[test]
fn nobody_else_can_seal_in_the_owners_name() {
    let (owner, other) = (OwnerKey::draw().unwrap(), OwnerKey::draw().unwrap());
    let host = host(1);
    let mut file = other.seal(UUID, 0, Policy::default(), &[*host.public()]).unwrap();
    let mut root = RootKey::empty();
    assert_eq!(open(&file, &host, &mut root), Ok(()));
    file[40..72].copy_from_slice(&owner.public().0);
    assert_eq!(
        SealedKey::read(&file).unwrap().header().owner,
        owner.public(),
        "the field that was changed is the owner's"
    );
    assert_eq!(open(&file, &host, &mut root), Err(Refusal::KeyChanged));
}

#[test]
fn one_secret_gives_each_domain_and_epoch_another_key_and_survives_its_file() {
    let owner = OwnerKey::draw().unwrap();
    let again = OwnerKey::from_text(&*owner.to_text()).unwrap();
    assert_eq!(owner.public(), again.public());
    let id = |owner: &OwnerKey, uuid: &[u8; 16], epoch: u32| owner.root(uuid, epoch).key_id();
    assert_eq!(id(&owner, &UUID, 0), id(&again, &UUID, 0));
    assert_ne!(id(&owner, &UUID, 0), id(&owner, &[0; 16], 0));
    assert_ne!(id(&owner, &UUID, 0), id(&owner, &UUID, 1));
    assert_ne!(id(&owner, &UUID, 1), id(&owner, &UUID, 1 << 24));
    assert_ne!(owner.public(), OwnerKey::draw().unwrap().public());
    let text = owner.to_text();
    for bad in [
        &text[1..],
        &text[..text.len() - 3],
        b"",
        &[&text[..], b"0"].concat(),
    ] {
        assert!(matches!(OwnerKey::from_text(bad), Err(Error::NoKey)));
    }
    assert_eq!(format!("{owner:?}"), "OwnerKey(..)");
}

#[test]
fn hosts_that_make_no_sense_are_named() {
    let owner = OwnerKey::draw().unwrap();
    let seal = |hosts: &[PublicKey]| owner.seal(UUID, 0, Policy::default(), hosts);
    let many: Vec<_> = (0..=MAX_HOSTS as u8).map(|i| *host(i).public()).collect();
    assert!(matches!(seal(&[]), Err(Error::Hosts(0))));
    assert!(matches!(seal(&many), Err(Error::Hosts(17))));
    assert!(matches!(seal(&[many[0], many[1], many[0]]), Err(Error::Twice(_))));
    // A point of small order: everybody could open what is sealed to it.
    assert!(matches!(seal(&[PublicKey([0; 32])]), Err(Error::Host { .. })));
}

/// What a guest passes on is believed for its owner, its uuid and the nonce of the day.
#[test]
fn an_answer_is_checked_against_what_was_asked() {
    let (owner, other) = (OwnerKey::draw().unwrap(), OwnerKey::draw().unwrap());
    let mut answer = Answer {
        version: abi::INTERFACE_VERSION,
        state: State::Running as u32,
        nonce: [5; 32],
        host: host(1).public().0,
        uuid: UUID,
        measurement: [6; 32],
        owner: owner.root(&UUID, 0).key_id().0,
        tag: [0; 32],
    };
    answer.tag = answer::tag(&owner.root(&UUID, 0), &answer);
    let check =
        |owner: &OwnerKey, uuid, nonce, answer: Answer| owner.check(uuid, 0, nonce, &answer.to_bytes());
    assert_eq!(check(&owner, &UUID, &[5; 32], answer).unwrap(), answer);

    let of = |change: fn(&mut Answer)| {
        let mut changed = answer;
        change(&mut changed);
        check(&owner, &UUID, &[5; 32], changed).unwrap_err()
    };
    assert!(matches!(of(|answer| answer.state = 0), Error::Unprotected));
    assert!(matches!(of(|answer| answer.owner = [0; 16]), Error::Ownerless));
    assert!(matches!(of(|answer| answer.version += 1), Error::Version(_)));
    assert!(matches!(of(|answer| answer.measurement[31] ^= 1), Error::Forged));
    assert!(matches!(of(|answer| answer.host[0] ^= 1), Error::Forged));
    assert!(matches!(
        check(&owner, &UUID, &[4; 32], answer),
        Err(Error::Nonce)
    ));
    assert!(matches!(
        check(&owner, &[0; 16], &[5; 32], answer),
        Err(Error::Domain)
    ));
    assert!(matches!(
        check(&other, &UUID, &[5; 32], answer),
        Err(Error::Forged)
    ));
    assert!(matches!(
        owner.check(&UUID, 0, &[5; 32], b"short"),
        Err(Error::NoAnswer)
    ));
}
