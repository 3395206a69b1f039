//! End-to-end cases: stock `xl` in a stock dom0 against real Xen, stock and with VMCrypt, in QEMU.
//!
//! A case passes only on a positive marker, which it returns as its evidence: the guest went on from where it was,
//! with its secret's hash intact, *and* nobody found the secret where it must not be. Each detector has a twin that
//! runs on the unpatched hypervisor, where it must trip ([`cases::canary`]).

pub mod case;
pub mod cases;
pub mod dom0;
pub mod guest;
pub mod ram;
mod runner;

pub use runner::{Options, Outcome, boot, run, select};
