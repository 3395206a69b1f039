//! The launch measurement of a guest that does not exist: what Xen would hash at its first unpause, from its kernel, its
//! initrd and its configuration. `docs/MEASUREMENT.md` has the definition.
//!
//! It lays a domain out exactly as `xl` of Xen 4.20 does (libxl and the PV builder of libxenguest). What it does not
//! know how to lay out is an error that names it: there is never a value that is merely probable.

mod build;
mod config;
pub mod elf;
mod pagetables;
#[cfg(test)]
mod tests;
pub mod unpack;

pub use build::Launch;
pub use config::Config;

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be read, or says something that this tool cannot follow.
    #[error("configuration, {0}")]
    Config(String),
    /// The kernel is no kernel that Xen's domain builder loads, or one that this tool cannot follow.
    #[error("kernel: {0}")]
    Kernel(String),
    /// The domain builder would fail as well.
    #[error("{0}")]
    Build(String),
}
