//! HPKE against RFC 9180's vectors and against the crate that the owner's side uses.

use crate::backend::Random;
use hpke::aead::{AeadTag, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender};
use vmcrypt_core::hpke::{KeyPair, PublicKey, Seal};
use vmcrypt_core::seal::Forged;

type X25519 = X25519HkdfSha256;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

fn pair(secret: &[u8; 32]) -> KeyPair {
    let mut pair = KeyPair::empty();
    pair.set(secret);
    pair
}

/// RFC 9180, appendix A.2.3: mode auth, X25519, HKDF-SHA256, ChaCha20-Poly1305, sequence number 0.
mod vector {
    pub const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
    pub const RECIPIENT: &str = "3ca22a6d1cda1bb9480949ec5329d3bf0b080ca4c45879c95eddb55c70b80b82";
    pub const RECIPIENT_PUBLIC: &str = "1a478716d63cb2e16786ee93004486dc151e988b34b475043d3e0175bdb01c44";
    pub const SENDER_PUBLIC: &str = "f0f4f9e96c54aeed3f323de8534fffd7e0577e4ce269896716bcb95643c8712b";
    pub const ENCAPSULATED: &str = "f7674cc8cd7baa5872d1f33dbaffe3314239f6197ddf5ded1746760bfc847e0e";
    pub const AAD: &str = "436f756e742d30";
    pub const TEXT: &str = "4265617574792069732074727574682c20747275746820626561757479";
    pub const SEALED: &str = "ab1a13c9d4f01a87ec3440dbd756e2677bd2ecf9df0ce7ed73869b98e0";
    pub const TAG: &str = "0c09be111cb9fdf077347aeb88e61bdf";
}

/// The same by the `hpke` crate, as receiver.
fn open_by_crate(
    secret: &[u8; 32],
    sender: &PublicKey,
    seal: &Seal,
    info: &[u8],
    aad: &[u8],
    text: &mut [u8],
) -> bool {
    let own = <X25519 as Kem>::PrivateKey::from_bytes(secret).unwrap();
    let Ok(sender) = <X25519 as Kem>::PublicKey::from_bytes(&sender.0) else {
        return false;
    };
    let Ok(encapsulated) = <X25519 as Kem>::EncappedKey::from_bytes(&seal.encapsulated.0) else {
        return false;
    };
    let tag = AeadTag::<ChaCha20Poly1305>::from_bytes(&seal.tag).unwrap();
    let mode = OpModeR::Auth(sender);
    setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519>(&mode, &own, &encapsulated, info)
        .and_then(|mut context| context.open_inout_detached(text.into(), aad, &tag))
        .is_ok()
}

#[test]
fn rfc_9180_a_2_3_by_both_implementations() {
    let recipient = pair(&hex(vector::RECIPIENT));
    assert_eq!(recipient.public().0, hex(vector::RECIPIENT_PUBLIC));
    let sender = PublicKey(hex(vector::SENDER_PUBLIC));
    let seal = Seal {
        encapsulated: PublicKey(hex(vector::ENCAPSULATED)),
        tag: hex(vector::TAG),
    };
    let (info, aad): ([u8; 20], [u8; 7]) = (hex(vector::INFO), hex(vector::AAD));
    let mut text: [u8; 29] = hex(vector::SEALED);
    assert_eq!(recipient.open(&sender, &seal, &info, &aad, &mut text), Ok(()));
    assert_eq!(text, hex(vector::TEXT));

    let mut text: [u8; 29] = hex(vector::SEALED);
    assert!(open_by_crate(
        &hex(vector::RECIPIENT),
        &sender,
        &seal,
        &info,
        &aad,
        &mut text
    ));
    assert_eq!(text, hex(vector::TEXT));
}

/// RFC 7748, section 6.1.
#[test]
fn rfc_7748() {
    let secret: [u8; 32] = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    assert_eq!(pair(&secret).public().0, public);
    // The lowest three bits and the highest do not count.
    let mut other = secret;
    other[0] ^= 7;
    other[31] ^= 0x80;
    assert_eq!(pair(&other).public().0, public);
}

#[test]
#[cfg_attr(miri, ignore = "minutes of curve arithmetic")]
fn what_the_crate_seals_is_opened_and_nothing_else() {
    let mut random = Random(9);
    for round in 0..20 {
        let (own, other, sender) = (random.bytes(), random.bytes(), random.bytes::<32>());
        let recipient = pair(&own);
        let mut text = random.bytes::<200>()[..round * 10].to_vec();
        let clear = text.clone();
        let (info, aad) = (random.bytes::<40>(), random.bytes::<70>());

        let secret = <X25519 as Kem>::PrivateKey::from_bytes(&sender).unwrap();
        let public = <X25519 as Kem>::sk_to_pk(&secret);
        let from = PublicKey(public.to_bytes().into());
        assert_eq!(from, *pair(&sender).public());
        let to = <X25519 as Kem>::PublicKey::from_bytes(&recipient.public().0).unwrap();
        let mode = OpModeS::Auth((secret, public));
        let (encapsulated, mut context) =
            setup_sender::<ChaCha20Poly1305, HkdfSha256, X25519>(&mode, &to, &info).unwrap();
        let tag = context
            .seal_inout_detached(text.as_mut_slice().into(), &aad)
            .unwrap();
        let seal = Seal {
            encapsulated: PublicKey(encapsulated.to_bytes().into()),
            tag: tag.to_bytes().into(),
        };

        let sealed = text.clone();
        let mut refused = |key: &KeyPair, from: &PublicKey, seal: &Seal, info: &[u8], aad: &[u8]| {
            let opened = key.open(from, seal, info, aad, &mut text);
            assert_eq!(opened, Err(Forged));
            assert_eq!(text, sealed, "a refused text stays sealed");
        };
        let mut flip = seal;
        flip.tag[round % 16] ^= 1;
        refused(&recipient, &from, &flip, &info, &aad);
        let mut flip = seal;
        flip.encapsulated.0[round] ^= 2;
        refused(&recipient, &from, &flip, &info, &aad);
        refused(&pair(&other), &from, &seal, &info, &aad);
        refused(&recipient, pair(&other).public(), &seal, &info, &aad);
        refused(&recipient, &from, &seal, &info[1..], &aad);
        refused(&recipient, &from, &seal, &info, &aad[1..]);
        assert_eq!(recipient.open(&from, &seal, &info, &aad, &mut text), Ok(()));
        assert_eq!(text, clear);
    }
}

/// RFC 9180, section 7.1.4: points whose multiples everybody knows.
#[test]
#[cfg_attr(miri, ignore = "minutes of curve arithmetic")]
fn points_of_small_order_are_refused() {
    let recipient = pair(&[7; 32]);
    let honest = *pair(&[8; 32]).public();
    // The points of order 1, 2 and 4 and, on the curve's twist, their like (RFC 7748, section 6.1; u = 0, 1, -1).
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut one = [0; 32];
    one[0] = 1;
    for weak in [[0; 32], one, minus_one] {
        for (sender, encapsulated) in [(PublicKey(weak), honest), (honest, PublicKey(weak))] {
            let seal = Seal {
                encapsulated,
                tag: [0; 16],
            };
            assert_eq!(recipient.open(&sender, &seal, b"", b"", &mut []), Err(Forged));
            assert!(!open_by_crate(&[7; 32], &sender, &seal, b"", b"", &mut []));
        }
    }
}
