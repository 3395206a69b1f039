//! What the soft-float half and Xen call.

use crate::ni::AesNi;
use core::arch::naked_asm;
use vmcrypt_core::cipher::{Page, PageKey, PageTag, Tweak, decrypt_page, encrypt_page};

/// The way back from a naked function, which the compiler does not harden: through Xen's return thunk if the rest
/// of the code returns that way.
#[cfg(vmc_return_thunk)]
macro_rules! ret {
    () => {
        "jmp __x86_return_thunk"
    };
}
#[cfg(not(vmc_return_thunk))]
macro_rules! ret {
    () => {
        "ret"
    };
}

/// Defines an exported function that realigns the stack and calls `$body`: Xen keeps rsp aligned to 8 bytes, compiled
/// code relies on 16 and spills vector registers accordingly. Arguments stay in their registers.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => $body:path) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) {
            naked_asm!("push rbp", "mov rbp, rsp", "and rsp, -64", "call {body}", "leave", ret!(), body = sym $body)
        }
    };
}

entry! {
    /// Encrypts a page in place with AES-NI and PCLMULQDQ, and stores the tag of its plaintext.
    ///
    /// # Safety
    ///
    /// See the crate: FPU held, CPU capable (AES, PCLMULQDQ, SSE4.1). All pointers valid, `page` and `tag` exclusive.
    vmc_simd_page_encrypt(key: *const PageKey, tweak: *const Tweak, page: *mut Page, tag: *mut PageTag)
        => ni_page_encrypt
}

entry! {
    /// Decrypts a page in place with AES-NI and PCLMULQDQ, and stores the tag of its plaintext.
    ///
    /// # Safety
    ///
    /// As for [`vmc_simd_page_encrypt`].
    vmc_simd_page_decrypt(key: *const PageKey, tweak: *const Tweak, page: *mut Page, tag: *mut PageTag)
        => ni_page_decrypt
}

/// Clears xmm0 to xmm15.
///
/// # Safety
///
/// The FPU is held.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_simd_wipe() {
    naked_asm!(
        "pxor xmm0, xmm0",
        "pxor xmm1, xmm1",
        "pxor xmm2, xmm2",
        "pxor xmm3, xmm3",
        "pxor xmm4, xmm4",
        "pxor xmm5, xmm5",
        "pxor xmm6, xmm6",
        "pxor xmm7, xmm7",
        "pxor xmm8, xmm8",
        "pxor xmm9, xmm9",
        "pxor xmm10, xmm10",
        "pxor xmm11, xmm11",
        "pxor xmm12, xmm12",
        "pxor xmm13, xmm13",
        "pxor xmm14, xmm14",
        "pxor xmm15, xmm15",
        ret!()
    )
}

unsafe extern "C" fn ni_page_encrypt(
    key: *const PageKey,
    tweak: *const Tweak,
    page: *mut Page,
    tag: *mut PageTag,
) {
    // SAFETY: the caller vouches for the CPU and for the pointers.
    unsafe { *tag = encrypt_page(&AesNi::new(), &*key, &*tweak, &mut *page) }
}

unsafe extern "C" fn ni_page_decrypt(
    key: *const PageKey,
    tweak: *const Tweak,
    page: *mut Page,
    tag: *mut PageTag,
) {
    // SAFETY: the caller vouches for the CPU and for the pointers.
    unsafe { *tag = decrypt_page(&AesNi::new(), &*key, &*tweak, &mut *page) }
}
