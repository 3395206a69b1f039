//! A digest of a set of pages that takes and gives back members in any order.
//!
//! The sum of the members' tags modulo 2^128, and their number. A tag is already the output of a PRF
//! under a key that never leaves Xen, and so is the sum; `docs/CRYPTO.md` has the argument.

use crate::cipher::PageTag;
use crate::disclose::verdict;
use core::fmt;
use subtle::ConstantTimeEq;

/// Digest of a multiset of [`PageTag`]s. Secret like its members.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SetHash {
    sum: [u8; 16],
    count: u64,
}

impl SetHash {
    /// Bytes of [`SetHash::to_bytes`].
    pub const SIZE: usize = 24;

    /// The digest of no page.
    pub const EMPTY: Self = Self {
        sum: [0; 16],
        count: 0,
    };

    /// Adds a page.
    pub const fn add(&mut self, tag: &PageTag) {
        let sum = u128::from_le_bytes(self.sum).wrapping_add(u128::from_le_bytes(tag.0));
        self.sum = sum.to_le_bytes();
        self.count = self.count.wrapping_add(1);
    }

    /// Takes away a page that was added before.
    pub const fn remove(&mut self, tag: &PageTag) {
        let sum = u128::from_le_bytes(self.sum).wrapping_sub(u128::from_le_bytes(tag.0));
        self.sum = sum.to_le_bytes();
        self.count = self.count.wrapping_sub(1);
    }

    /// Number of pages.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The sealed record's form: the sum, then the count, little-endian.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let whole = self.sum.into_iter().chain(self.count.to_le_bytes());
        for (out, byte) in bytes.iter_mut().zip(whole) {
            *out = byte;
        }
        bytes
    }

    /// Reads what [`SetHash::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut hash = Self::EMPTY;
        let mut count = [0; 8];
        for (out, byte) in hash.sum.iter_mut().chain(&mut count).zip(bytes) {
            *out = *byte;
        }
        hash.count = u64::from_le_bytes(count);
        hash
    }
}

impl PartialEq for SetHash {
    fn eq(&self, other: &Self) -> bool {
        verdict(self.to_bytes().ct_eq(&other.to_bytes()))
    }
}

impl Eq for SetHash {}

impl fmt::Debug for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetHash({} pages)", self.count)
    }
}
