//! What a test guest does, and what its observers on the host must know to judge it.
//!
//! The guest is one static program, started as `/init`. Its kernel command line names the *roles* it plays
//! (`vmcrypt.roles=secret,disk`); each role works and checks itself without end and reports on the console in one
//! of three forms, which [`Report`] defines for both sides:
//!
//! ```text
//! vmcrypt-guest: ready roles=secret,disk
//! vmcrypt-guest: secret alive 12 sha256=…
//! vmcrypt-guest: FAIL disk block 17 holds another generation
//! ```
//!
//! Nothing secret is ever on the command line, in the initramfs or in the program file: [`secret`] builds its text
//! from masked bytes at run time, so that a hit anywhere means that somebody read the guest's memory.

pub mod pattern;
pub mod report;
pub mod secret;

pub use report::{Report, Role};
