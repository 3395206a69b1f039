//! Authenticated encryption of the sealed record, in place and in chunks of any size.
//!
//! AES-256-CTR, then HMAC-SHA-256 over the associated data, the ciphertext and both lengths. Both
//! keys belong to one record alone: they follow from the session's record key and the record's counter,
//! so that the key stream starts at zero and no nonce can repeat while the caller never seals two different
//! records under one (session, counter).

use crate::aes::{AesKey, Block};
use crate::disclose::verdict;
use crate::keys::RecordKey;
use crate::mac::{Digest, Hmac};
use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// What proves a record genuine.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SealTag(pub [u8; 32]);

/// The record is not one that was sealed under this key, counter and associated data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forged;

/// Seals a record: [`begin`](Self::begin), [`update`](Self::update) for each chunk,
/// [`finish`](Self::finish).
#[repr(C)]
pub struct Sealer {
    stream: KeyStream,
    mac: RecordMac,
}

impl Sealer {
    /// Nothing begun yet.
    pub const fn empty() -> Self {
        Self {
            stream: KeyStream::empty(),
            mac: RecordMac::empty(),
        }
    }

    /// Begins record number `counter` of the session; `aad` is authenticated, not encrypted.
    pub fn begin(&mut self, key: &RecordKey, counter: u64, aad: &[u8]) {
        begin(&mut self.stream, &mut self.mac, key, counter, aad);
    }

    /// Encrypts the next chunk in place.
    pub fn update(&mut self, chunk: &mut [u8]) {
        self.stream.apply(chunk);
        self.mac.update(chunk);
    }

    /// Ends the record and wipes the keys.
    pub fn finish(&mut self) -> SealTag {
        let tag = self.mac.finish();
        self.stream.zeroize();
        tag
    }
}

/// Opens a record in two walks over the same bytes, which nobody else may write in between:
/// [`begin`](Self::begin), [`check`](Self::check) for each chunk, [`verify`](Self::verify); only then
/// [`open`](Self::open) for each chunk.
#[repr(C)]
pub struct Opener {
    stream: KeyStream,
    mac: RecordMac,
    /// Bytes that were verified and are not decrypted yet.
    verified: u64,
}

impl Opener {
    /// Nothing begun yet.
    pub const fn empty() -> Self {
        Self {
            stream: KeyStream::empty(),
            mac: RecordMac::empty(),
            verified: 0,
        }
    }

    /// Begins record number `counter` of the session.
    pub fn begin(&mut self, key: &RecordKey, counter: u64, aad: &[u8]) {
        self.verified = 0;
        begin(&mut self.stream, &mut self.mac, key, counter, aad);
    }

    /// Takes the next chunk of ciphertext into account.
    pub fn check(&mut self, chunk: &[u8]) {
        self.mac.update(chunk);
    }

    /// Decides whether all that was checked is one genuine record. If not, the keys are wiped.
    pub fn verify(&mut self, tag: &SealTag) -> Result<(), Forged> {
        let length = self.mac.length;
        if verdict(self.mac.finish().0.ct_eq(&tag.0)) {
            self.verified = length;
            Ok(())
        } else {
            self.stream.zeroize();
            Err(Forged)
        }
    }

    /// Decrypts the next chunk in place. Refuses, leaving the chunk as it is, whatever was not verified.
    pub fn open(&mut self, chunk: &mut [u8]) -> Result<(), Forged> {
        self.verified = self.verified.checked_sub(chunk.len() as u64).ok_or(Forged)?;
        self.stream.apply(chunk);
        Ok(())
    }
}

fn begin(stream: &mut KeyStream, mac: &mut RecordMac, key: &RecordKey, counter: u64, aad: &[u8]) {
    let mut keys = [0; 64];
    key.sealing_keys(counter, &mut keys);
    if let [cipher, auth] = keys.as_chunks::<32>().0 {
        stream.begin(cipher);
        mac.begin(auth, aad);
    }
    keys.zeroize();
}

/// AES-256-CTR with a counter from zero.
#[repr(C)]
struct KeyStream {
    key: AesKey,
    /// Four blocks of key stream at a time, as the bit-sliced cipher makes them.
    ready: [Block; 4],
    /// Bytes of key stream used so far.
    used: u64,
}

/// Bytes of key stream made at once.
const BATCH: usize = 64;

impl KeyStream {
    const fn empty() -> Self {
        Self {
            key: AesKey::empty(),
            ready: [[0; 16]; 4],
            used: 0,
        }
    }

    fn begin(&mut self, key: &[u8; 32]) {
        self.key.set(key);
        self.used = 0;
    }

    fn apply(&mut self, chunk: &mut [u8]) {
        // The rest of the batch that an earlier chunk began, then whole batches from the first byte on.
        let begun = (self.used % BATCH as u64) as usize;
        let first = if begun == 0 {
            0
        } else {
            chunk.len().min(BATCH - begun)
        };
        let Some((first, rest)) = chunk.split_at_mut_checked(first) else {
            return;
        };
        self.add(begun, first);
        for batch in rest.chunks_mut(BATCH) {
            let at = self.used / 16;
            for (i, block) in (0u64..).zip(&mut self.ready) {
                *block = u128::from(at + i).to_be_bytes();
            }
            self.key.encrypt4(&mut self.ready);
            self.add(0, batch);
        }
    }

    fn add(&mut self, skip: usize, bytes: &mut [u8]) {
        for (byte, stream) in bytes.iter_mut().zip(self.ready.as_flattened().iter().skip(skip)) {
            *byte ^= stream;
        }
        self.used = self.used.wrapping_add(bytes.len() as u64);
    }
}

impl Zeroize for KeyStream {
    fn zeroize(&mut self) {
        self.key.zeroize();
        self.ready.zeroize();
        self.used.zeroize();
    }
}

impl Drop for KeyStream {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// HMAC over length of the associated data, associated data, body, length of the body: no two pairs of
/// associated data and body give one message.
#[repr(C)]
struct RecordMac {
    mac: Hmac,
    length: u64,
}

impl RecordMac {
    const fn empty() -> Self {
        Self {
            mac: Hmac::empty(),
            length: 0,
        }
    }

    fn begin(&mut self, key: &[u8; 32], aad: &[u8]) {
        self.length = 0;
        self.mac.start(key);
        self.mac.update(&(aad.len() as u64).to_le_bytes());
        self.mac.update(aad);
    }

    fn update(&mut self, body: &[u8]) {
        self.mac.update(body);
        self.length = self.length.wrapping_add(body.len() as u64);
    }

    fn finish(&mut self) -> SealTag {
        self.mac.update(&self.length.to_le_bytes());
        let digest: Digest = self.mac.finish();
        SealTag(digest)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}
