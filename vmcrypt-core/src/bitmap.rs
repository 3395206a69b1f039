//! A set of page frame numbers: one bit a page, readable and changeable by several CPUs at once.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::Pfn;

/// Bits in a word of the map.
const BITS: u64 = 64;

/// A set of [`Pfn`]s over memory that its creator owns. A PFN out of range is never a member and
/// cannot become one, so that what cannot be judged reads as "no".
#[derive(Clone, Copy)]
pub struct PfnSet<'a> {
    words: &'a [AtomicU64],
}

impl<'a> PfnSet<'a> {
    /// Number of words for a set that can hold PFNs below `pfns`.
    pub const fn words_for(pfns: u64) -> u64 {
        pfns.div_ceil(BITS)
    }

    /// A set over `words`.
    pub const fn new(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }

    /// Whether `pfn` is a member.
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.word(pfn)
            .is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Adds `pfn`; true if it is in range and was no member.
    pub fn insert(&self, pfn: Pfn) -> bool {
        self.word(pfn)
            .is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Removes `pfn`; true if it was a member.
    pub fn remove(&self, pfn: Pfn) -> bool {
        self.word(pfn)
            .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// Number of members.
    pub fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|w| u64::from(w.load(Ordering::Acquire).count_ones()))
            .sum()
    }

    /// Whether every member is one of `other`.
    pub fn is_subset(&self, other: PfnSet<'_>) -> bool {
        self.words
            .iter()
            .zip(other.words)
            .all(|(a, b)| a.load(Ordering::Acquire) & !b.load(Ordering::Acquire) == 0)
    }

    /// Removes every member.
    pub fn clear(&self) {
        self.words.iter().for_each(|w| w.store(0, Ordering::Release));
    }

    /// Members that are also in `other`, in ascending order.
    pub fn common(self, other: PfnSet<'a>) -> impl Iterator<Item = Pfn> + 'a {
        self.words
            .iter()
            .zip(other.words)
            .zip(0u64..)
            .flat_map(|((a, b), index)| {
                let mut bits = a.load(Ordering::Acquire) & b.load(Ordering::Acquire);
                core::iter::from_fn(move || {
                    let bit = u64::from(bits.trailing_zeros());
                    (bits != 0).then(|| {
                        bits &= bits - 1;
                        Pfn(index * BITS + bit)
                    })
                })
            })
    }

    /// The words, for a record.
    pub fn snapshot(self) -> impl Iterator<Item = u64> + 'a {
        self.words.iter().map(|w| w.load(Ordering::Acquire))
    }

    fn word(&self, pfn: Pfn) -> Option<(&'a AtomicU64, u64)> {
        let index = usize::try_from(pfn.0 / BITS).ok()?;
        Some((self.words.get(index)?, 1 << (pfn.0 % BITS)))
    }
}
