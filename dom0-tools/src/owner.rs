//! The owner's side of owner keys: nothing here needs Xen, and nothing here should run where dom0 can look.
//!
//! One secret is all that an owner has to keep. The root key of each of his domains follows from it and the domain's
//! uuid, and so does the key pair that proves a sealed key to be his.

use std::fmt;

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
const PREFIX: &str = "vmcrypt-owner-1 ";
/// Bytes of such a file: a line.
const TEXT: usize = PREFIX.len() + 64 + 1;
const SALT: &[u8] = b"vmcrypt/1 owner";

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
    /// Not a file of [`OwnerKey::to_text`]'s.
    #[error(
        "not an owner's key: one line of \"{PREFIX}\" and 64 hexadecimal digits; make one with `vmcrypt key new`"
    )]
    NoKey,
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
        let digits = text.strip_prefix(PREFIX.as_bytes()).ok_or(Error::NoKey)?;
        let mut key = Self(Zeroizing::new([0; 32]));
        hex::decode_to_slice(digits.trim_ascii_end(), &mut *key.0).map_err(|_| Error::NoKey)?;
        Ok(key)
    }

    /// What Xen must be booted with to take keys from this owner.
    pub fn public(&self) -> PublicKey {
        let mut pair = KeyPair::empty();
        pair.set(&self.derive(&[b"identity"]));
        *pair.public()
    }

    /// The root key of the domain with this uuid.
    pub fn root(&self, uuid: &[u8; 16]) -> RootKey {
        let mut root = RootKey::empty();
        root.set(&self.derive(&[b"domain root", uuid]));
        root
    }

    /// Seals the root key of a domain to some hosts: the file that `vmcrypt key load` takes.
    ///
    /// # Errors
    /// If a host's key is none, or there are too many.
    pub fn seal(&self, uuid: [u8; 16], policy: Policy, hosts: &[PublicKey]) -> Result<Vec<u8>, Error> {
        if !(1..=MAX_HOSTS).contains(&hosts.len()) {
            return Err(Error::Hosts(hosts.len()));
        }
        for (at, host) in hosts.iter().enumerate() {
            if hosts[..at].contains(host) {
                return Err(Error::Twice(*host));
            }
        }
        let root = self.root(&uuid);
        let header = Header {
            hosts: hosts.len() as u32,
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

    /// What Xen told the domain with this uuid about itself when it was asked with this nonce, if it is that.
    ///
    /// # Errors
    /// If it is something else, or nobody can tell.
    pub fn check(&self, uuid: &[u8; 16], nonce: &[u8; 32], answer: &[u8]) -> Result<Answer, Error> {
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
        if !answer::genuine(&self.root(uuid), &answer) {
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
        let mut text = self.derive(&[b"domain root", &header.uuid]);
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

    fn derive(&self, purpose: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        hkdf(SALT, &*self.0, purpose, &mut *out);
        out
    }
}
