//! What the soft-float half and Xen call.

use crate::avx2::{Avx2, Halves};
use crate::avx512::Avx512;
use crate::ni::AesNi;
use core::arch::naked_asm;
use vmcrypt_core::cipher::{Backend, Page, PageKey, PageTag, SharedPage, Tweak};
use vmcrypt_core::cipher::{decrypt_page, encrypt_page, encrypt_page_from};

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

/// Defines the three exported functions of a backend. They realign the stack and call what is compiled: Xen keeps rsp
/// aligned to 8 bytes, compiled code relies on 16 and spills vector registers accordingly. Arguments stay in their
/// registers.
macro_rules! entries {
    ($backend:ident $asks:literal: $encrypt:ident $encrypt_from:ident $decrypt:ident) => {
        /// Encrypts a page in place and stores the tag of its plaintext.
        ///
        /// # Safety
        ///
        #[doc = concat!("See the crate: FPU held, CPU capable (", $asks, ").")]
        /// All pointers valid, `page` and `tag` exclusive.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $encrypt(
            key: *const PageKey,
            tweak: *const Tweak,
            page: *mut Page,
            tag: *mut PageTag,
        ) {
            naked_asm!(
                "push rbp", "mov rbp, rsp", "and rsp, -64", "call {body}", "leave", ret!(),
                body = sym body::<$backend, true>
            )
        }

        /// Copies `from` to `page`, encrypted, and stores the tag of its plaintext. Each byte of `from` is read once.
        ///
        /// # Safety
        ///
        #[doc = concat!("As for [`", stringify!($encrypt), "`]; `from` is aligned to 8 bytes, and others may write it.")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $encrypt_from(
            key: *const PageKey,
            tweak: *const Tweak,
            page: *mut Page,
            tag: *mut PageTag,
            from: *const Page,
        ) {
            naked_asm!(
                "push rbp", "mov rbp, rsp", "and rsp, -64", "call {body}", "leave", ret!(),
                body = sym body_from::<$backend>
            )
        }

        /// Decrypts a page in place and stores the tag of its plaintext.
        ///
        /// # Safety
        ///
        #[doc = concat!("As for [`", stringify!($encrypt), "`].")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $decrypt(
            key: *const PageKey,
            tweak: *const Tweak,
            page: *mut Page,
            tag: *mut PageTag,
        ) {
            naked_asm!(
                "push rbp", "mov rbp, rsp", "and rsp, -64", "call {body}", "leave", ret!(),
                body = sym body::<$backend, false>
            )
        }
    };
}

/// Defines the function that clears all registers of a width.
macro_rules! wipe {
    ($wipe:ident $width:literal { $($clear:literal)* }) => {
        #[doc = concat!("Clears all that a backend of ", $width, " bits leaves in vector registers.")]
        ///
        /// # Safety
        ///
        /// The FPU is held, and the CPU is capable.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $wipe() {
            naked_asm!($($clear,)* ret!())
        }
    };
}

entries! {
    AesNi "AES, PCLMULQDQ, SSE4.1":
    vmc_simd_aesni_encrypt vmc_simd_aesni_encrypt_from vmc_simd_aesni_decrypt
}
entries! {
    Halves "AVX2, VAES; XCR0 admits ymm":
    vmc_simd_halves_encrypt vmc_simd_halves_encrypt_from vmc_simd_halves_decrypt
}
entries! {
    Avx2 "AVX2, VAES, VPCLMULQDQ; XCR0 admits ymm":
    vmc_simd_avx2_encrypt vmc_simd_avx2_encrypt_from vmc_simd_avx2_decrypt
}
entries! {
    Avx512 "AVX-512 F and VL, VAES, VPCLMULQDQ; XCR0 admits zmm":
    vmc_simd_avx512_encrypt vmc_simd_avx512_encrypt_from vmc_simd_avx512_decrypt
}

wipe! {
    vmc_simd_aesni_wipe 128 {
        "pxor xmm0, xmm0" "pxor xmm1, xmm1" "pxor xmm2, xmm2" "pxor xmm3, xmm3"
        "pxor xmm4, xmm4" "pxor xmm5, xmm5" "pxor xmm6, xmm6" "pxor xmm7, xmm7"
        "pxor xmm8, xmm8" "pxor xmm9, xmm9" "pxor xmm10, xmm10" "pxor xmm11, xmm11"
        "pxor xmm12, xmm12" "pxor xmm13, xmm13" "pxor xmm14, xmm14" "pxor xmm15, xmm15"
    }
}

wipe! { vmc_simd_avx2_wipe 256 { "vzeroall" } }

wipe! {
    vmc_simd_avx512_wipe 512 {
        "vzeroall"
        "vpxord zmm16, zmm16, zmm16" "vpxord zmm17, zmm17, zmm17" "vpxord zmm18, zmm18, zmm18"
        "vpxord zmm19, zmm19, zmm19" "vpxord zmm20, zmm20, zmm20" "vpxord zmm21, zmm21, zmm21"
        "vpxord zmm22, zmm22, zmm22" "vpxord zmm23, zmm23, zmm23" "vpxord zmm24, zmm24, zmm24"
        "vpxord zmm25, zmm25, zmm25" "vpxord zmm26, zmm26, zmm26" "vpxord zmm27, zmm27, zmm27"
        "vpxord zmm28, zmm28, zmm28" "vpxord zmm29, zmm29, zmm29" "vpxord zmm30, zmm30, zmm30"
        "vpxord zmm31, zmm31, zmm31"
    }
}

/// A backend that its caller vouches for.
trait Vouched: Backend {
    /// # Safety
    ///
    /// The CPU has the instructions, and they may be executed now.
    unsafe fn vouched() -> Self;
}

macro_rules! vouched {
    ($($backend:ident)*) => { $(
        impl Vouched for $backend {
            unsafe fn vouched() -> Self {
                // SAFETY: the caller vouches for the CPU.
                unsafe { Self::new() }
            }
        }
    )* };
}

vouched! { AesNi Halves Avx2 Avx512 }

unsafe extern "C" fn body<B: Vouched, const ENCRYPT: bool>(
    key: *const PageKey,
    tweak: *const Tweak,
    page: *mut Page,
    tag: *mut PageTag,
) {
    // SAFETY: the caller vouches for the CPU and for the pointers.
    unsafe {
        let crypt = if ENCRYPT {
            encrypt_page::<B>
        } else {
            decrypt_page::<B>
        };
        *tag = crypt(&B::vouched(), &*key, &*tweak, &mut *page);
    }
}

unsafe extern "C" fn body_from<B: Vouched>(
    key: *const PageKey,
    tweak: *const Tweak,
    page: *mut Page,
    tag: *mut PageTag,
    from: *const Page,
) {
    // SAFETY: the caller vouches for the CPU and for the pointers; what others may write is of atomics.
    unsafe {
        let from = &*from.cast::<SharedPage>();
        *tag = encrypt_page_from(&B::vouched(), &*key, &*tweak, from, &mut *page);
    }
}
