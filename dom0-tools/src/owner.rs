//! The owner's side of owner keys: nothing here needs Xen, and nothing here should run where dom0 can look.
//!
//! One secret is all that an owner has to keep. The root key of each of his domains follows from it, the domain's uuid and an
//! epoch, and so does the key pair that proves a sealed key to be his. The secret is kept in a file of one line, either as it
//! is, or under a passphrase: ChaCha20-Poly1305 under a key that scrypt (RFC 7914) makes of it.

use std::fmt;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Nonce, Tag};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeS, Serializable, setup_sender};
use vmcrypt_core::abi::{self, Answer};
use vmcrypt_core::answer;
use vmcrypt_core::hpke::{KeyPair, PublicKey, Seal};
use vmcrypt_core::keys::RootKey;
use vmcrypt_core::mac::hkdf;
use vmcrypt_core::sealed_key::{Envelope, Header, INFO, MAX_HOSTS, Policy, file_tag};
use zeroize::{Zeroize, Zeroizing};

/// What a file with an owner's secret begins with; 64 hexadecimal digits follow.
const PREFIX: &str = "vmcrypt-owner-2 ";
/// Bytes of such a file: a line.
const TEXT: usize = PREFIX.len() + 64 + 1;
/// What a file with an owner's secret under a passphrase begins with. There follow the binary logarithm of scrypt's cost N,
/// the salt (32 hexadecimal digits), and the secret with its tag, encrypted (96 digits).
const PROTECTED: &str = "vmcrypt-owner-2-scrypt ";
/// What files of earlier versions begin with.
const EARLIER: &str = "vmcrypt-owner-1 ";
/// scrypt's cost for new files: 128 MiB and about a third of a second.
pub const LOG_N: u8 = 17;
/// The largest that is accepted: 2 GiB.
const MAX_LOG_N: u8 = 21;
const SALT: &[u8] = b"vmcrypt/2 owner";

/// An owner's secret. Wiped on drop, printed by nobody.
pub struct OwnerKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerKey(..)")
    }
}

/// Why a key could not be sealed, or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no randomness.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Not a file of [`OwnerKey::to_text`]'s or [`OwnerKey::protect`]'s.
    #[error(
        "not an owner's key: one line that begins with \"{PREFIX}\" or \"{PROTECTED}\"; make one with `vmcrypt key new`"
    )]
    NoKey,
    /// A file of an earlier version.
    #[error(
        "an owner's key of version 1, which this tool does not know; make a new one with `vmcrypt key new`"
    )]
    Earlier,
    /// Another passphrase, or a changed file.
    #[error("wrong passphrase, or the file was changed")]
    Passphrase,
    /// Too many hosts, or none.
    #[error("a key can be sealed to 1 to {MAX_HOSTS} hosts, not to {0}")]
    Hosts(usize),
    /// One host twice.
    #[error("host {0:?} is named twice")]
    Twice(PublicKey),
    /// Not [`Answer::BYTES`] bytes.
    #[error("not an answer of Xen's: it has {} bytes", Answer::BYTES)]
    NoAnswer,
    /// From a Xen of another version.
    #[error("the answer has version {0}, which this program does not know: use that of the host")]
    Version(u32),
    /// The guest runs where dom0 can read its memory.
    #[error("the domain is not protected")]
    Unprotected,
    /// To another question.
    #[error("the answer has another nonce: it may be an old one")]
    Nonce,
    /// About another domain.
    #[error("the answer is about a domain with another uuid")]
    Domain,
    /// Nothing that follows from an owner's secret is in it.
    #[error("the domain is under no owner's key, so that nothing proves where the answer comes from")]
    Ownerless,
    /// Not made by a host that the domain's key was sealed to.
    #[error(
        "the answer does not authenticate: it was changed, or did not come from a Xen that has this owner's key"
    )]
    Forged,
    /// A point that is no public key.
    #[error("host {host:?} is no X25519 public key: {error}")]
    Host {
        /// What was given.
        host: PublicKey,
        /// What is wrong with it.
        error: HpkeError,
    },
}

impl OwnerKey {
    /// Draws a new secret.
    ///
    /// # Errors
    /// If the kernel has no randomness.
    pub fn draw() -> Result<Self, Error> {
        let mut key = Self(Zeroizing::new([0; 32]));
        getrandom::fill(&mut *key.0)?;
        Ok(key)
    }

