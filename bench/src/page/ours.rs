//! The page cipher of VMCrypt, with every backend of this CPU.

use anyhow::{Context, Result, ensure};
use hctr2_rs::Hctr2_256;
use vmcrypt_core::{
    Pfn,
    cipher::{Backend, PageKey, PageKind, PageTag, Portable, Tweak, decrypt_page, encrypt_page},
    ids::SessionId,
};
use vmcrypt_simd::{avx2::Avx2, avx512::Avx512, ni::AesNi};

use super::{Cipher, Contender, Page, content};
use crate::backend::{AESNI, AVX2, AVX512, Kind, PORTABLE};

/// HCTR2 with AES-256, and a tag.
pub const NAME: &str = "vmcrypt-page";
/// The portable backend is some hundred times slower than the fastest.
const SHARE: usize = 16;
const SECRET: [u8; 64] = [0x42; 64];
const SESSION: SessionId = SessionId([7; 16]);

/// Every backend of this CPU, the slowest first.
pub fn all() -> Result<Vec<Contender>> {
    let mut list = vec![Contender {
        share: SHARE,
        ..contender(PORTABLE, Portable)?
    }];
    if let Some(backend) = AesNi::detect() {
        list.push(contender(AESNI, backend)?);
    }
    if let Some(backend) = Avx2::detect() {
        list.push(contender(AVX2, backend)?);
    }
    if let Some(backend) = Avx512::detect() {
        list.push(contender(AVX512, backend)?);
    }
    Ok(list)
}

fn contender(kind: Kind, backend: impl Backend + 'static) -> Result<Contender> {
    let mut cipher = Ours::new(backend);
    agrees(&mut cipher).with_context(|| format!("{NAME}, {}", kind.name))?;
    Contender::cipher(NAME, kind.name, cipher)
}

struct Ours<B> {
    backend: B,
    key: Box<PageKey>,
    tag: PageTag,
}

impl<B: Backend> Ours<B> {
    fn new(backend: B) -> Self {
        let mut key = Box::new(PageKey::empty());
        key.set(&SECRET);
        Self {
            backend,
            key,
            tag: PageTag::default(),
        }
    }
}

fn tweak(number: u64) -> Tweak {
    Tweak {
        session: SESSION,
        pfn: Pfn(number),
        kind: PageKind::PRIVATE,
    }
}

impl<B: Backend> Cipher for Ours<B> {
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
        self.tag = encrypt_page(&self.backend, &self.key, &tweak(number), page);
        Ok(())
    }

    fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let tag = decrypt_page(&self.backend, &self.key, &tweak(number), page);
        ensure!(tag == self.tag, "another page, or another place");
        Ok(())
    }
}

/// Makes sure that the ciphertext is that of an independent HCTR2.
fn agrees(cipher: &mut impl Cipher) -> Result<()> {
    let number = 0x1234_5678;
    let tweak = [&SESSION.0[..], &u64::to_le_bytes(number), &u64::to_le_bytes(0)].concat();
    let mut expected = [0; 4096];
    Hctr2_256::new(&SECRET[..32])
        .encrypt(&content(2), &tweak, &mut expected)
        .context("the other HCTR2 encrypts no page")?;
    let mut page = content(2);
    cipher.seal(number, &mut page)?;
    ensure!(page == expected, "another HCTR2 gives another ciphertext");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_does_not_agree() {
        let mut cipher = Ours::new(Portable);
        agrees(&mut cipher).unwrap();
        cipher.key.set(&[0x43; 64]);
        agrees(&mut cipher).unwrap_err();
    }
}
