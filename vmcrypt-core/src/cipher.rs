//! The page cipher: HCTR2 with AES-256 over one 4,096-byte page, and a tag of the plaintext that
//! falls out of it.
//!
//! HCTR2 (P. Crowley, N. Huckleberry, E. Biggers, "Length-preserving encryption with HCTR2", ePrint
//! 2021/1441) is a tweakable cipher as wide as the message: no expansion, no nonce, and any changed bit
//! of the ciphertext garbles the whole page. The construction is written once, over a [`Backend`];
//! `docs/CRYPTO.md` says why it is used, what it leaks and why the tag is one.

use crate::aes::{AesKey, Block};
use crate::ids::{Pfn, SessionId};
use crate::polyval::HashKey;
use core::fmt;
use static_assertions::const_assert_eq;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Content of one guest page.
pub type Page = [u8; PAGE_SIZE];

/// Makes each page's encryption its own: the session and the place of the page in the guest.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tweak {
    /// Session under which the page is shown to dom0.
    pub session: SessionId,
    /// Place of the page in the guest.
    pub pfn: Pfn,
    /// What the page is.
    pub kind: PageKind,
}

/// What is encrypted or digested under a page key: two pages of different kinds have different tweaks.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageKind(pub u64);

impl PageKind {
    /// A page that dom0 sees encrypted. Every other number is a kind of plain page, of which the tag
    /// alone is kept.
    pub const PRIVATE: Self = Self(0);
}

impl Tweak {
    /// session id || PFN || kind, both little-endian.
    fn to_blocks(self) -> [Block; 2] {
        let mut second = [0; 16];
        for (out, byte) in second.iter_mut().zip(
            self.pfn
                .0
                .to_le_bytes()
                .into_iter()
                .chain(self.kind.0.to_le_bytes()),
        ) {
            *out = byte;
        }
        [self.session.0, second]
    }
}

/// Keyed 128-bit digest of a page's plaintext and tweak. Secret: it must not leave Xen in clear.
#[repr(transparent)]
#[derive(Clone, Copy, Default)]
pub struct PageTag(pub [u8; 16]);

impl PartialEq for PageTag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for PageTag {}

impl fmt::Debug for PageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageTag(..)")
    }
}

/// All key material of the page cipher, expanded: one layout for every backend and both halves of the
/// library. Filled in place so that no copy stays behind on a stack; never cloned; wiped on drop.
#[repr(C)]
pub struct PageKey {
    cipher: AesKey,
    tag: AesKey,
    hash: HashKey,
    /// HCTR2's L.
    mask: Block,
}

const_assert_eq!(size_of::<PageKey>(), 2 * 480 + 256 + 16);
const_assert_eq!(align_of::<PageKey>(), 8);
const_assert_eq!(size_of::<Tweak>(), 32);

impl PageKey {
    /// A key that is not set yet: all zero, and of no use.
    pub const fn empty() -> Self {
        Self {
            cipher: AesKey::empty(),
            tag: AesKey::empty(),
            hash: HashKey::empty(),
            mask: [0; 16],
        }
    }

    /// Expands the cipher's key (first half) and the tag's (second half) in place.
    pub fn set(&mut self, secret: &[u8; 64]) {
        let [cipher, tag] = secret.as_chunks::<32>().0 else {
            return;
        };
        self.cipher.set(cipher);
        self.tag.set(tag);
        // HCTR2: hash key E(0), mask E(1), both little-endian numbers.
        let mut derived = [[0; 16], 1u128.to_le_bytes(), [0; 16], [0; 16]];
        self.cipher.encrypt4(&mut derived);
        let [hash, mask, ..] = &derived;
        self.hash.set(hash);
        self.mask = *mask;
        derived.zeroize();
    }
}

impl Zeroize for PageKey {
    fn zeroize(&mut self) {
        self.cipher.zeroize();
        self.tag.zeroize();
        self.hash.zeroize();
        self.mask.zeroize();
    }
}

impl Drop for PageKey {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageKey(..)")
    }
}

/// What a machine offers to the page cipher. Implementations run in constant time.
pub trait Backend {
    /// Encrypts one block.
    fn encrypt_block(&self, key: &AesKey, block: &mut Block);

    /// Decrypts one block.
    fn decrypt_block(&self, key: &AesKey, block: &mut Block);

    /// Absorbs `blocks` into the POLYVAL state `acc`.
    fn hash(&self, key: &HashKey, acc: &mut Block, blocks: &[Block]);

    /// Adds the XCTR key stream of `keys` to `blocks` and absorbs the result into `acc`: one walk over memory
    /// for two passes of HCTR2, whichever its direction.
    fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]);
}

/// The keys of one walk.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    /// Key of XCTR.
    pub cipher: &'a AesKey,
    /// Key of POLYVAL.
    pub hash: &'a HashKey,
}

/// The constant-time backend that runs everywhere: no table, no branch on secrets, no vector unit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Portable;

impl Backend for Portable {
    fn encrypt_block(&self, key: &AesKey, block: &mut Block) {
        key.encrypt(block);
    }

    fn decrypt_block(&self, key: &AesKey, block: &mut Block) {
        key.decrypt(block);
    }

    fn hash(&self, key: &HashKey, acc: &mut Block, blocks: &[Block]) {
        key.hash(acc, blocks);
    }

    fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
        let start = u128::from_le_bytes(*start);
        let mut count = 0u128;
        for four in blocks.chunks_mut(4) {
            let mut stream = [1, 2, 3, 4].map(|i| (start ^ (count + i)).to_le_bytes());
            keys.cipher.encrypt4(&mut stream);
            for (block, stream) in four.iter_mut().zip(&stream) {
                xor(block, stream);
            }
            keys.hash.hash(acc, four);
            count += 4;
        }
    }
}

