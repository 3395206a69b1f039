//! What Xen tells a guest of itself, as its owner checks it.

use hmac::{KeyInit, Mac};
use vmcrypt_core::abi::Answer;
use vmcrypt_core::answer::{genuine, tag};
use vmcrypt_core::keys::RootKey;

fn root(byte: u8) -> RootKey {
    let mut root = RootKey::empty();
    root.set(&[byte; 32]);
    root
}

fn answer() -> Answer {
    let mut answer = Answer {
        version: 3,
        state: 3,
        nonce: [0x11; 32],
        host: [0x22; 32],
        uuid: [0x33; 16],
        measurement: [0x44; 32],
        owner: root(1).key_id().0,
        tag: [0; 32],
    };
    answer.tag = tag(&root(1), &answer);
    answer
}

/// Rebuilt from the crates `hkdf` and `hmac`.
#[test]
fn the_tag_is_hmac_under_a_key_of_its_own() {
    let mut key = [0; 32];
    let oracle = hkdf::Hkdf::<sha2::Sha256>::new(None, &[1; 32]);
    oracle.expand(b"vmcrypt/2 guest's answer key", &mut key).unwrap();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(b"vmcrypt/2 answer to a guest\0");
    for (byte, count) in [(0x11, 32), (0x22, 32), (0x33, 16), (0x44, 32)] {
        mac.update(&vec![byte; count]);
    }
    mac.update(&[3, 0, 0, 0]);
    assert_eq!(answer().tag, *mac.finalize().into_bytes());
}

#[test]
fn no_bit_changes_unnoticed() {
    let bytes = answer().to_bytes();
    assert_eq!(Answer::from_bytes(&bytes), Some(answer()));
    assert!(genuine(&root(1), &answer()));
    assert!(!genuine(&root(2), &answer()), "another root");
    // The version is the reader's affair: a structure of another one has another form.
    for bit in 4 * 8..8 * bytes.len() {
        let mut changed = bytes;
        changed[bit / 8] ^= 1 << (bit % 8);
        let changed = Answer::from_bytes(&changed).expect("of the same length");
        assert!(!genuine(&root(1), &changed), "bit {bit}");
    }
    for length in (0..bytes.len()).chain([bytes.len() + 1]) {
        assert_eq!(Answer::from_bytes(&vec![0; length]), None);
    }
}
