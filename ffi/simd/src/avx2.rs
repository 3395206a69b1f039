//! VAES on 256 bits, in VEX encodings: CPUs without AVX-512, or on which Xen leaves it off.
//!
//! Every CPU that has VAES has VPCLMULQDQ as well, but for emulated ones: QEMU's. For those [`Halves`] multiplies half a
//! register at a time, so that what Xen does about wide registers can be seen at work in an emulator.

#![allow(
    unsafe_code,
    reason = "functions with target features are called after the type has proved them"
)]

use core::arch::{asm, x86_64::*};
use vmcrypt_core::aes::Block;
use vmcrypt_core::cipher::SharedBlock;

use crate::ni;

/// Proof that the CPU has AVX2, VAES, VPCLMULQDQ and what [`ni`] needs, and that XCR0 admits 256 bits.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

/// The same without VPCLMULQDQ.
#[derive(Debug, Clone, Copy)]
pub struct Halves(());

impl Avx2 {
    /// # Safety
    ///
    /// The CPU has the instructions, and they may be executed now: XCR0 included.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Asks the CPU and the operating system. For hosts only: inside Xen, Xen decides.
    #[cfg(not(vmc_bare))]
    pub fn detect() -> Option<Self> {
        (Halves::detect().is_some() && std::is_x86_feature_detected!("vpclmulqdq")).then_some(Self(()))
    }
}

impl Halves {
    /// # Safety
    ///
    /// As for [`Avx2::new`].
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// As [`Avx2::detect`].
    #[cfg(not(vmc_bare))]
    pub fn detect() -> Option<Self> {
        (ni::AesNi::detect().is_some()
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("vaes"))
        .then_some(Self(()))
    }
}

type Vector = __m256i;

/// Blocks in a register.
const LANES: usize = 2;

/// Whole registers are multiplied.
mod whole {
    use super::*;
    use crate::wide::{backend, walk};

    walk!("aes,pclmulqdq,ssse3,sse4.1,avx2,vaes,vpclmulqdq");
    backend!(Avx2);

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes,vpclmulqdq")]
    fn clmul<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
        _mm256_clmulepi64_epi128::<HALVES>(a, b)
    }
}

/// Each half of a register is multiplied by itself.
mod halves {
    use super::*;
    use crate::wide::{backend, walk};

    walk!("aes,pclmulqdq,ssse3,sse4.1,avx2,vaes");
    backend!(Halves);

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
    fn clmul<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
        let low = _mm_clmulepi64_si128::<HALVES>(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b));
        let high = _mm_clmulepi64_si128::<HALVES>(
            _mm256_extracti128_si256::<1>(a),
            _mm256_extracti128_si256::<1>(b),
        );
        _mm256_set_m128i(high, low)
    }
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn zero() -> Vector {
    _mm256_setzero_si256()
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn load(blocks: &[Block; LANES]) -> Vector {
    // SAFETY: as many readable bytes as the register has, no alignment asked for.
    unsafe { _mm256_loadu_si256(blocks.as_ptr().cast()) }
}

/// As `load`, of what somebody else may write: the compiler cannot repeat it.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn load_once(blocks: &[SharedBlock; LANES]) -> Vector {
    let x;
    // SAFETY: as for `load`; all of it may be written meanwhile.
    unsafe {
        asm!("vmovdqu {x}, [{from}]", x = lateout(ymm_reg) x, from = in(reg) blocks,
            options(readonly, nostack, preserves_flags))
    };
    x
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn load_powers(powers: &[[u64; 2]; LANES]) -> Vector {
    // SAFETY: as for `load`.
    unsafe { _mm256_loadu_si256(powers.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn store(blocks: &mut [Block; LANES], x: Vector) {
    // SAFETY: as many writable bytes as the register has, no alignment asked for.
    unsafe { _mm256_storeu_si256(blocks.as_mut_ptr().cast(), x) }
}

/// One block, in every lane.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn spread(block: &Block) -> Vector {
    _mm256_broadcastsi128_si256(ni::load(block))
}

/// One block in the first lane, zeros in the others.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn widen(block: __m128i) -> Vector {
    _mm256_zextsi128_si256(block)
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn gather(x: Vector) -> __m128i {
    _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
    xor(xor(a, b), c)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn add64(a: Vector, b: Vector) -> Vector {
    _mm256_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn aesenc(x: Vector, round: Vector) -> Vector {
    _mm256_aesenc_epi128(x, round)
}

#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1,avx2,vaes")]
fn aesenclast(x: Vector, round: Vector) -> Vector {
    _mm256_aesenclast_epi128(x, round)
}
