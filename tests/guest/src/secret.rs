//! The secret file: known to the guest and to the judge, to nobody in between.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, Read};
use vmcrypt_kernel::{needle_text, splitmix};

/// Number of lines in the secret file, each with the needle in it.
pub const LINES: u32 = 20_000;

/// The text that every line of the secret starts with. Built at run time, so that it is
/// no plain constant of the program, which the image builder checks.
pub fn needle() -> String {
    needle_text().map(char::from).iter().collect()
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
