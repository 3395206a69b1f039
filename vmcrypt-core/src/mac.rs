//! HMAC-SHA-256 (RFC 2104) and HKDF (RFC 5869), in place: the state is set up and wiped where it lies.
//!
//! The compression function is the `sha2` crate's. The frame around it is own because the `hmac` and
//! `hkdf` crates hand keyed states around by value, and each move may leave a copy on the stack.

use sha2::block_api::compress256;
use zeroize::Zeroize;

/// First 32 bits of the fractional parts of the square roots of the first eight primes (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

const BLOCK: usize = 64;

/// Output of HMAC-SHA-256.
pub type Digest = [u8; 32];

/// A running HMAC-SHA-256 computation. Wiped on drop.
#[repr(C)]
pub struct Hmac {
    inner: [u32; 8],
    outer: [u32; 8],
    pending: [u8; BLOCK],
    /// Message bytes absorbed so far, those in `pending` included.
    length: u64,
}

impl Hmac {
    /// No key yet; outputs mean nothing.
    pub const fn empty() -> Self {
        Self {
            inner: INITIAL,
            outer: INITIAL,
            pending: [0; BLOCK],
            length: 0,
        }
    }

    /// Starts over under `key`, of which the first 64 bytes count (the project's keys are 32 and less).
    pub fn start(&mut self, key: &[u8]) {
        self.inner = INITIAL;
        self.outer = INITIAL;
        self.length = 0;
        for (state, pad) in [(&mut self.inner, 0x36), (&mut self.outer, 0x5c)] {
            self.pending = [pad; BLOCK];
            for (byte, key) in self.pending.iter_mut().zip(key) {
                *byte ^= key;
            }
            compress256(state, &[self.pending]);
        }
        self.pending.zeroize();
    }

    /// Absorbs more of the message.
    pub fn update(&mut self, mut data: &[u8]) {
        let used = (self.length % BLOCK as u64) as usize;
        self.length = self.length.wrapping_add(data.len() as u64);
        if used != 0 {
            let free = self.pending.iter_mut().skip(used);
            let taken = free.len().min(data.len());
            for (to, from) in free.zip(data) {
                *to = *from;
            }
            if used + taken < BLOCK {
                return;
            }
            compress256(&mut self.inner, &[self.pending]);
            data = data.get(taken..).unwrap_or_default();
        }
        let (blocks, rest) = data.as_chunks();
        compress256(&mut self.inner, blocks);
        for (to, from) in self.pending.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    /// The MAC of everything absorbed. The computation is over: [`Hmac::start`] begins another.
    pub fn finish(&mut self) -> Digest {
        // RFC 2104's inner message is one block longer than ours: the padded key.
        finish(&mut self.inner, &mut self.pending, self.length);
        for (to, word) in self.pending.as_chunks_mut::<4>().0.iter_mut().zip(self.inner) {
            *to = word.to_be_bytes();
        }
        finish(&mut self.outer, &mut self.pending, 32);
        let mut digest = [0; 32];
        for (to, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.outer) {
            *to = word.to_be_bytes();
        }
        self.zeroize();
        digest
    }
}

/// SHA-256's padding after `length` message bytes, of which the last `length % 64` are in `pending`, and a first
/// block that is in `state` already.
fn finish(state: &mut [u32; 8], pending: &mut [u8; BLOCK], length: u64) {
    let used = (length % BLOCK as u64) as usize;
    for (i, byte) in pending.iter_mut().enumerate().skip(used) {
        *byte = if i == used { 0x80 } else { 0 };
    }
    if used >= BLOCK - 8 {
        compress256(state, &[*pending]);
        *pending = [0; BLOCK];
    }
    let bits = length.wrapping_add(BLOCK as u64).wrapping_mul(8);
    for (to, from) in pending.iter_mut().skip(BLOCK - 8).zip(bits.to_be_bytes()) {
        *to = from;
    }
    compress256(state, &[*pending]);
}

impl Zeroize for Hmac {
    fn zeroize(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
        self.pending.zeroize();
        self.length.zeroize();
    }
}

impl Drop for Hmac {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// HKDF-SHA-256: fills `out` (at most 255 times 32 bytes are derived, more stay zero) with key material
/// for the purpose `info`.
pub fn hkdf(salt: &[u8], secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let mut prk = extract(salt, &[secret]);
    expand(&prk, info, out);
    prk.zeroize();
}

/// The first half of HKDF: makes a secret uniform, which may come in parts.
pub fn extract(salt: &[u8], secret: &[&[u8]]) -> Digest {
    let mut mac = Hmac::empty();
    mac.start(salt);
    secret.iter().for_each(|part| mac.update(part));
    mac.finish()
}

/// The second half of HKDF: `prk` is uniform already. `info` may come in parts.
pub fn expand(prk: &Digest, info: &[&[u8]], out: &mut [u8]) {
    let mut mac = Hmac::empty();
    let mut block = [0; 32];
    out.fill(0);
    for (count, part) in (1..=255u8).zip(out.chunks_mut(32)) {
        mac.start(prk);
        if count > 1 {
            mac.update(&block);
        }
        info.iter().for_each(|part| mac.update(part));
        mac.update(&[count]);
        block = mac.finish();
        for (to, from) in part.iter_mut().zip(block) {
            *to = from;
        }
    }
    block.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        assert_eq!(text.len(), 2 * N);
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 5869, appendix A, test cases 1 and 3.
    #[test]
    fn rfc_5869() {
        let mut okm = [0; 42];
        let salt: [u8; 13] = core::array::from_fn(|i| i as u8);
        let info: [u8; 10] = core::array::from_fn(|i| 0xf0 + i as u8);
        hkdf(&salt, &[0x0b; 22], &[&info[..3], &info[3..]], &mut okm);
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(okm, hex(expected));

        hkdf(&[], &[0x0b; 22], &[], &mut okm);
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
        assert_eq!(okm, hex(expected));
    }

    /// RFC 4231, test cases 1, 2, 3 and 4, in one piece and byte by byte.
    #[test]
    fn rfc_4231() {
        let long: [u8; 25] = core::array::from_fn(|i| i as u8 + 1);
        let cases: [(&[u8], &[u8], &str); 4] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                &long,
                &[0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
        ];
        for (key, text, expected) in cases {
            let mut mac = Hmac::empty();
            mac.start(key);
            mac.update(text);
            assert_eq!(mac.finish(), hex(expected));
            mac.start(key);
            text.iter().for_each(|b| mac.update(core::slice::from_ref(b)));
            assert_eq!(mac.finish(), hex(expected));
        }
    }

    /// The padding has its corners at 55, 56 and 64 bytes; the `hmac` crate is the oracle.
    #[test]
    fn every_length_and_cut_agrees_with_the_hmac_crate() {
        use hmac::{KeyInit, Mac};
        let text: [u8; 200] = core::array::from_fn(|i| (i * 7) as u8);
        let step = if cfg!(miri) { 37 } else { 1 };
        for length in (0..200).step_by(step) {
            let mut oracle = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"key").unwrap();
            oracle.update(&text[..length]);
            let expected: Digest = oracle.finalize().into_bytes().into();
            for cut in (0..=length).step_by(step) {
                let mut mac = Hmac::empty();
                mac.start(b"key");
                mac.update(&text[..cut]);
                mac.update(&text[cut..length]);
                assert_eq!(mac.finish(), expected, "{length} {cut}");
            }
        }
    }

