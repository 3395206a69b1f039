//! Keys, set hash and sealed records.

use crate::backend::Random;
use vmcrypt_core::cipher::PageTag;
use vmcrypt_core::ids::SessionId;
use vmcrypt_core::keys::{RecordKey, RootKey, SessionKeys};
use vmcrypt_core::seal::{Forged, Opener, SealTag, Sealer};
use vmcrypt_core::sethash::SetHash;

fn host(byte: u8) -> RootKey {
    let mut key = RootKey::empty();
    key.set(&[byte; 32]);
    key
}

fn record_key(host: &RootKey, session: u8) -> RecordKey {
    let mut key = RecordKey::empty();
    key.derive(host, &SessionId([session; 16]));
    key
}

fn seal(key: &RecordKey, counter: u64, aad: &[u8], body: &mut [u8], chunk: usize) -> SealTag {
    let mut sealer = Sealer::empty();
    sealer.begin(key, counter, aad);
    body.chunks_mut(chunk).for_each(|chunk| sealer.update(chunk));
    sealer.finish()
}

fn open(
    key: &RecordKey,
    counter: u64,
    aad: &[u8],
    body: &mut [u8],
    tag: &SealTag,
    chunk: usize,
) -> Result<(), Forged> {
    let mut opener = Opener::empty();
    opener.begin(key, counter, aad);
    body.chunks(chunk).for_each(|chunk| opener.check(chunk));
    opener.verify(tag)?;
    body.chunks_mut(chunk).try_for_each(|chunk| opener.open(chunk))?;
    assert_eq!(
        opener.open(&mut [0]),
        Err(Forged),
        "nothing beyond what was verified"
    );
    Ok(())
}

#[test]
fn sealing_round_trips_whatever_the_length_and_chunks() {
    let key = record_key(&host(1), 2);
    let text: [u8; 300] = Random(1).bytes();
    let step = if cfg!(miri) { 97 } else { 1 };
    for length in (0..300).step_by(step) {
        let mut whole = text[..length].to_vec();
        let tag = seal(&key, 7, b"aad", &mut whole, 1000);
        for chunk in [1, 7, 16, 63, 64, 65, 128, 1000] {
            let mut body = text[..length].to_vec();
            assert_eq!(seal(&key, 7, b"aad", &mut body, chunk), tag);
            assert_eq!(body, whole);
            for reader in [1, 33, 64, 1000] {
                let mut copy = body.clone();
                assert_eq!(open(&key, 7, b"aad", &mut copy, &tag, reader), Ok(()));
                assert_eq!(copy, text[..length]);
            }
        }
    }
}

