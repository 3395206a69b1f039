//! Secrets from a hardware generator that may be broken.
//!
//! RDRAND of several CPU families has been seen to give the same word for ever after a resume or by a fault of firmware,
//! all ones for one, and to say each time that it succeeded. So eight times as many bits are drawn as a secret has. They
//! must look as a working generator's do in what a broken one gets wrong, and are condensed then, together with all else
//! that is at hand. `docs/CRYPTO.md`, section 1, has the chance of a false alarm.

use crate::Refusal;
use crate::disclose::verdict;
use crate::mac::{Hmac, expand};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroize;

/// Words that are looked at together. A generator that repeats itself after fewer is found out.
pub const WINDOW: usize = 32;

/// Windows that must be bad, one after the other, for the generator to count as stuck.
pub const TRIES: usize = 2;

const SALT: &[u8] = b"vmcrypt/2 entropy";

/// Where random words come from.
pub trait Source {
    /// 64 bits from the hardware generator; none if it says that it has none.
    fn word(&mut self) -> Option<u64>;

    /// The finest clock there is, read after each word.
    fn cycles(&mut self) -> u64;
}

/// Fills `out` for `purpose`; `extra` is what else is at hand, and can only add. Nothing is written on failure.
///
/// # Errors
/// [`Refusal::NoEntropy`] if the generator gave no word, [`Refusal::StuckEntropy`] if it repeats itself.
pub fn draw(source: &mut impl Source, purpose: &[u8], extra: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
    let mut mac = Hmac::empty();
    mac.start(SALT);
    absorb(&mut mac, &[&(extra.len() as u64).to_le_bytes(), extra]);
    for _ in 0..TRIES {
        if absorb_window(source, &mut mac)? {
            let mut pool = mac.finish();
            expand(&pool, &[purpose], out);
            pool.zeroize();
            return Ok(());
        }
    }
    Err(Refusal::StuckEntropy)
}

/// Draws a window, takes it into `mac`, and says whether it is healthy.
fn absorb_window(source: &mut impl Source, mac: &mut Hmac) -> Result<bool, Refusal> {
    let mut window = [0; WINDOW];
    let mut answer = Ok(());
    for slot in &mut window {
        let Some(word) = source.word() else {
            answer = Err(Refusal::NoEntropy);
            break;
        };
        *slot = word;
        absorb(mac, &[&word.to_le_bytes(), &source.cycles().to_le_bytes()]);
    }
    let healthy = answer.is_ok() && healthy(&window);
    window.zeroize();
    answer.map(|()| healthy)
}

/// Once in the program, not once for each caller.
#[inline(never)]
fn absorb(mac: &mut Hmac, parts: &[&[u8]]) {
    parts.iter().for_each(|part| mac.update(part));
}

/// Whether no word is all zeros or all ones, no two are equal, and no four bits are the same in all of them.
fn healthy(window: &[u64; WINDOW]) -> bool {
    let mut bad = Choice::from(0);
    let mut changed = 0;
    for (at, word) in window.iter().enumerate() {
        bad |= word.ct_eq(&0) | word.ct_eq(&u64::MAX);
        for earlier in window.iter().take(at) {
            bad |= word.ct_eq(earlier);
        }
        changed |= word ^ window.first().unwrap_or(&0);
    }
    for lane in 0..16 {
        bad |= (changed >> (4 * lane) & 0xf).ct_eq(&0);
    }
    verdict(!bad)
}
