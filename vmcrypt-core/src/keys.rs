//! Keys and how they follow from each other.
//!
//! Every key type is filled in place, wipes itself on drop, cannot be cloned and prints nothing. The
//! hierarchy is drawn in `docs/CRYPTO.md`.
//!
//! What a key is derived for names the version of the hierarchy and, where the key is a cipher's, the cipher: no key
//! serves two of them.

use crate::Refusal;
use crate::cipher::PageKey;
use crate::disclose::disclose;
use crate::entropy::{Source, draw};
use crate::ids::{KeyId, SessionId};
use crate::mac::{Digest, expand, hkdf};
use core::fmt;
use zeroize::Zeroize;

/// Number, in records and sealed keys, of the ciphers that everything here is for: HCTR2-AES-256 for pages, AES-256-CTR with
/// HMAC-SHA-256 for records. The names of what is derived have it, too.
pub const CIPHER: u32 = 1;

/// Salt of what identifies a key; no session id is as long.
const ID_SALT: &[u8] = b"vmcrypt/2 key id salt";
const ID_INFO: &[u8] = b"vmcrypt/2 key id";
const PAGE_INFO: &[u8] = b"vmcrypt/2 cipher 1 page and tag";
const RECORD_INFO: &[u8] = b"vmcrypt/2 cipher 1 record";
const SEAL_INFO: &[u8] = b"vmcrypt/2 cipher 1 seal";
const ANSWER_INFO: &[u8] = b"vmcrypt/2 guest's answer key";

/// The secret from which everything else follows: drawn by Xen at boot, or given by a domain's owner.
pub struct RootKey([u8; 32]);

impl RootKey {
    /// A key that is not drawn yet.
    pub const fn empty() -> Self {
        Self([0; 32])
    }

    /// Takes a key.
    pub fn set(&mut self, secret: &[u8; 32]) {
        self.0 = *secret;
    }

    /// Takes the same key as `other`, on purpose: keys have no `Clone`.
    pub fn copy(&mut self, other: &Self) {
        self.0 = other.0;
    }

    /// Derives `out` for a purpose of its own.
    pub(crate) fn derive(&self, purpose: &[u8], out: &mut [u8]) {
        hkdf(&[], &self.0, &[purpose], out);
    }

    /// The key of what Xen tells a domain under this root about itself; see [`answer`](crate::answer).
    pub(crate) fn answer_key(&self, out: &mut Digest) {
        self.derive(ANSWER_INFO, out);
    }

    /// Draws the key; see [`draw`](crate::entropy::draw).
    ///
    /// # Errors
    /// [`Refusal::NoEntropy`], [`Refusal::StuckEntropy`]; the key stays what it was.
    pub fn draw(&mut self, source: &mut impl Source, extra: &[u8]) -> Result<(), Refusal> {
        draw(source, b"host key", extra, &mut self.0)
    }

    /// Identifies the key without giving anything away.
    #[inline(never)]
    pub fn key_id(&self) -> KeyId {
        let mut id = KeyId::default();
        hkdf(ID_SALT, &self.0, &[ID_INFO], &mut id.0);
        // Records and sealed keys name their key in clear.
        disclose(&mut id.0);
        id
    }
}

/// The keys of one session: that of the page cipher and that from which sealing keys follow.
#[repr(C)]
pub struct SessionKeys {
    page: PageKey,
    record: RecordKey,
}

impl SessionKeys {
    /// Keys that are not derived yet.
    pub const fn empty() -> Self {
        Self {
            page: PageKey::empty(),
            record: RecordKey([0; 32]),
        }
    }

    /// Derives the keys of `session` in place.
    #[inline(never)]
    pub fn derive(&mut self, root: &RootKey, session: &SessionId) {
        let mut secret = [0; 64];
        hkdf(&session.0, &root.0, &[PAGE_INFO], &mut secret);
        self.page.set(&secret);
        secret.zeroize();
        self.record.derive(root, session);
    }

    /// Key of the page cipher.
    pub const fn page(&self) -> &PageKey {
        &self.page
    }

    /// Key of the sealed record.
    pub const fn record(&self) -> &RecordKey {
        &self.record
    }
}

/// The secret from which the keys of each sealed record of a session follow.
pub struct RecordKey(Digest);

impl RecordKey {
    /// A key that is not derived yet.
    pub const fn empty() -> Self {
        Self([0; 32])
    }

    /// Derives the record key of `session` in place.
    pub fn derive(&mut self, root: &RootKey, session: &SessionId) {
        hkdf(&session.0, &root.0, &[RECORD_INFO], &mut self.0);
    }

    /// Encryption key and MAC key of the session's record number `counter`.
    pub(crate) fn sealing_keys(&self, counter: u64, out: &mut [u8; 64]) {
        expand(&self.0, &[SEAL_INFO, &counter.to_le_bytes()], out);
    }
}

macro_rules! secret {
    ($($name:ident => |$this:ident| $wipe:expr;)*) => { $(
        impl Zeroize for $name {
            fn zeroize(&mut self) {
                let $this = self;
                $wipe
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.zeroize();
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )* };
}

secret! {
    RootKey => |key| key.0.zeroize();
    RecordKey => |key| key.0.zeroize();
    SessionKeys => |keys| { keys.page.zeroize(); keys.record.zeroize() };
}
