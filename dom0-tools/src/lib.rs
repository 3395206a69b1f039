//! What the `vmcrypt` command line is made of: reading Xen's save images, searching a guest's memory from dom0,
//! asking the hypervisor what VMCrypt does.
//!
//! It plays the attacker on purpose: [`sweep`] and [`image`] see a guest exactly as a curious administrator of
//! dom0 does. Nothing here is trusted by the hypervisor.

pub mod content;
pub mod escape;
pub mod hypercall;
pub mod image;
pub mod map;
pub mod measure;
pub mod needle;
pub mod owner;
pub mod pv;
pub mod sweep;
pub mod xen;
