//! A domain's root key on its way from the owner to Xen, through the hands of dom0.
//!
//! ```text
//! 0        HEADER bytes     in clear, authenticated: magic, version, cipher, epoch, domain, owner, key id, policy
//! HEADER   n * ENVELOPE     one for each host: its public key, what it was sealed with, the sealed root key
//! end-TAG  TAG bytes        HMAC of everything before it, under a key that follows from the root key
//! ```
//! All numbers are little-endian. Each envelope is the HPKE message of [`crate::hpke`] from the owner's key to the
//! host's, with the header as associated data. The hosts that may have the key *are* those it is sealed to. The tag at
//! the end makes all envelopes one: who leaves one out or changes another host's is found out too.

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::Refusal;
use crate::bytes::{Reader, Writer};
use crate::disclose::verdict;
use crate::hpke::{KeyPair, PublicKey, Seal};
use crate::ids::KeyId;
use crate::keys::{CIPHER, RootKey};
use crate::mac::{Digest, Hmac};

/// First eight bytes of the file.
pub const MAGIC: [u8; 8] = *b"VMCKEY\r\n";
/// Version of the layout, and of how keys follow from each other.
pub const VERSION: u32 = 2;
/// HPKE's `info`: what the message is for.
pub const INFO: &[u8] = b"vmcrypt/2 sealed root key";
/// Bytes of the clear header.
pub const HEADER: usize = 136;
/// Bytes of an envelope.
pub const ENVELOPE: usize = 32 + 32 + 32 + 16;
/// Bytes of the tag at the end.
pub const TAG: usize = 32;
/// A key is sealed to at most so many hosts.
pub const MAX_HOSTS: usize = 16;
/// Bytes of the largest file.
pub const MAX: usize = HEADER + MAX_HOSTS * ENVELOPE + TAG;

const TAG_PURPOSE: &[u8] = b"vmcrypt/2 sealed key file";

/// What the owner allows.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// The domain must have been launched as this. Zero: as anything.
    pub measurement: [u8; 32],
    /// Number of the grant: Xen takes none below the highest that it has seen for the domain, and of that one alone again.
    pub serial: u64,
    /// Images that another boot or host sealed may be restored so often while the host is up. Zero: any image, without
    /// limit. Restoring the latest image of this boot for the first time is always allowed, and not counted.
    pub restores: u32,
}

impl Policy {
    /// Whether a domain that was launched as `measurement` may have the key.
    pub fn admits(&self, measurement: &[u8; 32]) -> bool {
        self.measurement == [0; 32] || self.measurement == *measurement
    }
}

/// The part in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of envelopes.
    pub hosts: u32,
    /// Epoch of the root key: the owner's secret gives a domain another one in each.
    pub epoch: u32,
    /// Handle of the domain.
    pub uuid: [u8; 16],
    /// Who sealed it.
    pub owner: PublicKey,
    /// Identifier of the root key.
    pub key: KeyId,
    /// What the owner allows.
    pub policy: Policy,
}

impl Header {
    /// The header as bytes: what each envelope has as associated data.
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut w = Writer::new(&mut bytes);
        // It fits: the fields add up to HEADER, as `read()` shows, which leaves nothing over.
        let _ = (|| {
            w.bytes(&MAGIC)?;
            w.u32(VERSION)?;
            w.u32(CIPHER)?;
            w.u32(self.hosts)?;
            w.u32(self.epoch)?;
            w.bytes(&self.uuid)?;
            w.bytes(&self.owner.0)?;
            w.bytes(&self.key.0)?;
            w.bytes(&self.policy.measurement)?;
            w.u64(self.policy.serial)?;
            w.u32(self.policy.restores)?;
            w.u32(0)
        })();
        bytes
    }
}

/// One host's copy of the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The host that can open it.
    pub host: PublicKey,
    /// What it was sealed with.
    pub seal: Seal,
    /// The root key, encrypted.
    pub text: [u8; 32],
}

impl Envelope {
    /// The envelope as bytes.
    pub fn to_bytes(&self) -> [u8; ENVELOPE] {
        let mut bytes = [0; ENVELOPE];
        let mut w = Writer::new(&mut bytes);
        let _ = (|| {
            w.bytes(&self.host.0)?;
            w.bytes(&self.seal.encapsulated.0)?;
            w.bytes(&self.text)?;
            w.bytes(&self.seal.tag)
        })();
        bytes
    }

