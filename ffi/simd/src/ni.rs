//! AES-NI and PCLMULQDQ, 128 bits at a time.

#![allow(
    unsafe_code,
    reason = "functions with target features are called after the type has proved them"
)]

use core::arch::x86_64::*;
use vmcrypt_core::aes::{AesKey, Block};
use vmcrypt_core::cipher::{Backend, Keys};
use vmcrypt_core::polyval::HashKey;

/// Blocks in flight: enough to cover the latency of AESENC, few enough for sixteen registers.
const WIDE: usize = 8;

/// Proof that the CPU has AES-NI, PCLMULQDQ and SSE4.1.
#[derive(Debug, Clone, Copy)]
pub struct AesNi(());

impl AesNi {
    /// # Safety
    ///
    /// The CPU has the instructions, and they may be executed now.
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Asks the CPU. For hosts only: inside Xen, Xen decides.
    #[cfg(not(vmc_bare))]
    pub fn detect() -> Option<Self> {
        const PCLMULQDQ: u32 = 1 << 1;
        const SSSE3: u32 = 1 << 9;
        const SSE4_1: u32 = 1 << 19;
        const AES: u32 = 1 << 25;
        const ALL: u32 = PCLMULQDQ | SSSE3 | SSE4_1 | AES;
        (__cpuid(1).ecx & ALL == ALL).then_some(Self(()))
    }
}

impl Backend for AesNi {
    fn encrypt_block(&self, key: &AesKey, block: &mut Block) {
        // SAFETY: the type proves the features.
        unsafe { encrypt_block(key, block) }
    }

    fn decrypt_block(&self, key: &AesKey, block: &mut Block) {
        // SAFETY: the type proves the features.
        unsafe { decrypt_block(key, block) }
    }

    fn hash(&self, key: &HashKey, acc: &mut Block, blocks: &[Block]) {
        // SAFETY: the type proves the features.
        unsafe { hash(key, acc, blocks) }
    }

    fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
        // SAFETY: the type proves the features.
        unsafe { xctr_then_hash(keys, start, acc, blocks) }
    }
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn encrypt_block(key: &AesKey, block: &mut Block) {
    let [out] = encrypt(key, [load(block)]);
    store(block, out);
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn decrypt_block(key: &AesKey, block: &mut Block) {
    // The equivalent inverse cipher of FIPS 197, section 5.3.5. One block a page does not pay for inverse
    // round keys of its own.
    let [first, middle @ .., last] = key.round_keys();
    let mut x = _mm_xor_si128(load(block), load(last));
    for round in middle.iter().rev() {
        x = _mm_aesdec_si128(x, _mm_aesimc_si128(load(round)));
    }
    store(block, _mm_aesdeclast_si128(x, load(first)));
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn hash(key: &HashKey, acc: &mut Block, blocks: &[Block]) {
    let hasher = Hasher::new(key);
    let mut sum = load(acc);
    let (wide, rest) = blocks.as_chunks::<WIDE>();
    for eight in wide {
        sum = hasher.absorb(sum, &load_all(eight));
    }
    store(acc, hasher.absorb_rest(sum, rest));
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn xctr_then_hash(keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
    let hasher = Hasher::new(keys.hash);
    let start = load(start);
    let one = _mm_set_epi64x(0, 1);
    let mut count = one;
    let mut sum = load(acc);
    let (wide, rest) = blocks.as_chunks_mut::<WIDE>();
    for eight in wide {
        let mut x = [start; WIDE];
        for x in &mut x {
            *x = _mm_xor_si128(start, count);
            count = _mm_add_epi64(count, one);
        }
        x = encrypt(keys.cipher, x);
        for (block, x) in eight.iter_mut().zip(&mut x) {
            *x = _mm_xor_si128(*x, load(block));
            store(block, *x);
        }
        sum = hasher.absorb(sum, &x);
    }
    let mut x = [start; WIDE - 1];
    for x in &mut x {
        *x = _mm_xor_si128(start, count);
        count = _mm_add_epi64(count, one);
    }
    x = encrypt(keys.cipher, x);
    for (block, x) in rest.iter_mut().zip(x) {
        let out = _mm_xor_si128(x, load(block));
        store(block, out);
    }
    store(acc, hasher.absorb_rest(sum, rest));
}

/// AES-256 of `N` blocks side by side.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn encrypt<const N: usize>(key: &AesKey, mut x: [__m128i; N]) -> [__m128i; N] {
    let [first, middle @ .., last] = key.round_keys();
    let first = load(first);
    for x in &mut x {
        *x = _mm_xor_si128(*x, first);
    }
    for round in middle {
        let round = load(round);
        for x in &mut x {
            *x = _mm_aesenc_si128(*x, round);
        }
    }
    let last = load(last);
    for x in &mut x {
        *x = _mm_aesenclast_si128(*x, last);
    }
    x
}

/// POLYVAL with one reduction for up to [`WIDE`] blocks: block `i` of `n` is multiplied by `h^(n-i)`.
struct Hasher<'a> {
    powers: &'a [[u64; 2]],
    /// Sum of the halves of each power, for Karatsuba's middle product.
    folded: [__m128i; WIDE],
}

impl<'a> Hasher<'a> {
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn new(key: &'a HashKey) -> Self {
        let mut folded = [_mm_setzero_si128(); WIDE];
        for (folded, power) in folded.iter_mut().zip(key.powers()) {
            *folded = fold(load_power(power));
        }
        Self {
            powers: key.powers(),
            folded,
        }
    }

    /// Absorbs `N` blocks, at most [`WIDE`].
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn absorb<const N: usize>(&self, sum: __m128i, blocks: &[__m128i; N]) -> __m128i {
        const { assert!(N <= WIDE) };
        let zero = _mm_setzero_si128();
        let (mut low, mut middle, mut high) = (zero, zero, zero);
        let mut carry = sum;
        for ((block, power), folded) in blocks
            .iter()
            .zip(self.powers.iter().take(N).rev())
            .zip(self.folded.iter().take(N).rev())
        {
            let (x, power) = (_mm_xor_si128(*block, carry), load_power(power));
            low = _mm_xor_si128(low, _mm_clmulepi64_si128::<0x00>(x, power));
            high = _mm_xor_si128(high, _mm_clmulepi64_si128::<0x11>(x, power));
            middle = _mm_xor_si128(middle, _mm_clmulepi64_si128::<0x00>(fold(x), *folded));
            carry = zero;
        }
        middle = _mm_xor_si128(middle, _mm_xor_si128(low, high));
        low = _mm_xor_si128(low, _mm_slli_si128::<8>(middle));
        high = _mm_xor_si128(high, _mm_srli_si128::<8>(middle));
        // Montgomery, as in the portable code: x^64 (x^63 + x^62 + x^57) + 1 = 0, twice.
        let modulus = _mm_set_epi64x(0, 0xc2 << 56);
        for _ in 0..2 {
            let product = _mm_clmulepi64_si128::<0x00>(low, modulus);
            low = _mm_xor_si128(_mm_shuffle_epi32::<SWAP>(low), product);
        }
        _mm_xor_si128(high, low)
    }

    /// Absorbs fewer than [`WIDE`] blocks.
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn absorb_rest(&self, mut sum: __m128i, blocks: &[Block]) -> __m128i {
        let (four, rest) = blocks.as_chunks::<4>();
        for four in four {
            sum = self.absorb(sum, &load_all(four));
        }
        let (two, one) = rest.as_chunks::<2>();
        for two in two {
            sum = self.absorb(sum, &load_all(two));
        }
        for one in one {
            sum = self.absorb(sum, &[load(one)]);
        }
        sum
    }
}

/// Selector that swaps the halves of a register.
const SWAP: i32 = 0b01_00_11_10;

/// The sum of both halves, in both halves.
#[inline]
#[target_feature(enable = "sse2")]
fn fold(x: __m128i) -> __m128i {
    _mm_xor_si128(x, _mm_shuffle_epi32::<SWAP>(x))
}

#[inline]
#[target_feature(enable = "sse2")]
fn load(block: &Block) -> __m128i {
    // SAFETY: sixteen readable bytes, no alignment asked for.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn load_power(power: &[u64; 2]) -> __m128i {
    // SAFETY: sixteen readable bytes, no alignment asked for.
    unsafe { _mm_loadu_si128(power.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn load_all<const N: usize>(blocks: &[Block; N]) -> [__m128i; N] {
    let mut out = [_mm_setzero_si128(); N];
    for (out, block) in out.iter_mut().zip(blocks) {
        *out = load(block);
    }
    out
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(block: &mut Block, x: __m128i) {
    // SAFETY: sixteen writable bytes, no alignment asked for.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), x) }
}
