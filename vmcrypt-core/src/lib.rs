//! Page cipher, sessions, sealed record and domain state machine of VMCrypt.
//!
//! This crate knows no C and no Xen. It runs on any host, so all of it is tested natively.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod aes;
pub mod answer;
pub mod attempts;
mod bitmap;
mod bytes;
pub mod cipher;
mod class;
mod disclose;
pub mod domain;
pub mod doors;
pub mod entropy;
pub mod hpke;
pub mod ids;
pub mod keyring;
pub mod keys;
pub mod known_answer;
pub mod mac;
pub mod machine;
pub mod measure;
pub mod p2m;
pub mod policy;
pub mod polyval;
pub mod record;
mod refusal;
pub mod seal;
pub mod sealed_key;
pub mod sethash;
pub mod weakness;

pub use bitmap::PfnSet;
pub use class::PlainClass;
pub use ids::Pfn;
pub use refusal::{Errno, Refusal};

/// Life of a protected domain.
#[repr(C)]
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

impl State {
    /// The state with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Building,
            2 => Self::Sealing,
            3 => Self::Running,
            4 => Self::Suspended,
            5 => Self::Dying,
            6 => Self::Refused,
            _ => return None,
        })
    }
}
