//! Vector backends of the page cipher.
//!
//! This is the hard-float half of what is linked into Xen: the soft-float half cannot hold vector code at all,
//! and this one must not be entered before Xen has saved the FPU state. Only pointers and integers
//! cross. Ordinary code in here may use xmm registers too; that is why it is a crate, and an object, of
//! its own.
//!
//! # What the caller owes, at every entry
//!
//! - The FPU is held: state saved, CR0.TS clear, no context switch until it is given back.
//! - The CPU has what the entry's backend asks for. Xen decides that from its own CPUID policy; nothing is
//!   detected here, because run-time detection reads XCR0, which is the guest's.
//! - [`vmc_simd_wipe`] is called before the registers are given back: they hold round keys and plaintext.
//!
//! # Backends
//!
//! One module each, implementing [`vmcrypt_core::cipher::Backend`]: [`ni`] so far. The AES-NI backend is
//! encoded as legacy SSE throughout: VEX encodings fault unless the running guest has enabled AVX in XCR0.

#![no_std]

pub mod ni;

#[allow(
    unsafe_code,
    reason = "the C boundary: raw pointers in, naked functions that realign the stack"
)]
mod entry;

pub use entry::{vmc_simd_page_decrypt, vmc_simd_page_encrypt, vmc_simd_wipe};

#[cfg(vmc_bare)]
#[allow(unsafe_code, reason = "ud2 has no safe form")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in this half can panic, and the link gate sees to it. If it does all the same, stop with
    // registers dumped: that is what Xen makes of an undefined opcode.
    // SAFETY: ud2 traps; it has no other effect.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
