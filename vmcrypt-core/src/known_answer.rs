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
    0xf4, 0xd1, 0x0d, 0x40, 0x1a, 0x64, 0x8a, 0x20, 0x36, 0x03, 0x21, 0x91, 0x9c, 0xce, 0xdc, 0x5b,
    0xab, 0xd0, 0x79, 0x08, 0x42, 0x2c, 0xab, 0x74, 0x0f, 0x3e, 0xa2, 0x7e, 0xbe, 0xd0, 0x8e, 0x59,
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
