//! A sealed key is a file that dom0 brings. Whatever its bytes, reading them stays inside them; and nothing but what the
//! owner sealed is opened.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vmcrypt_core::Refusal;
use vmcrypt_core::hpke::KeyPair;
use vmcrypt_core::ids::KeyId;
use vmcrypt_core::keyring::Keyring;
use vmcrypt_core::keys::RootKey;
use vmcrypt_core::sealed_key::{Policy, SealedKey};
use vmcrypt_tools::owner::OwnerKey;

static HOST: LazyLock<KeyPair> = LazyLock::new(|| {
    let mut pair = KeyPair::empty();
    pair.set(&[1; 32]);
    pair
});

/// A genuine key for two hosts.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let line = [&b"vmcrypt-owner-2 "[..], &[b'5'; 64], b"\n"].concat();
    let owner = OwnerKey::from_text(&line).expect("an owner's key");
    let mut other = KeyPair::empty();
    other.set(&[2; 32]);
    owner
        .seal([3; 16], 0, Policy::default(), &[*other.public(), *HOST.public()])
        .expect("two hosts are not too many")
});

fuzz_target!(|bytes: &[u8]| {
    judge(bytes);
    // The genuine one, changed where and how the input says.
    let mut changed = GOOD.clone();
    for change in bytes.as_chunks::<3>().0.iter().take(16) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    let mut root = RootKey::empty();
    let opened = judge(&changed).map(|sealed| sealed.open(&HOST, &mut root));
    assert_eq!(
        opened == Some(Ok(())),
        changed == *GOOD,
        "the genuine key opens, and no other"
    );
});

fn judge(bytes: &[u8]) -> Option<SealedKey<'_>> {
    let sealed = SealedKey::read(bytes).ok()?;
    let header = sealed.header();
    assert_eq!(bytes[..header.to_bytes().len()], header.to_bytes());
    let envelopes: Vec<_> = sealed.envelopes().collect();
    assert_eq!(envelopes.len(), header.hosts as usize);
    let mut ring = Keyring::new();
    let root = RootKey::empty();
    ring.load(header, &root).expect("room for one");
    let older = header.policy.serial.checked_sub(1).map(|serial| {
        let mut older = *header;
        older.policy.serial = serial;
        ring.load(&older, &root)
    });
    assert!(matches!(older, None | Some(Err(Refusal::KeySerial))));
    let mut other = *header;
    other.policy.restores ^= 1;
    assert_eq!(ring.load(&other, &root), Err(Refusal::KeyGrant));
    let mut out = RootKey::empty();
    let other = KeyId(header.key.0.map(|byte| !byte));
    assert!(ring.reopen(&header.uuid, header.key, &mut out).is_ok());
    assert!(ring.reopen(&header.uuid, other, &mut out).is_err());
    Some(sealed)
}
