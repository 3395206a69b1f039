//! Opening what somebody sealed to Xen: HPKE (RFC 9180), mode `auth`, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256
//! and ChaCha20-Poly1305.
//!
//! Curve, cipher and MAC are crates. RFC 9180's key schedule is own, in place and in the receiver's half alone: as
//! the `hpke` crate has it, it neither fits on Xen's stack nor is free of panics (`docs/decisions/0006`). The
//! owner's side is that crate, so that the two check each other.

use chacha20::cipher::StreamCipherCore;
use chacha20::variants::Ietf;
use chacha20::{ChaChaCore, KeyIvInit, R20};
use core::fmt;
use curve25519_dalek::MontgomeryPoint;
use curve25519_dalek::scalar::clamp_integer;
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::Refusal;
use crate::disclose::{disclose, verdict};
use crate::entropy::{Source, draw};
use crate::mac::{Digest, expand, extract};
use crate::seal::Forged;

/// The public half of an X25519 key pair.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What one message was sealed with, in clear beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// The sender's key of this one message.
    pub encapsulated: PublicKey,
    /// Authenticates message and associated data.
    pub tag: [u8; 16],
}

/// An X25519 key pair. Filled in place, wiped on drop.
pub struct KeyPair {
    secret: [u8; 32],
    public: PublicKey,
}

impl KeyPair {
    /// A key pair that is not drawn yet.
    pub const fn empty() -> Self {
        Self {
            secret: [0; 32],
            public: PublicKey([0; 32]),
        }
    }

    /// Takes the pair with this secret half: 32 uniform bytes.
    pub fn set(&mut self, secret: &[u8; 32]) {
        /// The curve's base point (RFC 7748, section 4.1).
        const BASE: PublicKey = PublicKey({
            let mut nine = [0; 32];
            nine[0] = 9;
            nine
        });
        self.secret = *secret;
        let mut public = [0; 32];
        self.multiply(&BASE, &mut public);
        disclose(&mut public);
        self.public = PublicKey(public);
    }

    /// Draws the pair; see [`draw`](crate::entropy::draw).
    ///
    /// # Errors
    /// [`Refusal::NoEntropy`], [`Refusal::StuckEntropy`]; the pair stays what it was.
    pub fn draw(&mut self, source: &mut impl Source, extra: &[u8]) -> Result<(), Refusal> {
        let mut secret = [0; 32];
        let drawn = draw(source, b"key pair", extra, &mut secret);
        if drawn.is_ok() {
            self.set(&secret);
        }
        secret.zeroize();
        drawn
    }

    /// The public half.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Opens in place the first message of the context that `sender` made for this pair and `info`.
    ///
    /// # Errors
    /// [`Forged`] if anything was changed, or made by somebody else or for somebody else. The text is then still
    /// sealed.
    pub fn open(
        &self,
        sender: &PublicKey,
        seal: &Seal,
        info: &[u8],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<(), Forged> {
        let mut shared = self.decapsulate(sender, &seal.encapsulated)?;
        let mut keys = schedule(&shared, info);
        shared.zeroize();
        let opened = decrypt(&keys, &seal.tag, aad, text);
        keys.zeroize();
        opened
    }

    /// RFC 9180, section 4.1: `AuthDecap()`.
    fn decapsulate(&self, sender: &PublicKey, encapsulated: &PublicKey) -> Result<Digest, Forged> {
        let mut secrets = [[0; 32]; 2];
        let [ephemeral, authentic] = &mut secrets;
        self.multiply(encapsulated, ephemeral);
        self.multiply(sender, authentic);
        // Section 7.1.4: a point of small order gives a secret that everybody knows.
        let weak = ephemeral.ct_eq(&[0; 32]) | authentic.ct_eq(&[0; 32]);
        let mut prk = labeled_extract(KEM, &[], b"eae_prk", secrets.as_flattened());
        secrets.zeroize();
        let mut shared = [0; 32];
        let context = [&encapsulated.0[..], &self.public.0, &sender.0];
        labeled_expand(KEM, &prk, b"shared_secret", context, &mut shared);
        prk.zeroize();
        if verdict(weak) { Err(Forged) } else { Ok(shared) }
    }

    /// X25519 (RFC 7748, section 5).
    #[inline(never)]
    fn multiply(&self, point: &PublicKey, out: &mut [u8; 32]) {
        let mut scalar = clamp_integer(self.secret);
        let bit = |i: usize| scalar.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 != 0);
        // Not `mul_clamped()`: that has a way to panic.
        *out = MontgomeryPoint(point.0)
            .mul_bits_be((0..255).rev().map(bit))
            .to_bytes();
        scalar.zeroize();
    }
}

impl Zeroize for KeyPair {
    fn zeroize(&mut self) {
        self.secret.zeroize();
        self.public.0.zeroize();
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.public)
    }
}

const VERSION: &[u8] = b"HPKE-v1";
/// `suite_id` of the KEM: X25519 with HKDF-SHA256 is 0x0020 (RFC 9180, section 7.1).
const KEM: &[u8] = b"KEM\x00\x20";
/// `suite_id` of the whole: that KEM, HKDF-SHA256 (0x0001), ChaCha20-Poly1305 (0x0003).
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
const MODE_AUTH: u8 = 2;

/// Key and nonce of the cipher.
struct CipherKeys {
    key: [u8; 32],
    nonce: [u8; 12],
}

