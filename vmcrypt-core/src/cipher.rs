//! The page cipher: HCTR2 with AES-256 over one 4,096-byte page, and a tag of the plaintext that
//! falls out of it.
//!
//! HCTR2 (P. Crowley, N. Huckleberry, E. Biggers, "Length-preserving encryption with HCTR2", ePrint
//! 2021/1441) is a tweakable cipher as wide as the message: no expansion, no nonce, and any changed bit
//! of the ciphertext garbles the whole page. The construction is written once, over a [`Backend`];
//! `docs/CRYPTO.md` says why it is used, what it leaks and why the tag is one.

use crate::aes::{AesKey, Block};
use crate::disclose::verdict;
use crate::ids::{Pfn, SessionId};
use crate::polyval::HashKey;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use static_assertions::const_assert_eq;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Content of one guest page.
pub type Page = [u8; PAGE_SIZE];

/// A block that somebody else may write at any time.
pub type SharedBlock = [AtomicU64; 2];

/// A page that somebody else may write at any time: whoever reads a byte of it twice may read two things.
pub type SharedPage = [SharedBlock; PAGE_SIZE / 16];

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
        verdict(self.0.ct_eq(&other.0))
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

const_assert_eq!(size_of::<PageKey>(), 2 * 480 + 512 + 16);
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

    /// Key of HCTR2's block cipher.
    pub const fn cipher(&self) -> &AesKey {
        &self.cipher
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

    /// Copies a page, reading it once, and gives the POLYVAL of the copy but with `first` in place of its first block.
    fn copy_then_hash(
        &self,
        key: &HashKey,
        first: &Block,
        from: &SharedPage,
        to: &mut [Block; PAGE_SIZE / 16],
    ) -> Block;

    /// Adds the XCTR key stream of `keys` to all of `blocks` but the first, and absorbs all of them into `acc`: one walk
    /// over memory for two passes of HCTR2, whichever its direction. Block `i` takes the stream's block `i`, so that
    /// whoever works on several blocks at once finds them, and their counters, aligned.
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

    fn copy_then_hash(
        &self,
        key: &HashKey,
        first: &Block,
        from: &SharedPage,
        to: &mut [Block; PAGE_SIZE / 16],
    ) -> Block {
        for (to, from) in to
            .as_flattened_mut()
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(from.as_flattened())
        {
            *to = from.load(Ordering::Relaxed).to_ne_bytes();
        }
        let mut sum = [0; 16];
        if let [_, rest @ ..] = &to[..] {
            key.hash(&mut sum, &[*first]);
            key.hash(&mut sum, rest);
        }
        sum
    }

    fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
        let Some((first, rest)) = blocks.split_first_mut() else {
            return;
        };
        keys.hash.hash(acc, &[*first]);
        let start = u128::from_le_bytes(*start);
        let mut count = 0u128;
        for four in rest.chunks_mut(4) {
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

/// Copies `from` to `to`, encrypted: what [`encrypt_page`] makes of a copy, though `from` is written meanwhile.
pub fn encrypt_page_from<B: Backend>(
    backend: &B,
    key: &PageKey,
    tweak: &Tweak,
    from: &SharedPage,
    to: &mut Page,
) -> PageTag {
    let [t0, t1] = tweak.to_blocks();
    let prefix = prefix(backend, key, true, 32, &[t0], &t1);
    let [blocks] = to.as_chunks_mut().0.as_chunks_mut().0 else {
        return PageTag::default();
    };
    let into = backend.copy_then_hash(&key.hash, &prefix, from, blocks);
    let [head, ..] = blocks;
    let head = core::mem::replace(head, prefix);
    second_half::<B, true>(backend, key, &head, into, blocks, &mut [])
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
    let prefix = prefix(backend, key, true, 32, &[t0], &t1);
    crypt::<B, ENCRYPT>(backend, key, &prefix, page.as_chunks_mut().0, &mut [])
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
    if blocks.is_empty() {
        return Err(TooShort);
    }
    // The last block of what is common to both hashes, and those before it.
    let (whole, part) = tweak.as_chunks();
    let padded = padded(part, 0);
    let (before, last) = match whole {
        [before @ .., last] if part.is_empty() => (before, last),
        _ => (whole, &padded),
    };
    let whole_blocks = rest.is_empty();
    let prefix = if tweak.is_empty() {
        length_block(0, whole_blocks)
    } else {
        prefix(backend, key, whole_blocks, tweak.len(), before, last)
    };
    Ok(crypt::<B, ENCRYPT>(backend, key, &prefix, blocks, rest))
}

/// Codes the length of the tweak, and whether the message is of whole blocks.
fn length_block(tweak_len: usize, whole_blocks: bool) -> Block {
    (2 * 8 * tweak_len as u128 + if whole_blocks { 2 } else { 3 }).to_le_bytes()
}

/// What HCTR2's two hashes have in common, the length block and the tweak, as one block: hashing it hashes all of them.
fn prefix<B: Backend>(
    backend: &B,
    key: &PageKey,
    whole_blocks: bool,
    tweak_len: usize,
    before: &[Block],
    last: &Block,
) -> Block {
    let mut acc = [0; 16];
    let length = length_block(tweak_len, whole_blocks);
    match before {
        // A page's: one call for both.
        [one] => backend.hash(&key.hash, &mut acc, &[length, *one]),
        _ => {
            backend.hash(&key.hash, &mut acc, &[length]);
            backend.hash(&key.hash, &mut acc, before);
        }
    }
    xor(&mut acc, last);
    acc
}

/// HCTR2 of `blocks || rest`, `rest` being shorter than a block. Both directions are the same walk: hash what comes
/// in, pass the first block through AES, stream over the bulk, hash what goes out. Meanwhile the common prefix of both
/// hashes stands in the place of the first block.
fn crypt<B: Backend, const ENCRYPT: bool>(
    backend: &B,
    key: &PageKey,
    prefix: &Block,
    blocks: &mut [Block],
    rest: &mut [u8],
) -> PageTag {
    let Some(slot) = blocks.first_mut() else {
        return PageTag::default();
    };
    let head = core::mem::replace(slot, *prefix);
    let mut into = [0; 16];
    backend.hash(&key.hash, &mut into, blocks);
    hash_rest(backend, key, &mut into, rest);
    second_half::<B, ENCRYPT>(backend, key, &head, into, blocks, rest)
}

/// The same once what comes in is hashed.
#[inline(never)]
fn second_half<B: Backend, const ENCRYPT: bool>(
    backend: &B,
    key: &PageKey,
    head: &Block,
    mut into: Block,
    blocks: &mut [Block],
    rest: &mut [u8],
) -> PageTag {
    xor(&mut into, head);
    let mut out = into;
    if ENCRYPT {
        backend.encrypt_block(&key.cipher, &mut out);
    } else {
        backend.decrypt_block(&key.cipher, &mut out);
    }
    // HCTR2's MM is the first plaintext block plus the hash of tweak and bulk, so it covers all of them.
    let mut tag = if ENCRYPT { into } else { out };
    backend.encrypt_block(&key.tag, &mut tag);

    let mut start = key.mask;
    xor(&mut start, &into);
    xor(&mut start, &out);
    let keys = Keys {
        cipher: &key.cipher,
        hash: &key.hash,
    };
    let mut acc = [0; 16];
    backend.xctr_then_hash(keys, &start, &mut acc, blocks);
    if !rest.is_empty() {
        xor(&mut start, &(blocks.len() as u128).to_le_bytes());
        backend.encrypt_block(&key.cipher, &mut start);
        xor(rest, &start);
        hash_rest(backend, key, &mut acc, rest);
    }
    xor(&mut acc, &out);
    if let Some(slot) = blocks.first_mut() {
        *slot = acc;
    }
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