/// Encrypts `page` in place. Returns the tag of the plaintext.
pub fn encrypt_page<B: Backend>(backend: &B, key: &PageKey, tweak: &Tweak, page: &mut Page) -> PageTag {
    crypt_page::<B, true>(backend, key, tweak, page)
}

/// Decrypts `page` in place. Returns the tag of the plaintext, equal to what encryption returned if
/// and (but for a chance below 2^-100) only if page, place and session are the same.
pub fn decrypt_page<B: Backend>(backend: &B, key: &PageKey, tweak: &Tweak, page: &mut Page) -> PageTag {
    crypt_page::<B, false>(backend, key, tweak, page)
}

fn crypt_page<B: Backend, const ENCRYPT: bool>(
    backend: &B,
    key: &PageKey,
    tweak: &Tweak,
    page: &mut Page,
) -> PageTag {
    let [t0, t1] = tweak.to_blocks();
    let prefix = prefix(backend, key, 32, true, &[t0, t1]);
    match page.as_chunks_mut().0 {
        [head, tail @ ..] => crypt::<B, ENCRYPT>(backend, key, &prefix, head, tail, &mut []),
        [] => PageTag::default(),
    }
}

/// A message shorter than one block has no place in HCTR2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooShort;

/// HCTR2 encryption of a message of any length from 16 bytes on, in place. Pages go through
/// [`encrypt_page`]; this form serves the published test vectors.
pub fn encrypt<B: Backend>(
    backend: &B,
    key: &PageKey,
    tweak: &[u8],
    message: &mut [u8],
) -> Result<PageTag, TooShort> {
    crypt_any::<B, true>(backend, key, tweak, message)
}

/// The inverse of [`encrypt`].
pub fn decrypt<B: Backend>(
    backend: &B,
    key: &PageKey,
    tweak: &[u8],
    message: &mut [u8],
) -> Result<PageTag, TooShort> {
    crypt_any::<B, false>(backend, key, tweak, message)
}

fn crypt_any<B: Backend, const ENCRYPT: bool>(
    backend: &B,
    key: &PageKey,
    tweak: &[u8],
    message: &mut [u8],
) -> Result<PageTag, TooShort> {
    let (blocks, rest) = message.as_chunks_mut();
    let [head, tail @ ..] = blocks else {
        return Err(TooShort);
    };
    let (whole, last) = tweak.as_chunks();
    let mut prefix = prefix(backend, key, tweak.len(), rest.is_empty(), whole);
    if !last.is_empty() {
        backend.hash(&key.hash, &mut prefix, &[padded(last, 0)]);
    }
    Ok(crypt::<B, ENCRYPT>(backend, key, &prefix, head, tail, rest))
}

/// POLYVAL's state after what both of HCTR2's hashes have in common: the length block and the tweak.
fn prefix<B: Backend>(
    backend: &B,
    key: &PageKey,
    tweak_len: usize,
    whole_blocks: bool,
    tweak: &[Block],
) -> Block {
    let mut acc = [0; 16];
    let length = 2 * 8 * tweak_len as u128 + if whole_blocks { 2 } else { 3 };
    backend.hash(&key.hash, &mut acc, &[length.to_le_bytes()]);
    backend.hash(&key.hash, &mut acc, tweak);
    acc
}

/// HCTR2 of `head || tail || rest`, `rest` being shorter than a block. Both directions are the same walk:
/// hash what comes in, pass the first block through AES, stream over the bulk, hash what goes out.
fn crypt<B: Backend, const ENCRYPT: bool>(
    backend: &B,
    key: &PageKey,
    prefix: &Block,
    head: &mut Block,
    tail: &mut [Block],
    rest: &mut [u8],
) -> PageTag {
    let keys = Keys {
        cipher: &key.cipher,
        hash: &key.hash,
    };

    let mut into = *prefix;
    backend.hash(&key.hash, &mut into, tail);
    hash_rest(backend, key, &mut into, rest);
    xor(&mut into, head);
    let mut out = into;
    if ENCRYPT {
        backend.encrypt_block(&key.cipher, &mut out);
    } else {
        backend.decrypt_block(&key.cipher, &mut out);
    }

    let mut start = key.mask;
    xor(&mut start, &into);
    xor(&mut start, &out);
    *head = *prefix;
    backend.xctr_then_hash(keys, &start, head, tail);
    if !rest.is_empty() {
        xor(&mut start, &(tail.len() as u128 + 1).to_le_bytes());
        backend.encrypt_block(&key.cipher, &mut start);
        xor(rest, &start);
        hash_rest(backend, key, head, rest);
    }
    xor(head, &out);

    // HCTR2's MM is the first plaintext block plus the hash of tweak and bulk, so it covers all of them.
    let mut tag = if ENCRYPT { into } else { out };
    backend.encrypt_block(&key.tag, &mut tag);
    PageTag(tag)
}

fn hash_rest<B: Backend>(backend: &B, key: &PageKey, acc: &mut Block, rest: &[u8]) {
    if !rest.is_empty() {
        backend.hash(&key.hash, acc, &[padded(rest, 1)]);
    }
}

/// `part`, then `mark`, then zeros.
fn padded(part: &[u8], mark: u8) -> Block {
    let mut block = [0; 16];
    for (out, byte) in block.iter_mut().zip(part.iter().chain([&mark])) {
        *out = *byte;
    }
    block
}

fn xor(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to ^= from;
    }
}
