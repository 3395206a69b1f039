//! Real Xen on one machine: builds a dom0 disk from Debian's packages, boots a hypervisor and that disk in QEMU,
//! and runs commands in dom0.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use vmcrypt_testbed::{Boot, Image, Machine};
//! let image = Image::ensure()?;
//! let mut machine = Machine::boot(&image, &Boot::new("target/xen-stock/xen"), "target/testbed/logs/try")?;
//! let answer = machine.run("xl info", std::time::Duration::from_secs(10))?;
//! # Ok(()) }
//! ```
//!
//! Two halves meet here. The *host* half builds and boots. The *agent* half is a small static program in dom0 that
//! runs commands for the host over a virtio serial port; [`protocol`] is what they speak.

#[cfg(feature = "host")]
mod client;
#[cfg(feature = "host")]
mod console;
#[cfg(feature = "host")]
mod cpio;
#[cfg(feature = "host")]
mod esp;
#[cfg(feature = "host")]
mod image;
#[cfg(feature = "host")]
mod machine;
#[cfg(feature = "host")]
mod modules;
pub mod protocol;

#[cfg(feature = "host")]
pub use {
    client::Answer,
    console::{ORACLE, Trouble},
    image::Image,
    machine::{Boot, Console, Machine, Store, Vectors, qemu_major},
};
