//! VAES and VPCLMULQDQ on 512 bits, in EVEX encodings.

#![allow(
    unsafe_code,
    reason = "functions with target features are called after the type has proved them"
)]

use crate::wide::{backend, walk};
use core::arch::{asm, x86_64::*};
use vmcrypt_core::cipher::SharedBlock;

/// Proof that the CPU has AVX-512 F and VL, VAES, VPCLMULQDQ and what [`ni`] needs, and that XCR0 admits 512 bits.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    ///
    /// The CPU has the instructions, and they may be executed now: XCR0 included.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Asks the CPU and the operating system. For hosts only: inside Xen, Xen decides.
    #[cfg(not(vmc_bare))]
    pub fn detect() -> Option<Self> {
        (ni::AesNi::detect().is_some()
            && std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("vaes")
            && std::is_x86_feature_detected!("vpclmulqdq"))
        .then_some(Self(()))
    }
}

type Vector = __m512i;

/// Blocks in a register.
const LANES: usize = 4;

walk!("aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq");
backend!(Avx512);

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn zero() -> Vector {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn load(blocks: &[Block; LANES]) -> Vector {
    // SAFETY: as many readable bytes as the register has, no alignment asked for.
    unsafe { _mm512_loadu_si512(blocks.as_ptr().cast()) }
}

/// As `load`, of what somebody else may write: the compiler cannot repeat it.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn load_once(blocks: &[SharedBlock; LANES]) -> Vector {
    let x;
    // SAFETY: as for `load`; all of it may be written meanwhile.
    unsafe {
        asm!("vmovdqu64 {x}, [{from}]", x = lateout(zmm_reg) x, from = in(reg) blocks,
            options(readonly, nostack, preserves_flags))
    };
    x
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn load_powers(powers: &[[u64; 2]; LANES]) -> Vector {
    // SAFETY: as for `load`.
    unsafe { _mm512_loadu_si512(powers.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn store(blocks: &mut [Block; LANES], x: Vector) {
    // SAFETY: as many writable bytes as the register has, no alignment asked for.
    unsafe { _mm512_storeu_si512(blocks.as_mut_ptr().cast(), x) }
}

/// One block, in every lane.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn spread(block: &Block) -> Vector {
    _mm512_broadcast_i32x4(ni::load(block))
}

/// One block in the first lane, zeros in the others.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn widen(block: __m128i) -> Vector {
    _mm512_zextsi128_si512(block)
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn gather(x: Vector) -> __m128i {
    let x = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm512_xor_si512(a, b)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn add64(a: Vector, b: Vector) -> Vector {
    _mm512_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn aesenc(x: Vector, round: Vector) -> Vector {
    _mm512_aesenc_epi128(x, round)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn aesenclast(x: Vector, round: Vector) -> Vector {
    _mm512_aesenclast_epi128(x, round)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx512f,avx512vl,vaes,vpclmulqdq")]
fn clmul<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
    _mm512_clmulepi64_epi128::<HALVES>(a, b)
}