/// What it is, in terms of crates that others wrote.
#[test]
fn sealing_is_ctr_then_hmac() {
    use aes::cipher::{BlockCipherEncrypt, KeyInit};
    use hmac::Mac;
    type Hmac = hmac::Hmac<sha2::Sha256>;
    let mac = |key: &[u8], parts: &[&[u8]]| -> [u8; 32] {
        let mut mac = <Hmac as KeyInit>::new_from_slice(key).expect("any length");
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let prk = mac(&[2; 16], &[&[1; 32]]);
    let record = mac(&prk, &[b"vmcrypt/2 cipher 1 record", &[1]]);
    let info = [b"vmcrypt/2 cipher 1 seal".as_slice(), &7u64.to_le_bytes()].concat();
    let cipher_key = mac(&record, &[&info, &[1]]);
    let mac_key = mac(&record, &[&cipher_key, &info, &[2]]);

    let mut body = *b"twenty-one bytes long";
    let tag = seal(&record_key(&host(1), 2), 7, b"aad", &mut body, 100);
    let expected = mac(
        &mac_key,
        &[&3u64.to_le_bytes(), b"aad", &body, &21u64.to_le_bytes()],
    );
    assert_eq!(tag.0, expected);
    let aes = aes::Aes256::new(&cipher_key.into());
    for (count, part) in body.chunks_mut(16).enumerate() {
        let mut stream = (count as u128).to_be_bytes().into();
        aes.encrypt_block(&mut stream);
        part.iter_mut()
            .zip(stream)
            .for_each(|(byte, stream)| *byte ^= stream);
    }
    assert_eq!(&body, b"twenty-one bytes long");
}

#[test]
fn every_changed_bit_is_noticed() {
    let key = record_key(&host(1), 2);
    let mut body: [u8; 150] = Random(2).bytes();
    let aad: [u8; 20] = Random(3).bytes();
    let tag = seal(&key, 7, &aad, &mut body, 64);
    let try_open = |aad: &[u8], body: &[u8], tag: &SealTag| {
        let mut copy = body.to_vec();
        let result = open(&key, 7, aad, &mut copy, tag, 64);
        assert!(result.is_ok() || copy == body, "a forged record stays as it was");
        result
    };
    assert_eq!(try_open(&aad, &body, &tag), Ok(()));
    let step = if cfg!(miri) { 211 } else { 1 };
    for bit in (0..8 * body.len()).step_by(step) {
        let mut body = body;
        body[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(try_open(&aad, &body, &tag), Err(Forged), "body bit {bit}");
    }
    for bit in (0..8 * aad.len()).step_by(step) {
        let mut aad = aad;
        aad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(try_open(&aad, &body, &tag), Err(Forged), "aad bit {bit}");
    }
    for bit in (0..256).step_by(step) {
        let mut tag = tag;
        tag.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(try_open(&aad, &body, &tag), Err(Forged), "tag bit {bit}");
    }
    for length in (0..body.len()).step_by(step) {
        assert_eq!(
            try_open(&aad, &body[..length], &tag),
            Err(Forged),
            "cut to {length}"
        );
    }
    // A byte that moves over the border between associated data and body.
    let moved = [&aad[19..], &body[..]].concat();
    assert_eq!(try_open(&aad[..19], &moved, &tag), Err(Forged));
}

#[test]
fn every_record_has_keys_of_its_own() {
    let mut body = [0; 40];
    let tag = seal(&record_key(&host(1), 2), 7, b"aad", &mut body, 40);
    let mut streams = vec![body];
    for (host_byte, session, counter) in [(2, 2, 7), (1, 3, 7), (1, 2, 8), (1, 2, 7 << 32)] {
        let key = record_key(&host(host_byte), session);
        let mut copy = body;
        assert_eq!(open(&key, counter, b"aad", &mut copy, &tag, 40), Err(Forged));
        assert_eq!(copy, body);
        let mut zeros = [0; 40];
        seal(&key, counter, b"aad", &mut zeros, 40);
        assert!(!streams.contains(&zeros));
        streams.push(zeros);
    }
}

#[test]
fn opening_before_verification_is_refused() {
    let key = record_key(&host(1), 2);
    let mut body = [5; 10];
    let tag = seal(&key, 1, b"", &mut body, 10);
    let mut opener = Opener::empty();
    opener.begin(&key, 1, b"");
    opener.check(&body);
    assert_eq!(opener.open(&mut body), Err(Forged));
    assert_eq!(opener.verify(&tag), Ok(()));
    // An opener that is used again forgets what it verified.
    opener.begin(&key, 1, b"");
    assert_eq!(opener.open(&mut body), Err(Forged));
}

#[test]
fn session_keys_are_the_documented_hkdf() {
    use vmcrypt_core::cipher::{PageKey, Portable, encrypt_page};
    let session = SessionId([9; 16]);
    let mut keys = SessionKeys::empty();
    keys.derive(&host(1), &session);
    let mut secret = [0; 64];
    let oracle = hkdf::Hkdf::<sha2::Sha256>::new(Some(&session.0), &[1; 32]);
    oracle
        .expand(b"vmcrypt/2 cipher 1 page and tag", &mut secret)
        .expect("short");
    let mut page_key = PageKey::empty();
    page_key.set(&secret);
    let mut random = Random(4);
    let (tweak, page) = (random.tweak(), random.page());
    let (mut one, mut other) = (page, page);
    let tag = encrypt_page(&Portable, keys.page(), &tweak, &mut one);
    assert_eq!(tag, encrypt_page(&Portable, &page_key, &tweak, &mut other));
    assert_eq!(one, other);

    // The record key of the session and the one derived without the page key are the same.
    let (mut one, mut other) = ([0; 9], [0; 9]);
    let tag = seal(keys.record(), 3, b"x", &mut one, 9);
    assert_eq!(tag, seal(&record_key(&host(1), 9), 3, b"x", &mut other, 9));
    assert_eq!(one, other);
}

#[test]
fn key_id_tells_keys_apart_and_is_not_a_key() {
    assert_eq!(host(1).key_id(), host(1).key_id());
    assert_ne!(host(1).key_id(), host(2).key_id());
    let mut id = [0; 16];
    let oracle = hkdf::Hkdf::<sha2::Sha256>::new(Some(b"vmcrypt/2 key id salt"), &[1; 32]);
    oracle.expand(b"vmcrypt/2 key id", &mut id).expect("short");
    assert_eq!(host(1).key_id().0, id);
    assert_eq!(format!("{:?}", host(1)), "RootKey(..)");
}

#[test]
fn set_hash_knows_a_set_by_its_members_alone() {
    let mut random = Random(5);
    let tags: Vec<PageTag> = (0..500).map(|_| PageTag(random.bytes())).collect();
    let mut forward = SetHash::EMPTY;
    tags.iter().for_each(|tag| forward.add(tag));
    let mut backward = SetHash::EMPTY;
    tags.iter().rev().for_each(|tag| backward.add(tag));
    assert_eq!(forward, backward);
    assert_eq!(forward.count(), 500);
    assert_eq!(SetHash::from_bytes(&forward.to_bytes()), forward);
    assert_eq!(SetHash::from_bytes(&forward.to_bytes()).count(), 500);

    for (i, tag) in tags.iter().enumerate() {
        // one missing, one twice, one replaced
        let mut other = forward;
        other.remove(tag);
        assert_ne!(other, forward);
        other.add(&tags[(i + 1) % tags.len()]);
        assert_eq!(other.count(), 500);
        assert_ne!(other, forward);
        other.remove(&tags[(i + 1) % tags.len()]);
        other.add(tag);
        assert_eq!(other, forward);
        let mut flipped = *tag;
        flipped.0[i % 16] ^= 1 << (i % 8);
        other.remove(tag);
        other.add(&flipped);
        assert_ne!(other, forward);
    }
    tags.iter().for_each(|tag| forward.remove(tag));
    assert_eq!(forward, SetHash::EMPTY);

    // Same sum, other count.
    let mut zero = SetHash::EMPTY;
    zero.add(&PageTag([0; 16]));
    assert_ne!(zero, SetHash::EMPTY);
}
