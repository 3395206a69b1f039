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
//! - XCR0 admits the registers of that backend. It is the running guest's: Xen loads its own first.
//! - The backend's `vmc_simd_*_wipe` is called, or all of its registers are overwritten, before they are given back:
//!   they hold round keys and plaintext.
//!
//! # Backends
//!
//! | module | instructions | registers | encodings |
//! |---|---|---|---|
//! | [`ni`] | AES-NI, PCLMULQDQ | xmm0 to xmm15 | legacy SSE: no bit of XCR0 matters |
//! | [`avx2`] | VAES, VPCLMULQDQ on 256 bits, or the latter on halves | ymm0 to ymm15 | VEX |
//! | [`avx512`] | VAES, VPCLMULQDQ on 512 bits | zmm0 to zmm31, no mask | EVEX and VEX |
//!
//! The link gate holds each to its registers and encodings: Xen saves what is in this table and nothing else, but for the upper
//! halves of zmm0 to zmm15 where the machine has them: every write of a ymm register clears those.
//!
//! Each implements [`vmcrypt_core::cipher::Backend`]. Wide encodings are in the functions of their module alone;
//! a function that uses wide registers clears their upper parts before it returns, so
//! that the legacy code around it runs at full speed.

#![no_std]

#[cfg(not(vmc_bare))]
extern crate std;

pub mod avx2;
pub mod avx512;
pub mod ni;
mod wide;

#[allow(
    unsafe_code,
    reason = "the C boundary: raw pointers in, naked functions that realign the stack"
)]
mod entry;

pub use entry::{vmc_simd_aesni_decrypt, vmc_simd_aesni_encrypt, vmc_simd_aesni_encrypt_from};
pub use entry::{vmc_simd_aesni_wipe, vmc_simd_avx2_wipe, vmc_simd_avx512_wipe};
pub use entry::{vmc_simd_avx2_decrypt, vmc_simd_avx2_encrypt, vmc_simd_avx2_encrypt_from};
pub use entry::{vmc_simd_avx512_decrypt, vmc_simd_avx512_encrypt, vmc_simd_avx512_encrypt_from};
pub use entry::{vmc_simd_halves_decrypt, vmc_simd_halves_encrypt, vmc_simd_halves_encrypt_from};

#[cfg(vmc_bare)]
#[allow(unsafe_code, reason = "ud2 has no safe form")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing in this half can panic, and the link gate sees to it. If it does all the same, stop with
    // registers dumped: that is what Xen makes of an undefined opcode.
    // SAFETY: ud2 traps; it has no other effect.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
