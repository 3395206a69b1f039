//! How much may be decrypted in restores that fail.
//!
//! Each restore of an image decrypts all its private pages under the keys of its session, and dom0 may begin as many as it
//! likes. What they add up to counts into the bound of the page cipher (`docs/CRYPTO.md`, section 2), as what is exported
//! does.

use crate::Refusal;

/// So many restores may be begun, however large the image is: dom0 must not make an image worthless by trying changed ones.
const ATTEMPTS: u32 = 1 << 16;
/// More of them may be begun while no more pages than these were decrypted, as many as a session exports.
const PAGES: u64 = 1 << 32;

/// Restores that were begun under one session, or under one owner's key.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    /// Pages that they decrypt.
    pages: u64,
    /// How many they are.
    begun: u32,
}

impl Attempts {
    /// No restore was begun.
    /// cbindgen:ignore
    pub const NONE: Self = Self { pages: 0, begun: 0 };

    /// Begins a restore that decrypts `pages`.
    ///
    /// # Errors
    /// [`Refusal::Attempts`] if 2^16 were begun before and it would be more than 2^32 pages altogether.
    pub fn begin(&mut self, pages: u64) -> Result<(), Refusal> {
        let all = self.pages.saturating_add(pages);
        if self.begun >= ATTEMPTS && all > PAGES {
            return Err(Refusal::Attempts);
        }
        self.pages = all;
        self.begun = self.begun.saturating_add(1);
        Ok(())
    }
}
