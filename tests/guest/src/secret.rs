//! The secret file: known to the guest and to the judge, to nobody in between.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{self, Read};

/// Number of lines in the secret file, each with the needle in it.
pub const LINES: u32 = 20_000;

const MASK: u8 = 0xa5;
const MASKED: [u8; 24] = masked(*b"nobody-but-the-owner-may");

/// The text that every line of the secret starts with. Built at run time: `black_box` keeps the compiler from
/// folding it into a plain constant, and the image builder checks that it did.
pub fn needle() -> String {
    black_box(MASKED).iter().map(|&b| char::from(b ^ MASK)).collect()
}

/// The file, line by line: whoever holds it whole beside the file doubles what an observer finds.
pub fn lines() -> impl Iterator<Item = String> {
    let needle = needle();
    (0..LINES).map(move |number| {
        let mut line = format!("{needle} {number:05}");
        let mut x = u64::from(number);
        for _ in 0..5 {
            x = splitmix(x);
            write!(line, " {x:016x}").expect("writing to a string cannot fail");
        }
        line + "\n"
    })
}

/// SHA-256 of the file as it was written.
pub fn expected_sha256() -> String {
    sha256(&lines().collect::<String>().into_bytes()[..]).expect("reading from memory cannot fail")
}

/// SHA-256 of all that can be read, in hexadecimal.
pub fn sha256(mut from: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut part = [0; 4096];
    while let n @ 1.. = from.read(&mut part)? {
        hasher.update(&part[..n]);
    }
    Ok(hasher
        .finalize()
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        }))
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
        let (lines, needle): (std::collections::HashSet<_>, _) = (lines().collect(), needle());
        assert_eq!(lines.len(), LINES as usize);
        assert!(lines.iter().all(|line| line.starts_with(&needle)));
    }

    #[test]
    fn sha256_of_abc() {
        // FIPS 180-4, example in NIST's "SHA256.pdf".
        assert_eq!(
            sha256(&b"abc"[..]).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
