//! Page cipher, sessions, sealed record and domain state machine of VMCrypt.
//!
//! This crate knows no C and no Xen. It runs on any host, so all of it is tested natively.

#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
mod class;
mod refusal;

pub use class::PlainClass;
pub use refusal::{Errno, Refusal};

/// Life of a protected domain.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// dom0 loads it; no guest secret exists yet.
    Building = 1,
    /// First unpause: verification and decryption are under way.
    Sealing = 2,
    /// It runs, or may run at any time.
    Running = 3,
    /// It suspended itself; its session may be exported.
    Suspended = 4,
    /// It is being destroyed.
    Dying = 5,
    /// Verification failed; it never runs.
    Refused = 6,
}
