//! What Xen tells a guest about itself, so that an agent of its owner's in there can prove to him where it runs.
//!
//! The guest passes on what it got; who has the owner's secret recomputes the MAC. Fresh is what has his nonce in it.

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::abi::Answer;
use crate::keys::RootKey;
use crate::mac::{Digest, extract};

/// What every message begins with: no other MAC is made under this key, and none will be of this form.
const LABEL: &[u8] = b"vmcrypt/2 answer to a guest\0";

/// The MAC of `answer` under the key that follows from its owner's root key. The message is of fixed length: label, nonce,
/// host, handle, measurement, state in four bytes, little-endian.
#[inline(never)]
pub fn tag(root: &RootKey, answer: &Answer) -> Digest {
    let mut key = [0; 32];
    root.answer_key(&mut key);
    // HMAC, whatever it is called there.
    let tag = extract(
        &key,
        &[
            LABEL,
            &answer.nonce,
            &answer.host,
            &answer.uuid,
            &answer.measurement,
            &answer.state.to_le_bytes(),
        ],
    );
    key.zeroize();
    tag
}

/// Whether Xen gave this answer to the domain of this root key: the owner's side.
#[must_use]
pub fn genuine(root: &RootKey, answer: &Answer) -> bool {
    answer.owner == root.key_id().0 && tag(root, answer).ct_eq(&answer.tag).into()
}