    fn read(bytes: &[u8; ENVELOPE]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let (host, encapsulated) = (PublicKey(r.array()?), PublicKey(r.array()?));
        let text = r.array()?;
        let tag = r.array()?;
        Some(Self {
            host,
            seal: Seal { encapsulated, tag },
            text,
        })
    }
}

/// A file that has the right shape. Who wrote it shows when it is opened.
#[derive(Debug, Clone, Copy)]
pub struct SealedKey<'a> {
    header: Header,
    bytes: &'a [u8],
}

impl<'a> SealedKey<'a> {
    /// Reads the header, and proves that the size is what it says.
    ///
    /// # Errors
    /// [`Refusal::KeyVersion`] and [`Refusal::KeyCipher`] for another version or cipher, [`Refusal::KeyFormat`] for what is
    /// no sealed key.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        match numbers(bytes).ok_or(Refusal::KeyFormat)? {
            (VERSION, CIPHER) => {}
            (VERSION, _) => return Err(Refusal::KeyCipher),
            _ => return Err(Refusal::KeyVersion),
        }
        let header = (|| {
            let mut r = Reader::new(bytes);
            r.array::<16>()?;
            let hosts = r.u32()?;
            let header = Header {
                hosts,
                epoch: r.u32()?,
                uuid: r.array()?,
                owner: PublicKey(r.array()?),
                key: KeyId(r.array()?),
                policy: Policy {
                    measurement: r.array()?,
                    serial: r.u64()?,
                    restores: r.u32()?,
                },
            };
            let rest = (hosts as usize).checked_mul(ENVELOPE)?.checked_add(TAG)?;
            let sound = (1..=MAX_HOSTS).contains(&(hosts as usize)) && r.u32()? == 0;
            (sound && r.remaining() == rest).then_some(header)
        })();
        header
            .map(|header| Self { header, bytes })
            .ok_or(Refusal::KeyFormat)
    }

    /// The part in clear.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What each host got.
    pub fn envelopes(&self) -> impl Iterator<Item = Envelope> + use<'a> {
        let all = self.bytes.get(HEADER..).unwrap_or_default();
        let all = all.get(..all.len().saturating_sub(TAG)).unwrap_or_default();
        all.as_chunks().0.iter().filter_map(Envelope::read)
    }

    /// Opens the envelope that is for `host`, checks that all of the file comes from who made it, and puts the key
    /// into `root`.
    ///
    /// # Errors
    /// [`Refusal::KeyHost`] if it was not sealed for this host, [`Refusal::KeyChanged`] if it is not genuine; `root`
    /// holds no key then.
    pub fn open(&self, host: &KeyPair, root: &mut RootKey) -> Result<(), Refusal> {
        root.zeroize();
        let mut mine = self
            .envelopes()
            .find(|envelope| envelope.host == *host.public())
            .ok_or(Refusal::KeyHost)?;
        let aad = self.bytes.get(..HEADER).unwrap_or_default();
        host.open(&self.header.owner, &mine.seal, INFO, aad, &mut mine.text)
            .map_err(|_| Refusal::KeyChanged)?;
        root.set(&mine.text);
        mine.text.zeroize();
        let (body, tag) = self.bytes.split_last_chunk::<TAG>().ok_or(Refusal::KeyFormat)?;
        let genuine = verdict(file_tag(root, body).ct_eq(tag));
        if genuine && root.key_id() == self.header.key {
            Ok(())
        } else {
            root.zeroize();
            Err(Refusal::KeyChanged)
        }
    }
}

/// Version and cipher of a sealed key of any version from 2 on; of an earlier one the cipher means nothing. `None` for what
/// is no sealed key.
pub fn numbers(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut r = Reader::new(bytes);
    (r.array()? == MAGIC).then_some(())?;
    Some((r.u32()?, r.u32()?))
}

/// The tag at the end of a file that begins with `body`.
pub fn file_tag(root: &RootKey, body: &[u8]) -> Digest {
    let mut key = [0; 32];
    root.derive(TAG_PURPOSE, &mut key);
    let mut mac = Hmac::empty();
    mac.start(&key);
    key.zeroize();
    mac.update(body);
    mac.finish()
}
