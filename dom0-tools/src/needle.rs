//! Finds known secrets in a stream of bytes, however it is cut into pieces.

use std::io;
use std::path::Path;

use aho_corasick::AhoCorasick;
use memchr::memmem;
use serde::Serialize;

/// Byte strings to look for.
pub struct Needles {
    count: usize,
    longest: usize,
    engine: Engine,
}

/// One needle is by far the commonest case and has a much faster search.
enum Engine {
    Nothing,
    One(Box<memmem::Finder<'static>>),
    Many(Box<AhoCorasick>),
}

impl Needles {
    /// Prepares a search; empty and repeated needles are dropped.
    pub fn new(patterns: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, aho_corasick::BuildError> {
        let mut patterns: Vec<Vec<u8>> = patterns.into_iter().filter(|p| !p.is_empty()).collect();
        patterns.sort();
        patterns.dedup();
        Ok(Self {
            count: patterns.len(),
            longest: patterns.iter().map(Vec::len).max().unwrap_or(0),
            engine: match patterns.as_slice() {
                [] => Engine::Nothing,
                [one] => Engine::One(Box::new(memmem::Finder::new(one).into_owned())),
                many => Engine::Many(Box::new(AhoCorasick::new(many)?)),
            },
        })
    }

    /// Looks for nothing.
    pub const fn none() -> Self {
        Self {
            count: 0,
            longest: 0,
            engine: Engine::Nothing,
        }
    }

    /// Reads one needle a line.
    pub fn lines_of(file: &Path) -> io::Result<Vec<Vec<u8>>> {
        Ok(std::fs::read(file)?
            .split(|&b| b == b'\n')
            .map(<[u8]>::to_vec)
            .collect())
    }

    /// How many different needles there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Calls `hit(needle, start, end)` for every occurrence, overlapping ones too: only so does the
    /// count not depend on where the stream is cut.
    fn each(&self, bytes: &[u8], mut hit: impl FnMut(usize, usize, usize)) {
        match &self.engine {
            Engine::Nothing => {}
            Engine::One(finder) => {
                let mut from = 0;
                while let Some(at) = bytes.get(from..).and_then(|rest| finder.find(rest)) {
                    hit(0, from + at, from + at + finder.needle().len());
                    from += at + 1;
                }
            }
            Engine::Many(engine) => {
                for found in engine.find_overlapping_iter(bytes) {
                    hit(found.pattern().as_usize(), found.start(), found.end());
                }
            }
        }
    }
}

/// A search under way. Feed it the stream in pieces of any size.
pub struct Search<'n> {
    needles: &'n Needles,
    tail: Vec<u8>,
    counts: Vec<u64>,
}

impl<'n> Search<'n> {
    /// Starts at the beginning of a stream.
    pub fn new(needles: &'n Needles) -> Self {
        Self {
            needles,
            tail: Vec::new(),
            counts: vec![0; needles.count],
        }
    }

    /// Takes the next piece; returns how many occurrences end in it.
    pub fn feed(&mut self, piece: &[u8]) -> u64 {
        let keep = self.needles.longest.saturating_sub(1);
        let mut hits = 0;
        let counts = &mut self.counts;
        let mut count = |needle: usize| {
            counts[needle] += 1;
            hits += 1;
        };

        let seam = self.tail.len();
        if seam > 0 {
            // What begins in the earlier pieces and ends in this one.
            self.tail.extend_from_slice(&piece[..piece.len().min(keep)]);
            self.needles.each(&self.tail, |needle, start, end| {
                if start < seam && end > seam {
                    count(needle);
                }
            });
            self.tail.truncate(seam);
        }
        self.needles.each(piece, |needle, _, _| count(needle));

        if piece.len() >= keep {
            self.tail.clear();
            self.tail.extend_from_slice(&piece[piece.len() - keep..]);
        } else {
            self.tail.extend_from_slice(piece);
            self.tail.drain(..self.tail.len().saturating_sub(keep));
        }
        hits
    }

    /// Forgets what came before: the next piece does not continue the last one.
    pub fn cut(&mut self) {
        self.tail.clear();
    }

    /// What was found so far.
    pub fn tally(&self) -> Tally {
        Tally {
            needles: self.needles.count,
            needles_found: self.counts.iter().filter(|&&n| n > 0).count(),
            occurrences: self.counts.iter().sum(),
        }
    }
}

/// Result of a search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Needles looked for.
    pub needles: usize,
    /// Needles that occur at least once.
    pub needles_found: usize,
    /// Occurrences of any needle.
    pub occurrences: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(patterns: &[Vec<u8>], text: &[u8]) -> u64 {
        let mut patterns: Vec<_> = patterns.iter().filter(|p| !p.is_empty()).collect();
        patterns.sort();
        patterns.dedup();
        patterns
            .iter()
            .map(|p| text.windows(p.len()).filter(|w| w == p).count() as u64)
            .sum()
    }

    proptest! {
        #[test]
        fn cuts_do_not_change_the_count(
            patterns in prop::collection::vec(prop::collection::vec(0u8..3, 0..6), 0..4),
            text in prop::collection::vec(0u8..3, 0..200),
            piece in 1usize..20,
        ) {
            let needles = Needles::new(patterns.clone()).unwrap();
            let mut search = Search::new(&needles);
            let hits: u64 = text.chunks(piece).map(|p| search.feed(p)).sum();
            prop_assert_eq!(hits, naive(&patterns, &text));
            prop_assert_eq!(search.tally().occurrences, hits);
        }
    }

    #[test]
    fn a_cut_separates() {
        let needles = Needles::new([b"secret".to_vec()]).unwrap();
        let mut search = Search::new(&needles);
        search.feed(b"..sec");
        search.cut();
        assert_eq!(search.feed(b"ret.."), 0);
    }
}
