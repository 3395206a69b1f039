//! A PV guest of a few MiB that boots at once: what a test needs that saves and restores hundreds of times.
//!
//! It has every kind of page that a save image can hold (page tables of all levels, a GDT, an LDT, P2M leaves, rings,
//! private pages), two vCPUs if it is given two, and checks all of it once in a while: see `main.rs`. This part is what
//! the kernel and those who judge it must agree on.

#![no_std]

use core::hint::black_box;

/// Every line of the kernel's console begins so, and ends with a dot.
pub const PREFIX: &str = "vmcrypt-kernel: ";

/// Words of a page.
pub const WORDS: usize = 512;

/// The nonce with which the kernel asks about itself after so many looks at its memory.
pub fn nonce(rounds: u64) -> [u8; 32] {
    core::array::from_fn(|at| (splitmix(rounds) >> (at % 8 * 8)) as u8)
}

/// Where in each private page the needle stands, in words.
pub const NEEDLE_AT: usize = 16;

const MASK: u8 = 0xa5;
const MASKED: [u8; 24] = masked(*b"nobody-but-the-owner-may");

/// The text to look for, in every test guest. It stands nowhere in a program: `black_box` keeps the compiler from
/// folding it into a plain constant.
pub fn needle_text() -> [u8; 24] {
    black_box(MASKED).map(|byte| byte ^ MASK)
}

/// The same, eight bytes a word.
pub fn needle() -> [u64; 3] {
    let text = needle_text();
    core::array::from_fn(|word| u64::from_le_bytes(core::array::from_fn(|byte| text[8 * word + byte])))
}

/// A word of a private page other than the needle: different for each key, page and place.
pub fn filler(key: u64, pfn: u64, word: usize) -> u64 {
    splitmix(key ^ (pfn * WORDS as u64 + word as u64))
}

/// One step of Steele, Lea and Flood's SplitMix64: filler that compresses badly and repeats nowhere.
pub fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a line of the kernel's console says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// It is up, with this hash of its private memory.
    Ready(&'a str),
    /// It looked at everything again: number of the round, and the hash.
    Intact(u64, &'a str),
    /// It came back from a suspend.
    Resumed,
    /// What it was told of itself, in hexadecimal digits.
    Answer(&'a str),
    /// Why it was told nothing: what the hypercall came back with.
    NoAnswer(&'a str),
    /// Something is not as it must be.
    Fail(&'a str),
}

impl<'a> Line<'a> {
    /// Reads a line of a console; `None` if it is not a complete line of ours.
    pub fn parse(line: &'a str) -> Option<Line<'a>> {
        let at = line.find(PREFIX)? + PREFIX.len();
        let text = line[at..].trim_end().strip_suffix('.')?;
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        match verb {
            "ready" => Some(Line::Ready(rest)),
            "resumed" => Some(Line::Resumed),
            "answer" => Some(Line::Answer(rest)),
            "unanswered" => Some(Line::NoAnswer(rest)),
            "FAIL" => Some(Line::Fail(rest)),
            "round" => {
                let (number, hash) = rest.split_once(" intact ")?;
                Some(Line::Intact(number.parse().ok()?, hash))
            }
            _ => None,
        }
    }
}

const fn masked<const N: usize>(mut text: [u8; N]) -> [u8; N] {
    let mut i = 0;
    while i < N {
        text[i] ^= MASK;
        i += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_or_not_at_all() {
        assert_eq!(
            Line::parse("vmcrypt-kernel: round 7 intact 00ff.\r"),
            Some(Line::Intact(7, "00ff"))
        );
        assert_eq!(Line::parse("vmcrypt-kernel: round 7 intact 00f"), None);
        assert_eq!(
            Line::parse("vmcrypt-kernel: FAIL the GDT."),
            Some(Line::Fail("the GDT"))
        );
        assert_eq!(Line::parse("vmcrypt-kernel: resumed."), Some(Line::Resumed));
        assert_eq!(
            Line::parse("vmcrypt-kernel: unanswered -38."),
            Some(Line::NoAnswer("-38"))
        );
        assert_eq!(Line::parse("Linux version 6.12."), None);
    }

    #[test]
    fn pages_and_keys_differ() {
        assert_ne!(filler(1, 2, 3), filler(1, 3, 3));
        assert_ne!(filler(1, 2, 3), filler(2, 2, 3));
    }
}
