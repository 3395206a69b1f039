//! The test that a page cipher must pass on this very machine before it is used.
//!
//! A cipher that is wrong in the same way in both directions brings every page back and may hide nothing. So it does not
//! do to decrypt what was encrypted: the ciphertext must be the one that an independent implementation gives.

use crate::cipher::{Page, PageKey, PageKind, PageTag, Tweak};
use crate::ids::{Pfn, SessionId};
use crate::keys::{RootKey, SessionKeys};
use crate::mac::{Digest, extract};

/// A root key that protects nothing.
const ROOT: [u8; 32] = [0x4b; 32];
const SESSION: SessionId = SessionId([0xa5; 16]);
/// HMAC-SHA-256, with an empty key, of both tags and of the page encrypted twice: computed with the crate `hctr2-rs`.
#[rustfmt::skip]
const ANSWER: Digest = [
    0x56, 0xe3, 0xad, 0x0a, 0xea, 0xf6, 0x3c, 0xfc, 0x67, 0xe6, 0x61, 0xb4, 0x2a, 0x23, 0x68, 0xaf,
    0xb9, 0x81, 0x34, 0xbb, 0xc0, 0xb2, 0x93, 0x0e, 0x46, 0x82, 0x28, 0xca, 0xfc, 0xd3, 0x90, 0xbc,
];

/// Whether the three functions encrypt a page, encrypt a copy of one and decrypt one as they should. `page` is all zero,
/// before and afterwards; whatever `copy` holds is overwritten; `keys` are those of the test afterwards, and of no use.
#[must_use]
pub fn passes(
    keys: &mut SessionKeys,
    page: &mut Page,
    copy: &mut Page,
    encrypt: impl Fn(&PageKey, &Tweak, &mut Page) -> PageTag,
    encrypt_from: impl Fn(&PageKey, &Tweak, &Page, &mut Page) -> PageTag,
    decrypt: impl Fn(&PageKey, &Tweak, &mut Page) -> PageTag,
) -> bool {
    let mut root = RootKey::empty();
    root.set(&ROOT);
    keys.derive(&root, &SESSION);
    let key = keys.page();
    // Zeros would hide a part of the first hash; what the second encryption gets has no zeros to speak of.
    let [first, second] = tweaks();
    let tags = [encrypt(key, &first, page), encrypt_from(key, &second, page, copy)];
    let answer = extract(&[], &[&tags[0].0, &tags[1].0, copy]);
    let mut back = [decrypt(key, &second, copy), PageTag::default()];
    let copied = copy == page;
    back[1] = decrypt(key, &first, page);
    copied && answer == ANSWER && back == [tags[1], tags[0]] && page.iter().all(|byte| *byte == 0)
}

fn tweaks() -> [Tweak; 2] {
    [0, 1 << 40].map(|pfn| Tweak {
        session: SESSION,
        pfn: Pfn(pfn),
        kind: PageKind::PRIVATE,
    })
}