    /// The contents of the file to keep it in.
    pub fn to_text(&self) -> Zeroizing<[u8; TEXT]> {
        let mut text = Zeroizing::new([b'\n'; TEXT]);
        let (prefix, digits) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        hex::encode_to_slice(*self.0, &mut digits[..64]).expect("64 digits for 32 bytes");
        text
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_text(text: &[u8]) -> Result<Self, Error> {
        if text.starts_with(EARLIER.as_bytes()) {
            return Err(Error::Earlier);
        }
        let digits = text.strip_prefix(PREFIX.as_bytes()).ok_or(Error::NoKey)?;
        let mut key = Self(Zeroizing::new([0; 32]));
        hex::decode_to_slice(digits.trim_ascii_end(), &mut *key.0).map_err(|_| Error::NoKey)?;
        Ok(key)
    }

    /// The contents of the file to keep it in under a passphrase; 2^`log_n` is scrypt's cost.
    ///
    /// # Errors
    /// If the kernel has no randomness, or the cost is out of range.
    pub fn protect(&self, passphrase: &[u8], log_n: u8) -> Result<String, Error> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        let head = format!("{PROTECTED}{log_n} {}", hex::encode(salt));
        let mut secret = self.0.clone();
        let tag = aead(passphrase, &salt, log_n)?
            .encrypt_inout_detached(&Nonce::default(), head.as_bytes(), secret.as_mut_slice().into())
            .map_err(|_| Error::Passphrase)?;
        Ok(format!("{head} {}{}\n", hex::encode(*secret), hex::encode(tag)))
    }

    /// Whether the contents of a file are those of an owner's key, with or without a passphrase, of any version.
    pub fn is_one(text: &[u8]) -> bool {
        Self::is_protected(text)
            || [PREFIX, EARLIER]
                .iter()
                .any(|prefix| text.starts_with(prefix.as_bytes()))
    }

    /// Whether a passphrase is needed to read a file with these contents.
    pub fn is_protected(text: &[u8]) -> bool {
        text.starts_with(PROTECTED.as_bytes())
    }

    /// Reads what [`protect`](Self::protect) wrote.
    ///
    /// # Errors
    /// If it is something else, or the passphrase is another.
    pub fn unprotect(text: &[u8], passphrase: &[u8]) -> Result<Self, Error> {
        let line = std::str::from_utf8(text).map_err(|_| Error::NoKey)?.trim_end();
        let fields: Vec<&str> = line
            .strip_prefix(PROTECTED)
            .ok_or(Error::NoKey)?
            .split(' ')
            .collect();
        let &[log_n, salt, sealed] = fields.as_slice() else {
            return Err(Error::NoKey);
        };
        let log_n = log_n.parse().map_err(|_| Error::NoKey)?;
        let (mut salt_bytes, mut bytes) = ([0; 16], [0; 48]);
        hex::decode_to_slice(salt, &mut salt_bytes).map_err(|_| Error::NoKey)?;
        hex::decode_to_slice(sealed, &mut bytes).map_err(|_| Error::NoKey)?;
        let (secret, tag) = bytes.split_at(32);
        let mut key = Self(Zeroizing::new([0; 32]));
        key.0.copy_from_slice(secret);
        let tag = Tag::try_from(tag).map_err(|_| Error::NoKey)?;
        let head = &line[..line.len() - sealed.len() - 1];
        aead(passphrase, &salt_bytes, log_n)?
            .decrypt_inout_detached(
                &Nonce::default(),
                head.as_bytes(),
                key.0.as_mut_slice().into(),
                &tag,
            )
            .map_err(|_| Error::Passphrase)?;
        Ok(key)
    }

    /// What Xen must be booted with to take keys from this owner.
    pub fn public(&self) -> PublicKey {
        let mut pair = KeyPair::empty();
        pair.set(&self.derive(&[b"identity"]));
        *pair.public()
    }

    /// The root key of the domain with this uuid, in an epoch.
    pub fn root(&self, uuid: &[u8; 16], epoch: u32) -> RootKey {
        let mut root = RootKey::empty();
        root.set(&self.derive_root(uuid, epoch));
        root
    }

