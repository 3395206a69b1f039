//! What others offer to encrypt a page with, each by the fastest way that its interface has for pages in place: the key
//! expanded once, a nonce or tweak for each page.

use aegis::{aegis128l::Aegis128L, aegis256::Aegis256};
use aes_gcm::{AeadInOut, KeyInit};
use anyhow::{Result, anyhow, ensure};
use hctr2_rs::Hctr2_256;
use openssl::{
    cipher::{Cipher as Algorithm, CipherRef},
    cipher_ctx::CipherCtx,
};

use vmcrypt_core::cipher::PAGE_SIZE;

use super::{Cipher, Contender, Page, content};

const KEY: [u8; 32] = [0x42; 32];
/// XTS wants two keys that differ.
const XTS_KEY: [u8; 64] = {
    let mut key = [0x42; 64];
    key[63] = 0x24;
    key
};
const TAG: usize = 16;

/// All of them, once those that do the same are seen to agree.
pub fn all() -> Result<Vec<Contender>> {
    let version = openssl::version::version().split(' ').take(2).collect::<Vec<_>>();
    let version = version.join(" ");
    let openssl = |name, algorithm, key: &[u8], tagged| {
        Contender::cipher(name, &version, OpenSsl::new(algorithm, key, tagged)?)
    };
    let mut list = vec![
        openssl("OpenSSL AES-256-GCM", Algorithm::aes_256_gcm(), &KEY, true)?,
        Contender::cipher("ring AES-256-GCM", "ring", Ring::new()?)?,
        Contender::cipher("aws-lc-rs AES-256-GCM", "AWS-LC", AwsLc::new()?)?,
        Contender::cipher("RustCrypto AES-256-GCM", "aes-gcm", RustCrypto::new())?,
    ];
    agree(&mut list)?;
    list.push(openssl(
        "OpenSSL AES-256-CTR",
        Algorithm::aes_256_ctr(),
        &KEY,
        false,
    )?);
    list.push(openssl(
        "OpenSSL AES-256-XTS",
        Algorithm::aes_256_xts(),
        &XTS_KEY,
        false,
    )?);
    list.push(Contender::cipher("HCTR2-AES-256", "hctr2-rs", Hctr2::new())?);
    list.push(Contender::cipher("AEGIS-128L", "libaegis", Aegis128([0; TAG]))?);
    list.push(Contender::cipher("AEGIS-256", "libaegis", AegisWide([0; TAG]))?);
    Ok(list)
}

/// Makes sure that all of these encrypt a page to the same bytes.
fn agree(list: &mut [Contender]) -> Result<()> {
    let pages = list.iter_mut().map(|contender| {
        let mut page = content(3);
        (contender.work)(0x1234_5678, &mut page)?;
        Ok(page)
    });
    let pages: Vec<Page> = pages.collect::<Result<_>>()?;
    for (page, contender) in pages.iter().zip(list) {
        ensure!(
            Some(page) == pages.first(),
            "{} gives another ciphertext",
            contender.name
        );
    }
    Ok(())
}

/// 96 bits, as GCM wants them; longer ones are filled up with zeros.
fn nonce<const LEN: usize>(number: u64) -> [u8; LEN] {
    let mut nonce = [0; LEN];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce
}

struct OpenSsl {
    encrypt: CipherCtx,
    decrypt: CipherCtx,
    tag: Option<[u8; TAG]>,
    nonce: usize,
}

impl OpenSsl {
    fn new(algorithm: &CipherRef, key: &[u8], tagged: bool) -> Result<Self> {
        let (mut encrypt, mut decrypt) = (CipherCtx::new()?, CipherCtx::new()?);
        encrypt.encrypt_init(Some(algorithm), Some(key), None)?;
        decrypt.decrypt_init(Some(algorithm), Some(key), None)?;
        Ok(Self {
            nonce: encrypt.iv_length(),
            encrypt,
            decrypt,
            tag: tagged.then_some([0; TAG]),
        })
    }
}

impl Cipher for OpenSsl {
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let nonce = nonce::<16>(number);
        self.encrypt
            .encrypt_init(None, None, Some(&nonce[..self.nonce]))?;
        self.encrypt.cipher_update_inplace(page, PAGE_SIZE)?;
        if let Some(tag) = &mut self.tag {
            self.encrypt.cipher_final(&mut [])?;
            self.encrypt.tag(tag)?;
        }
        Ok(())
    }

    fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let nonce = nonce::<16>(number);
        self.decrypt
            .decrypt_init(None, None, Some(&nonce[..self.nonce]))?;
        self.decrypt.cipher_update_inplace(page, PAGE_SIZE)?;
        if let Some(tag) = &self.tag {
            self.decrypt.set_tag(tag)?;
            self.decrypt.cipher_final(&mut [])?;
        }
        Ok(())
    }
}

