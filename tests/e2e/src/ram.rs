//! The machine's memory as a thief sees it, and what it must not hold.
//!
//! The thief knows more than any thief would: from a dump it takes the host key, which it knows by its published
//! identifier, and derives from it everything that Xen derives. What is then found in the dump is a key in use; what
//! is found in a later dump is a key that was not wiped.

use anyhow::{Context, Result, anyhow, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use vmcrypt_core::Pfn;
use vmcrypt_core::aes::AesKey;
use vmcrypt_core::cipher::{PAGE_SIZE, PageKind, Portable, Tweak, encrypt_page};
use vmcrypt_core::hpke::{KeyPair, PublicKey};
use vmcrypt_core::ids::SessionId;
use vmcrypt_core::keys::{RecordKey, RootKey, SessionKeys};
use vmcrypt_core::mac::{Hmac, expand, hkdf};
use vmcrypt_core::polyval::HashKey;
use vmcrypt_core::record::{Facts, HEADER, Header, MAGIC, TAG};
use vmcrypt_core::seal::{Opener, SealTag};

/// Bytes that are looked for at a time: half a key, a round key, a tag.
const WINDOW: usize = 16;
type Window = [u8; WINDOW];

/// A root key, the host's or an owner's, as a dump of a running machine gives it away.
pub struct Root([u8; 32]);

impl Root {
    /// Finds the key with this identifier in Xen's own image.
    pub fn find(dump: &Path, id: [u8; 16]) -> Result<Root> {
        let mut candidate = RootKey::empty();
        let found = search(dump, |key| {
            candidate.set(key);
            candidate.key_id().0 == id
        })?;
        found
            .map(Root)
            .context("the key is not in Xen's image; has the place moved where it is kept?")
    }

    fn key(&self) -> RootKey {
        let mut key = RootKey::empty();
        key.set(&self.0);
        key
    }

    /// The record in an image's XSAVE record, in clear, and its session.
    pub fn open_record(&self, xsave: &[u8]) -> Result<(Vec<u8>, [u8; 16])> {
        let at = xsave.windows(MAGIC.len()).position(|bytes| bytes == MAGIC);
        let mut record = xsave[at.context("the image has no sealed record")?..].to_vec();
        let header = Header::read(&record).map_err(|refusal| anyhow!(refusal.text()))?;
        let (clear, rest) = record.split_at_mut(HEADER);
        let (body, tag) = rest.split_last_chunk_mut::<TAG>().context("a short record")?;
        let mut key = RecordKey::empty();
        key.derive(&self.key(), &header.session);
        let mut opener = Opener::empty();
        opener.begin(&key, header.sequence, clear);
        opener.check(body);
        let opened = opener.verify(&SealTag(*tag)).and_then(|()| opener.open(body));
        ensure!(opened.is_ok(), "the record does not open with the host key");
        Ok((record, header.session.0))
    }
}

/// The secret half of the host's key pair, beside the host key.
pub fn pair_secret(dump: &Path, host: &Root, public: &PublicKey) -> Result<[u8; 32]> {
    // Curve arithmetic is slow, so only what lies near is tried.
    const NEAR: usize = 128;
    let (mut pair, mut near) = (KeyPair::empty(), Vec::new());
    each_image(dump, |image| {
        for at in memchr::memmem::find_iter(image, &host.0) {
            near.extend_from_slice(&image[at.saturating_sub(NEAR)..(at + NEAR).min(image.len())]);
        }
        None::<()>
    })?;
    let secret = near.windows(32).find(|window| {
        pair.set(window.first_chunk().expect("a window has 32 bytes"));
        pair.public() == public
    });
    let secret = secret.context("the host's key pair is not beside the host key; has it moved?")?;
    Ok(*secret.first_chunk().expect("a window has 32 bytes"))
}

/// Looks for 32 bytes in Xen's own image that are what is looked for.
fn search(dump: &Path, mut is_it: impl FnMut(&[u8; 32]) -> bool) -> Result<Option<[u8; 32]>> {
    each_image(dump, |image| {
        (0..image.len().saturating_sub(31)).step_by(4).find_map(|place| {
            let key: &[u8; 32] = image[place..].first_chunk().expect("32 bytes are left");
            // A drawn key has no word of zeros, most of what lies here has one.
            (!key.as_chunks::<4>().0.contains(&[0; 4]) && is_it(key)).then_some(*key)
        })
    })
}

/// Shows everything that may be Xen's own image, until something is found in it.
fn each_image<T>(dump: &Path, mut look: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>> {
    // Multiboot 1 specification, section 3.1.1; the header stands at the image's very beginning.
    const MULTIBOOT: [u8; 4] = 0x1bad_b002u32.to_le_bytes();
    // Xen maps itself with pages of 2 MiB (asm/config.h), so that is how it lies; it is smaller than 8 MiB.
    const PLACE: usize = 2 << 20;
    const IMAGE: usize = 8 << 20;
    let mut image = Vec::new();
    for at in (0..std::fs::metadata(dump)?.len()).step_by(PLACE) {
        read_at(dump, at, 4096, &mut image)?;
        if !image.windows(4).any(|word| word == MULTIBOOT) {
            continue;
        }
        read_at(dump, at, IMAGE, &mut image)?;
        let found = look(&image);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn read_at(file: &Path, at: u64, length: usize, into: &mut Vec<u8>) -> Result<()> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(at))?;
    into.clear();
    file.take(length as u64).read_to_end(into)?;
    Ok(())
}

/// What is looked for, by name.
#[derive(Default)]
pub struct Needles {
    names: Vec<String>,
    windows: HashMap<Window, usize>,
}

/// How many windows of each name were found, and how often in all.
pub type Found = BTreeMap<String, (usize, usize)>;

impl Needles {
    /// A root key, in the forms in which it is kept and in which computations with it could leave it.
    pub fn root(&mut self, name: &str, root: &Root) {
        self.secret(name, &root.0);
    }

    /// The secret half of a key pair.
    pub fn pair(&mut self, name: &str, secret: &[u8; 32]) {
        for window in secret.as_chunks().0 {
            self.window(name, *window);
        }
    }

    /// All keys of a session under `root`; `who` names its domain.
    pub fn session(&mut self, who: &str, root: &Root, session: [u8; 16]) {
        let mut pages = [0; 64];
        hkdf(
            &session,
            &root.0,
            &[b"vmcrypt/2 cipher 1 page and tag"],
            &mut pages,
        );
        let mut record = [0; 32];
        hkdf(&session, &root.0, &[b"vmcrypt/2 cipher 1 record"], &mut record);
        let [cipher, tag] = pages.as_chunks::<32>().0 else {
            unreachable!("64 bytes are two keys")
        };
        let mut hash = HashKey::empty();
        for (name, key) in [("page cipher's key", cipher), ("tag cipher's key", tag)] {
            let mut aes = AesKey::empty();
            aes.set(key);
            for round in aes.round_keys() {
                self.window(&format!("{who}: {name}"), *round);
            }
            for sliced in aes.sliced_keys() {
                self.words(&format!("{who}: {name}, sliced"), sliced);
            }
            if name.starts_with("page") {
                let mut zero = [0; 16];
                aes.encrypt(&mut zero);
                hash.set(&zero);
                let mut one = 1u128.to_le_bytes();
                aes.encrypt(&mut one);
                self.window(&format!("{who}: mask"), one);
            }
        }
        for power in hash.powers() {
            self.words(&format!("{who}: hash key"), power);
        }
        self.secret(&format!("{who}: record key"), &record);

        // What is there only while keys are derived.
        let mut mac = Hmac::empty();
        mac.start(&session);
        mac.update(&root.0);
        let passing = format!("{who}: {PASSING}");
        self.secret(&passing, &mac.finish());
        self.swapped(&passing, cipher);
        self.swapped(&passing, tag);
        for counter in 0..4u64 {
            let mut sealing = [0; 64];
            expand(
                &record,
                &[b"vmcrypt/2 cipher 1 seal", &counter.to_le_bytes()],
                &mut sealing,
            );
            self.secret(&passing, &sealing);
        }
    }

    /// Tags of pages that are all zero, of which a guest has many, and which of them nobody knows.
    pub fn zero_tags(&mut self, who: &str, root: &Root, session: [u8; 16], pfns: u64) {
        let session = SessionId(session);
        let mut keys = SessionKeys::empty();
        keys.derive(&root.key(), &session);
        for pfn in 0..pfns {
            let tweak = Tweak {
                session,
                pfn: Pfn(pfn),
                kind: PageKind::PRIVATE,
            };
            let tag = encrypt_page(&Portable, keys.page(), &tweak, &mut [0; PAGE_SIZE]);
            self.window(&format!("{who}: tags"), tag.0);
        }
    }

    /// A record in clear: the digests of its pages, which are nowhere else.
    pub fn record(&mut self, who: &str, opened: &[u8]) -> Result<()> {
        let facts = Facts::read(opened).map_err(|refusal| anyhow!(refusal.text()))?;
        for digest in [facts.digests.private, facts.digests.plain] {
            let bytes = digest.to_bytes();
            self.window(
                &format!("{who}: record"),
                *bytes.first_chunk().expect("a digest is longer"),
            );
        }
        Ok(())
    }

    /// A key that goes through HMAC: also with its words swapped, as SHA-256 reads them, and under both pads.
    fn secret(&mut self, name: &str, key: &[u8]) {
        for pad in [0, 0x36, 0x5c] {
            let padded: Vec<u8> = key.iter().map(|byte| byte ^ pad).collect();
            for window in padded.as_chunks().0 {
                self.window(name, *window);
            }
            self.swapped(name, &padded);
        }
    }

    fn swapped(&mut self, name: &str, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        for word in bytes.as_chunks_mut::<4>().0 {
            word.reverse();
        }
        for window in bytes.as_chunks().0 {
            self.window(name, *window);
        }
    }

    fn words(&mut self, name: &str, [low, high]: &[u64; 2]) {
        self.window(name, (u128::from(*low) | u128::from(*high) << 64).to_le_bytes());
    }

    fn window(&mut self, name: &str, window: Window) {
        let index = self.names.iter().position(|known| known == name);
        let index = index.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        self.windows.insert(window, index);
    }

    /// Looks at every byte of a dump. Every name has an entry in the answer.
    pub fn find(&self, dump: &Path) -> Result<Found> {
        const CHUNK: usize = 32 << 20;
        let mut filter = vec![false; 1 << 20];
        for window in self.windows.keys() {
            filter[sieve(window)] = true;
        }
        let mut places: HashMap<Window, usize> = HashMap::new();
        let mut file = File::open(dump)?;
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            // What is left of the chunk before may begin a window that ends in this one.
            let kept = bytes.split_off(bytes.len() - bytes.len().min(WINDOW - 1));
            bytes = kept;
            let before = bytes.len();
            Read::by_ref(&mut file)
                .take(CHUNK as u64)
                .read_to_end(&mut bytes)?;
            if bytes.len() == before {
                break;
            }
            let mut at = 0;
            while at + WINDOW <= bytes.len() {
                if bytes[at..].starts_with(&[0; 64]) {
                    at += 64 - WINDOW + 1;
                    continue;
                }
                let window: &Window = bytes[at..].first_chunk().expect("a window is left");
                if filter[sieve(window)] && self.windows.contains_key(window) {
                    *places.entry(*window).or_default() += 1;
                }
                at += 1;
            }
        }
        let mut found: Found = self.names.iter().map(|name| (name.clone(), (0, 0))).collect();
        for (window, times) in places {
            let entry = found
                .entry(self.names[self.windows[&window]].clone())
                .or_default();
            entry.0 += 1;
            entry.1 += times;
        }
        Ok(found)
    }
}

/// In the names of what no memory should hold at any time that a dump can see.
pub const PASSING: &str = "passing";

fn sieve(window: &Window) -> usize {
    let word = u64::from_le_bytes(*window.first_chunk().expect("a window has 16 bytes"));
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_at_any_place_and_over_any_seam() {
        let host = Root(core::array::from_fn(|i| 0x40 ^ (7 * i as u8)));
        let mut needles = Needles::default();
        needles.root("host key", &host);
        let file = tempfile::NamedTempFile::new().unwrap();
        for at in [0, 1, 4093, (32 << 20) - 7, (32 << 20) + 5000] {
            let mut memory = vec![0; (32 << 20) + 8192];
            std::fs::write(file.path(), &memory).unwrap();
            assert_eq!(needles.find(file.path()).unwrap()["host key"], (0, 0));
            memory[at..at + 32].copy_from_slice(&host.0);
            std::fs::write(file.path(), &memory).unwrap();
            assert_eq!(needles.find(file.path()).unwrap()["host key"], (2, 2), "at {at}");
            memory[at + 20] ^= 1;
            std::fs::write(file.path(), &memory).unwrap();
            assert_eq!(needles.find(file.path()).unwrap()["host key"], (1, 1), "at {at}");
        }
    }
}
