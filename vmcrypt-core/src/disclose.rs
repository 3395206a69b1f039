//! What is computed from secrets and may be known all the same: every place where that happens calls this.

use core::hint::black_box;
use subtle::Choice;

/// Everybody may know these bytes. Does nothing: whoever reads finds the places, and the check of constant time takes
/// the bytes for public from here on (`tests/c/constant_time.c`).
#[inline(never)]
pub(crate) fn disclose(bytes: &mut [u8]) {
    black_box(bytes);
}

/// What a comparison of secrets came to: who handed in what was compared learns whether it was refused.
pub(crate) fn verdict(comparison: Choice) -> bool {
    let mut answer = [comparison.unwrap_u8()];
    disclose(&mut answer);
    answer != [0]
}