/// Not in place: it takes a copy of the page.
struct Hctr2(Hctr2_256);

impl Hctr2 {
    fn new() -> Self {
        Self(Hctr2_256::new(&KEY))
    }
}

impl Cipher for Hctr2 {
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let plaintext = *page;
        Ok(self.0.encrypt(&plaintext, &nonce::<32>(number), page)?)
    }

    fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let ciphertext = *page;
        Ok(self.0.decrypt(&ciphertext, &nonce::<32>(number), page)?)
    }
}

/// The two have the same interface, and one grew out of the other.
macro_rules! ring_like {
    ($name:ident, $crate_name:ident) => {
        struct $name {
            key: $crate_name::aead::LessSafeKey,
            tag: [u8; TAG],
        }

        impl $name {
            fn new() -> Result<Self> {
                let key = $crate_name::aead::UnboundKey::new(&$crate_name::aead::AES_256_GCM, &KEY)
                    .map_err(|_| anyhow!("the key is not taken"))?;
                Ok(Self {
                    key: $crate_name::aead::LessSafeKey::new(key),
                    tag: [0; TAG],
                })
            }
        }

        impl Cipher for $name {
            fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
                use $crate_name::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce(number));
                let tag = self
                    .key
                    .seal_in_place_separate_tag(nonce, Aad::empty(), page);
                let tag = tag.map_err(|_| anyhow!("the page is not encrypted"))?;
                self.tag.copy_from_slice(tag.as_ref());
                Ok(())
            }

            fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
                use $crate_name::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce(number));
                let mut sealed = [&page[..], &self.tag].concat();
                let opened = self.key.open_in_place(nonce, Aad::empty(), &mut sealed);
                page.copy_from_slice(opened.map_err(|_| anyhow!("another tag"))?);
                Ok(())
            }
        }
    };
}

ring_like!(Ring, ring);
ring_like!(AwsLc, aws_lc_rs);

struct RustCrypto {
    cipher: aes_gcm::Aes256Gcm,
    tag: aes_gcm::Tag,
}

impl RustCrypto {
    fn new() -> Self {
        Self {
            cipher: aes_gcm::Aes256Gcm::new(&KEY.into()),
            tag: aes_gcm::Tag::default(),
        }
    }
}

impl Cipher for RustCrypto {
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let sealed =
            self.cipher
                .encrypt_inout_detached(&nonce(number).into(), &[], page.as_mut_slice().into());
        self.tag = sealed.map_err(|error| anyhow!(error))?;
        Ok(())
    }

    fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
        let page = page.as_mut_slice().into();
        let opened = self
            .cipher
            .decrypt_inout_detached(&nonce(number).into(), &[], page, &self.tag);
        opened.map_err(|error| anyhow!(error))
    }
}

/// Its tag.
struct Aegis128([u8; TAG]);

impl Aegis128 {
    fn at(number: u64) -> Aegis128L<TAG> {
        Aegis128L::new(&[0x42; 16], &nonce(number))
    }
}

impl Cipher for Aegis128 {
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
        self.0 = Self::at(number).encrypt_in_place(page, &[]);
        Ok(())
    }

    fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
        Ok(Self::at(number).decrypt_in_place(page, &self.0, &[])?)
    }
}

/// Its tag.
struct AegisWide([u8; TAG]);

impl AegisWide {
    fn at(number: u64) -> Aegis256<TAG> {
        Aegis256::new(&KEY, &nonce(number))
    }
}

impl Cipher for AegisWide {
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
        self.0 = Self::at(number).encrypt_in_place(page, &[]);
        Ok(())
    }

    fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
        Ok(Self::at(number).decrypt_in_place(page, &self.0, &[])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphers_that_differ_do_not_agree() {
        let gcm = || Contender::cipher("a", "", RustCrypto::new()).unwrap();
        agree(&mut [gcm(), gcm()]).unwrap();
        let other = Contender::cipher("b", "", AegisWide([0; TAG])).unwrap();
        agree(&mut [gcm(), other]).unwrap_err();
    }
}
