//! The C boundary of VMCrypt: everything that Xen calls, and the only unsafe Rust in the hypervisor
//! next to the vector backends.
//!
//! Conventions, for every function here:
//! - Names are `vmc_<noun>_<verb>`. Outputs come last, through pointers.
//! - A [`Verdict`] is 0 for success, else a [`Refusal`](vmcrypt_core::Refusal) plus one.
//! - A `VmcDomain *` is memory of [`vmc_domain_size`](domain::vmc_domain_size) bytes that Xen owns. Xen
//!   holds the domain's lock around each call, but for those in [`page`] that say otherwise.
//! - Nothing here allocates, sleeps, or keeps a pointer that it was not given to keep.

#![cfg_attr(vmc_bare, no_std)]
// SAFETY comments stand at each use; the boundary cannot exist without raw pointers.
#![allow(unsafe_code)]

pub mod backend;
pub mod domain;
pub mod door;
pub mod host;
pub mod imports;
pub mod key;
pub mod machine;
pub mod measure;
pub mod page;
pub mod plain;
pub mod record;
mod stack;

use vmcrypt_core::Refusal;

/// 0 for success, else the number of a [`Refusal`] plus one.
pub type Verdict = u32;

pub(crate) fn verdict(result: Result<(), Refusal>) -> Verdict {
    match result {
        Ok(()) => 0,
        Err(refusal) => refusal as Verdict + 1,
    }
}
