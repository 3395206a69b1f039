//! The page cipher on the portable backend.

use crate::backend::{self, Random};
use hctr2_rs::Hctr2_256;
use vmcrypt_core::cipher::{PageKey, Portable, TooShort, decrypt, encrypt, encrypt_page};
use vmcrypt_core::polyval::HashKey;

#[test]
fn published_vectors() {
    backend::published_vectors(&Portable);
}

#[test]
fn round_trips_of_every_length() {
    backend::agrees_with_portable(&Portable);
}

#[test]
fn pages_agree_with_another_implementation() {
    backend::agrees_with_another_implementation(&Portable);
}

#[test]
fn aes() {
    backend::aes(&Portable);
}

#[test]
fn diffusion() {
    backend::diffusion(&Portable);
}

#[test]
fn polyval_vectors() {
    let records = backend::records(include_str!("vectors/polyval.txt"));
    assert_eq!(records.len(), 9);
    for record in records {
        let [("key", key), ("text", text), ("digest", digest)] = &record[..] else {
            panic!("malformed record: {record:?}");
        };
        let mut hash = HashKey::empty();
        hash.set(key[..].try_into().expect("16 bytes"));
        let mut acc = [0; 16];
        hash.hash(&mut acc, text.as_chunks().0);
        assert_eq!(acc, digest[..]);
    }
}

#[test]
fn agrees_with_an_independent_implementation() {
    let mut random = Random(3);
    for _ in 0..backend::ROUNDS {
        let secret: [u8; 64] = random.bytes();
        let mut key = PageKey::empty();
        key.set(&secret);
        let oracle = Hctr2_256::new(&secret[..32]);
        let plain: [u8; 1024] = random.bytes();
        let plain = &plain[..16 + random.below(1009)];
        let tweak: [u8; 80] = random.bytes();
        let tweak = &tweak[..random.below(81)];
        let mut own = plain.to_vec();
        let tag = encrypt(&Portable, &key, tweak, &mut own);
        let mut other = plain.to_vec();
        oracle.encrypt(plain, tweak, &mut other).expect("long enough");
        assert_eq!(own, other);
        assert_eq!(decrypt(&Portable, &key, tweak, &mut own), tag);
        assert_eq!(own, plain);
    }
}

/// The page form is the general one under the tweak that `docs/CRYPTO.md` writes down.
#[test]
fn page_tweak_is_session_pfn_kind() {
    let mut random = Random(4);
    let (key, tweak, mut page) = (random.key(), random.tweak(), random.page());
    let mut message = page;
    let bytes = [
        &tweak.session.0[..],
        &tweak.pfn.0.to_le_bytes(),
        &tweak.kind.0.to_le_bytes(),
    ]
    .concat();
    let tag = encrypt_page(&Portable, &key, &tweak, &mut page);
    assert_eq!(encrypt(&Portable, &key, &bytes, &mut message), Ok(tag));
    assert_eq!(page, message);
}

#[test]
fn shorter_than_a_block_is_refused() {
    let key = Random(5).key();
    assert_eq!(encrypt(&Portable, &key, &[], &mut [0; 15]), Err(TooShort));
    assert_eq!(decrypt(&Portable, &key, &[], &mut []), Err(TooShort));
}

/// The tag is a MAC of its own key: the same ciphertext, another tag.
#[test]
fn tag_key_does_not_touch_the_ciphertext() {
    let mut random = Random(6);
    let mut secret: [u8; 64] = random.bytes();
    let (tweak, page) = (random.tweak(), random.page());
    let (mut one, mut other) = (page, page);
    let mut key = PageKey::empty();
    key.set(&secret);
    let tag = encrypt_page(&Portable, &key, &tweak, &mut one);
    secret[63] ^= 1;
    key.set(&secret);
    assert_ne!(tag, encrypt_page(&Portable, &key, &tweak, &mut other));
    assert_eq!(one, other);
}

#[test]
fn keys_print_nothing() {
    let mut random = Random(7);
    let (key, tweak, mut page) = (random.key(), random.tweak(), random.page());
    let tag = encrypt_page(&Portable, &key, &tweak, &mut page);
    assert_eq!(format!("{key:?} {tag:?}"), "PageKey(..) PageTag(..)");
}
