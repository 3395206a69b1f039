//! Names of things: numbers that must not be confused with each other.

use crate::Refusal;
use crate::entropy::{Source, draw};
use core::fmt;

/// Pseudo-physical frame number: the guest's own index of one of its pages.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u64);

/// Identifier of an export session: 128 fresh random bits, not secret, never used twice.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// Draws an identifier; see [`draw`](crate::entropy::draw).
    ///
    /// # Errors
    /// [`Refusal::NoEntropy`], [`Refusal::StuckEntropy`].
    pub fn draw(source: &mut impl Source) -> Result<Self, Refusal> {
        let mut id = Self::default();
        draw(source, b"session", &[], &mut id.0)?;
        Ok(id)
    }
}

/// Identifier of a host key. Not secret: equal on two hosts exactly if images move between them.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyId(pub [u8; 16]);

fn hex(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{:032x}", u128::from_be_bytes(*bytes))
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}
