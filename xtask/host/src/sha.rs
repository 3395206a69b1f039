//! Pinned hashes.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    str::FromStr,
};

use anyhow::{Context, Error, Result, ensure};
use sha2::Digest;

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Hash of a byte string.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Hash of a file.
    pub fn of_file(path: &Path) -> Result<Self> {
        let hash = || -> io::Result<Self> {
            let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
            let mut hasher = sha2::Sha256::new();
            loop {
                let chunk = file.fill_buf()?;
                if chunk.is_empty() {
                    return Ok(Self(hasher.finalize().into()));
                }
                hasher.update(chunk);
                let length = chunk.len();
                file.consume(length);
            }
        };
        hash().with_context(|| format!("cannot read {}", path.display()))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut value = [0; 32];
        ensure!(
            text.len() == 64 && hex::decode_to_slice(text, &mut value).is_ok(),
            "`{text}` is not a SHA-256 value: it must be 64 hexadecimal digits"
        );
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_parses() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), abc);
        assert_eq!(abc.parse::<Sha256>().unwrap(), Sha256::of(b"abc"));
        assert!("abc".parse::<Sha256>().is_err());
    }
}
