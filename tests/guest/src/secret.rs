//! The secret file: known to the guest and to the judge, to nobody in between.

use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::hint::black_box;

/// Number of lines in the secret file, each with the needle in it.
pub const LINES: u32 = 20_000;

const MASK: u8 = 0xa5;
const MASKED: [u8; 24] = masked(*b"nobody-but-the-owner-may");

/// The text that every line of the secret starts with. Built at run time: `black_box` keeps the compiler from
/// folding it into a plain constant, and the image builder checks that it did.
pub fn needle() -> String {
    black_box(MASKED).iter().map(|&b| char::from(b ^ MASK)).collect()
}

/// The whole file.
pub fn text() -> String {
    let needle = needle();
    let mut text = String::with_capacity(LINES as usize * 128);
    for line in 0..LINES {
        let mut x = u64::from(line);
        write!(text, "{needle} {line:05}").expect("writing to a string cannot fail");
        for _ in 0..5 {
            x = splitmix(x);
            write!(text, " {x:016x}").expect("writing to a string cannot fail");
        }
        text.push('\n');
    }
    text
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        })
}

/// One step of Steele, Lea and Flood's SplitMix64: filler that compresses badly and repeats nowhere.
fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
    fn every_line_is_distinct_and_starts_with_the_needle() {
        let (text, needle) = (text(), needle());
        let lines: std::collections::HashSet<_> = text.lines().collect();
        assert_eq!(lines.len(), LINES as usize);
        assert!(lines.iter().all(|line| line.starts_with(&needle)));
    }

    #[test]
    fn sha256_of_abc() {
        // FIPS 180-4, example in NIST's "SHA256.pdf".
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