    /// Project Wycheproof's HMAC-SHA-256. Keys of more than a block are not taken here.
    #[test]
    #[cfg_attr(miri, ignore = "parses a large file")]
    fn wycheproof_hmac() {
        use wycheproof::{TestResult, mac};
        let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
        let (mut genuine, mut forged, mut long) = (0, 0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            if test.key.len() > BLOCK {
                long += 1;
                continue;
            }
            let mut mac = Hmac::empty();
            mac.start(&test.key);
            mac.update(&test.msg);
            // Half of the tests cut the tag off after 16 bytes.
            let equal = mac.finish().starts_with(&test.tag);
            assert_eq!(equal, test.result == TestResult::Valid, "test {}", test.tc_id);
            *if equal { &mut genuine } else { &mut forged } += 1;
        }
        assert_eq!((genuine, forged, long), (60, 108, 6));
    }

    /// Project Wycheproof's HKDF-SHA-256. The salt is an HMAC key; what is more than can be derived stays zero.
    #[test]
    #[cfg_attr(miri, ignore = "parses a large file")]
    fn wycheproof_hkdf() {
        use wycheproof::TestResult;
        use wycheproof::hkdf::{TestName, TestSet};
        let set = TestSet::load(TestName::HkdfSha256).unwrap();
        let (mut derived, mut refused, mut long) = (0, 0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            if test.salt.len() > BLOCK {
                long += 1;
                continue;
            }
            let mut out = std::vec![1; test.size];
            hkdf(&test.salt, &test.ikm, &[&test.info], &mut out);
            if test.result == TestResult::Valid {
                assert_eq!(out, test.okm[..], "test {}", test.tc_id);
                derived += 1;
            } else {
                assert!(test.size > 255 * 32 && out[255 * 32..].iter().all(|byte| *byte == 0));
                refused += 1;
            }
        }
        assert_eq!((derived, refused, long), (81, 3, 2));
    }
}