impl Zeroize for CipherKeys {
    fn zeroize(&mut self) {
        self.key.zeroize();
        self.nonce.zeroize();
    }
}

/// RFC 9180, section 5.1: `KeySchedule()`, without a pre-shared key.
fn schedule(shared: &Digest, info: &[u8]) -> CipherKeys {
    let psk = labeled_extract(SUITE, &[], b"psk_id_hash", &[]);
    let info = labeled_extract(SUITE, &[], b"info_hash", info);
    let context = [&[MODE_AUTH][..], &psk, &info];
    let mut secret = labeled_extract(SUITE, shared, b"secret", &[]);
    let mut keys = CipherKeys {
        key: [0; 32],
        nonce: [0; 12],
    };
    labeled_expand(SUITE, &secret, b"key", context, &mut keys.key);
    labeled_expand(SUITE, &secret, b"base_nonce", context, &mut keys.nonce);
    secret.zeroize();
    keys
}

/// RFC 9180, section 4.
fn labeled_extract(suite: &[u8], salt: &[u8], label: &[u8], secret: &[u8]) -> Digest {
    extract(salt, &[VERSION, suite, label, secret])
}

/// RFC 9180, section 4.
fn labeled_expand(suite: &[u8], prk: &Digest, label: &[u8], [a, b, c]: [&[u8]; 3], out: &mut [u8]) {
    let length = (out.len() as u16).to_be_bytes();
    expand(prk, &[&length, VERSION, suite, label, a, b, c], out);
}

/// ChaCha20-Poly1305 (RFC 8439, section 2.8), from the two crates below the one of that name, which formats panics.
#[inline(never)]
fn decrypt(keys: &CipherKeys, tag: &[u8; 16], aad: &[u8], text: &mut [u8]) -> Result<(), Forged> {
    let mut cipher = ChaChaCore::<R20, Ietf>::new(&keys.key.into(), &keys.nonce.into());
    let mut stream = [0; 64].into();
    cipher.write_keystream_block(&mut stream);
    let genuine = match stream.first_chunk::<32>() {
        Some(once) => verdict(authenticator(once, aad, text).ct_eq(tag)),
        None => return Err(Forged),
    };
    if genuine {
        for part in text.chunks_mut(64) {
            cipher.write_keystream_block(&mut stream);
            for (byte, key) in part.iter_mut().zip(&stream) {
                *byte ^= key;
            }
        }
    }
    stream.as_mut_slice().zeroize();
    if genuine { Ok(()) } else { Err(Forged) }
}

/// Poly1305 under a key that is used this once.
#[inline(never)]
fn authenticator(once: &[u8; 32], aad: &[u8], text: &[u8]) -> [u8; 16] {
    let mut mac = Poly1305::new(once.into());
    for part in aad.chunks(16).chain(text.chunks(16)) {
        let mut block = [0; 16];
        for (to, from) in block.iter_mut().zip(part) {
            *to = *from;
        }
        mac.update(&[block.into()]);
    }
    let lengths = (text.len() as u128) << 64 | aad.len() as u128;
    mac.update(&[lengths.to_le_bytes().into()]);
    mac.finalize().into()
}

#[cfg(test)]
mod tests {
    //! Project Wycheproof's tests of what this module uses or builds. RFC 9180's own
    //! vectors go through the public interface (`tests/crypto/hpke.rs`).

    use super::*;
    use wycheproof::{TestResult, aead, xdh};

    /// A point of small order is refused by `decapsulate()`, and what it goes by is that the product is zero.
    #[test]
    #[cfg_attr(miri, ignore = "minutes of curve arithmetic")]
    fn x25519() {
        let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
        let (mut tests, mut weak) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let mut pair = KeyPair::empty();
            pair.set(test.private_key[..].try_into().unwrap());
            let mut shared = [0; 32];
            pair.multiply(&PublicKey(test.public_key[..].try_into().unwrap()), &mut shared);
            assert_eq!(shared, test.shared_secret[..], "test {}", test.tc_id);
            tests += 1;
            weak += usize::from(shared == [0; 32]);
        }
        assert_eq!((tests, weak), (518, 31));
    }

    /// Nonces of other lengths than RFC 8439's have no type here.
    #[test]
    #[cfg_attr(miri, ignore = "parses a large file")]
    fn chacha20_poly1305() {
        let set = aead::TestSet::load(aead::TestName::ChaCha20Poly1305).unwrap();
        let (mut genuine, mut forged, mut other) = (0, 0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let Ok(nonce) = test.nonce[..].try_into() else {
                assert_eq!(test.result, TestResult::Invalid);
                other += 1;
                continue;
            };
            let key = test.key[..].try_into().unwrap();
            let tag = test.tag[..].try_into().unwrap();
            let mut text = test.ct.to_vec();
            let opened = decrypt(&CipherKeys { key, nonce }, &tag, &test.aad, &mut text);
            let valid = test.result == TestResult::Valid;
            assert_eq!(
                opened,
                if valid { Ok(()) } else { Err(Forged) },
                "test {}",
                test.tc_id
            );
            let expected = if valid { &test.pt } else { &test.ct };
            assert_eq!(text, expected[..], "test {}", test.tc_id);
            *if valid { &mut genuine } else { &mut forged } += 1;
        }
        assert_eq!((genuine, forged, other), (256, 60, 9));
    }
}