    /// Seals the root key of a domain, in an epoch, to some hosts: the file that `vmcrypt key load` takes.
    ///
    /// # Errors
    /// If a host's key is none, or there are too many.
    pub fn seal(
        &self,
        uuid: [u8; 16],
        epoch: u32,
        policy: Policy,
        hosts: &[PublicKey],
    ) -> Result<Vec<u8>, Error> {
        if !(1..=MAX_HOSTS).contains(&hosts.len()) {
            return Err(Error::Hosts(hosts.len()));
        }
        for (at, host) in hosts.iter().enumerate() {
            if hosts[..at].contains(host) {
                return Err(Error::Twice(*host));
            }
        }
        let root = self.root(&uuid, epoch);
        let header = Header {
            hosts: hosts.len() as u32,
            epoch,
            uuid,
            owner: self.public(),
            key: root.key_id(),
            policy,
        };
        let mut file = header.to_bytes().to_vec();
        for &host in hosts {
            let envelope = self.envelope(&header, host);
            let envelope = envelope.map_err(|error| Error::Host { host, error })?;
            file.extend(envelope.to_bytes());
        }
        let tag = file_tag(&root, &file);
        file.extend(tag);
        Ok(file)
    }

    /// What Xen told the domain with this uuid about itself when it was asked with this nonce, if it is that. The domain is
    /// under the key of this epoch.
    ///
    /// # Errors
    /// If it is something else, or nobody can tell.
    pub fn check(
        &self,
        uuid: &[u8; 16],
        epoch: u32,
        nonce: &[u8; 32],
        answer: &[u8],
    ) -> Result<Answer, Error> {
        let answer = Answer::from_bytes(answer).ok_or(Error::NoAnswer)?;
        if answer.version != abi::INTERFACE_VERSION {
            return Err(Error::Version(answer.version));
        }
        if answer.state == 0 {
            return Err(Error::Unprotected);
        }
        if answer.nonce != *nonce {
            return Err(Error::Nonce);
        }
        if answer.uuid != *uuid {
            return Err(Error::Domain);
        }
        if answer.owner == [0; 16] {
            return Err(Error::Ownerless);
        }
        if !answer::genuine(&self.root(uuid, epoch), &answer) {
            return Err(Error::Forged);
        }
        Ok(answer)
    }

    fn envelope(&self, header: &Header, host: PublicKey) -> Result<Envelope, HpkeError> {
        type Suite = X25519HkdfSha256;
        let own = <Suite as Kem>::PrivateKey::from_bytes(&*self.derive(&[b"identity"]))?;
        let public = <Suite as Kem>::sk_to_pk(&own);
        let recipient = <Suite as Kem>::PublicKey::from_bytes(&host.0)?;
        let mode = OpModeS::Auth((own, public));
        let (encapsulated, mut context) =
            setup_sender::<ChaCha20Poly1305, HkdfSha256, Suite>(&mode, &recipient, INFO)?;
        let mut text = self.derive_root(&header.uuid, header.epoch);
        let tag = context.seal_inout_detached(text.as_mut_slice().into(), &header.to_bytes());
        let tag = tag.inspect_err(|_| text.zeroize())?;
        let mut seal = Seal {
            encapsulated: PublicKey::default(),
            tag: [0; 16],
        };
        encapsulated.write_exact(&mut seal.encapsulated.0);
        tag.write_exact(&mut seal.tag);
        Ok(Envelope {
            host,
            seal,
            text: *text,
        })
    }

    fn derive_root(&self, uuid: &[u8; 16], epoch: u32) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"domain root", uuid, &epoch.to_le_bytes()])
    }

    fn derive(&self, purpose: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        hkdf(SALT, &*self.0, purpose, &mut *out);
        out
    }
}

/// The cipher under a passphrase. Its key belongs to the salt, which is drawn for each file: there is one nonce.
fn aead(passphrase: &[u8], salt: &[u8; 16], log_n: u8) -> Result<chacha20poly1305::ChaCha20Poly1305, Error> {
    let params = (log_n <= MAX_LOG_N)
        .then(|| scrypt::Params::new(log_n, 8, 1).ok())
        .flatten();
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(passphrase, salt, &params.ok_or(Error::NoKey)?, &mut *key).map_err(|_| Error::NoKey)?;
    Ok(chacha20poly1305::ChaCha20Poly1305::new((&*key).into()))
}
