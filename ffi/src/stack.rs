//! What computations with keys leave behind on the stack.
//!
//! Objects that hold keys wipe themselves, but compilers spill registers and keep temporaries in frames that nobody
//! wipes: the hash key's powers alone take more vector registers than there are. So whoever has used a key
//! overwrites, afterwards, the stack below itself.

use core::hint::black_box;

use crate::host;

/// Below the limit that `LINK-GATE` sets for one function, and more than the deepest of the page ciphers takes, which is
/// portable decryption with some 1,420 bytes: `cargo xtask test stack`.
const FRAME: usize = 1472;

/// Does something with keys, and overwrites what that left on the stack.
pub(crate) fn wiped<T>(compute: impl FnOnce() -> T) -> T {
    let result = apart(compute);
    wipe_frames(2);
    result
}

/// Has its frame, and those of all that it inlines, below the caller's.
#[inline(never)]
fn apart<T>(compute: impl FnOnce() -> T) -> T {
    compute()
}

/// The same for a page, whose frames are few and which must be quick: to be called after what was not inlined. Portable
/// code keeps secrets in the registers that an interrupt puts below the deepest frame, and has the time for one more.
pub(crate) fn wipe_below() {
    let portable = host::backend() == host::VMC_BACKEND_PORTABLE;
    wipe_frames(if portable { 2 } else { 1 });
}

#[inline(never)]
fn wipe_frames(count: u32) {
    let mut frame = [0u8; FRAME];
    black_box(&mut frame);
    if count > 1 {
        wipe_frames(count - 1);
    }
    // Not a tail call: each level has a frame of its own.
    black_box(&mut frame);
}
