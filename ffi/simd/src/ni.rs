//! AES-NI and PCLMULQDQ, 128 bits at a time.

#![allow(
    unsafe_code,
    reason = "functions with target features are called after the type has proved them"
)]

use core::arch::{asm, x86_64::*};
use vmcrypt_core::aes::{AesKey, Block};
use vmcrypt_core::cipher::{Backend, Keys, PAGE_SIZE, SharedBlock, SharedPage};
use vmcrypt_core::polyval::{HashKey, POWERS};

/// Blocks in flight: enough to cover the latency of AESENC, few enough for sixteen registers.
pub(crate) const WIDE: usize = 8;
/// Blocks that share a reduction where nothing else is done.
const LONG: usize = 16;

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

    fn copy_then_hash(
        &self,
        key: &HashKey,
        first: &Block,
        from: &SharedPage,
        to: &mut [Block; PAGE_SIZE / 16],
    ) -> Block {
        // SAFETY: the type proves the features.
        unsafe { copy_then_hash(key, first, from, to) }
    }

    fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
        // SAFETY: the type proves the features.
        unsafe { xctr_then_hash(keys, start, acc, blocks) }
    }
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) fn encrypt_block(key: &AesKey, block: &mut Block) {
    let [out] = encrypt(key, [load(block)], |_| ());
    store(block, out);
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) fn decrypt_block(key: &AesKey, block: &mut Block) {
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
    let (long, rest) = blocks.as_chunks::<LONG>();
    let mut sum = load(acc);
    if !long.is_empty() {
        let powers = Powers::<LONG>::new(key);
        for [first, others @ ..] in long {
            sum = powers.absorb(sum, load(first), others.iter().map(|block| load(block)));
        }
    }
    store(acc, absorb(key, sum, rest));
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn copy_then_hash(
    key: &HashKey,
    first: &Block,
    from: &SharedPage,
    to: &mut [Block; PAGE_SIZE / 16],
) -> Block {
    let groups = from
        .as_chunks::<LONG>()
        .0
        .iter()
        .zip(to.as_chunks_mut::<LONG>().0);
    let powers = Powers::<LONG>::new(key);
    let mut sum = load(first);
    let mut begun = false;
    for ([head, from @ ..], [copy, to @ ..]) in groups {
        let mut first = copy_block(head, copy);
        if !core::mem::replace(&mut begun, true) {
            // In the place of the page's first block stands `first`, which is in the sum.
            first = _mm_setzero_si128();
        }
        let others = from.iter().zip(to).map(|(from, to)| copy_block(from, to));
        sum = powers.absorb(sum, first, others);
    }
    let mut out = [0; 16];
    store(&mut out, sum);
    out
}

#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
fn xctr_then_hash(keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
    let mut counters = Counters::new(start);
    let (wide, rest) = blocks.as_chunks_mut::<WIDE>();
    let mut sum = load(acc);
    if let Some((eight, others)) = wide.split_first_mut() {
        let powers = Powers::<WIDE>::new(keys.hash);
        first(eight, || encrypt(keys.cipher, counters.take(), |_| ()));
        // AES of each eight blocks runs while the multiplier is busy with the eight before them.
        let mut before: &[Block; WIDE] = eight;
        for eight in others {
            let mut products = Products::new(sum);
            let mut hashed = before.iter().zip(&powers.0);
            let stream = encrypt(keys.cipher, counters.take::<WIDE>(), |_| {
                if let Some((block, power)) = hashed.next() {
                    products.add(load(block), power);
                }
            });
            sum = products.reduce();
            add(eight, &stream);
            before = eight;
        }
        let [first, others @ ..] = before;
        sum = powers.absorb(sum, load(first), others.iter().map(|block| load(block)));
        if !rest.is_empty() {
            add(rest, &encrypt(keys.cipher, counters.take::<WIDE>(), |_| ()));
        }
    } else {
        first(rest, || encrypt(keys.cipher, counters.take(), |_| ()));
    }
    store(acc, absorb(keys.hash, sum, rest));
}

/// Adds the key stream to the first [`WIDE`] blocks or fewer of a message, but not to its very first.
#[target_feature(enable = "sse2")]
pub(crate) fn first(blocks: &mut [Block], stream: impl FnOnce() -> [__m128i; WIDE]) {
    let mut stream = stream();
    let [none, ..] = &mut stream;
    *none = _mm_setzero_si128();
    add(blocks, &stream);
}

/// XCTR's counter blocks.
pub(crate) struct Counters {
    start: __m128i,
    next: __m128i,
}

impl Counters {
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(crate) fn new(start: &Block) -> Self {
        Self {
            start: load(start),
            next: _mm_setzero_si128(),
        }
    }

    /// The next ones.
    #[inline]
    #[target_feature(enable = "sse2")]
    pub(crate) fn take<const N: usize>(&mut self) -> [__m128i; N] {
        [(); N].map(|()| {
            let block = _mm_xor_si128(self.start, self.next);
            self.next = _mm_add_epi64(self.next, _mm_set_epi64x(0, 1));
            block
        })
    }
}

/// AES-256 of `N` blocks side by side, with other work to do in each of the thirteen middle rounds.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) fn encrypt<const N: usize>(
    key: &AesKey,
    mut x: [__m128i; N],
    mut meanwhile: impl FnMut(usize),
) -> [__m128i; N] {
    let [first, middle @ .., last] = key.round_keys();
    let first = load(first);
    for x in &mut x {
        *x = _mm_xor_si128(*x, first);
    }
    for (i, round) in middle.iter().enumerate() {
        let round = load(round);
        for x in &mut x {
            *x = _mm_aesenc_si128(*x, round);
        }
        meanwhile(i);
    }
    let last = load(last);
    for x in &mut x {
        *x = _mm_aesenclast_si128(*x, last);
    }
    x
}

/// Adds key stream to blocks.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn add(blocks: &mut [Block], stream: &[__m128i]) {
    for (block, stream) in blocks.iter_mut().zip(stream) {
        let sum = _mm_xor_si128(*stream, load(block));
        store(block, sum);
    }
}

/// The last powers of the hash key, each with the sum of its halves for Karatsuba's middle product.
struct Powers<const N: usize>([(__m128i, __m128i); N]);

impl<const N: usize> Powers<N> {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn new(key: &HashKey) -> Self {
        let mut powers = [(_mm_setzero_si128(), _mm_setzero_si128()); N];
        for (slot, power) in powers.iter_mut().zip(&key.powers()[POWERS - N..]) {
            *slot = folded(power);
        }
        Self(powers)
    }

    /// Absorbs a group. What is added to the sum so far comes last, so that nothing waits for that.
    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn absorb(&self, sum: __m128i, first: __m128i, others: impl Iterator<Item = __m128i>) -> __m128i {
        let mut products = Products::new(_mm_setzero_si128());
        let mut powers = self.0.iter();
        let power = powers.next();
        for (block, power) in others.zip(powers) {
            products.add(block, power);
        }
        if let Some(power) = power {
            products.add(_mm_xor_si128(first, sum), power);
        }
        products.reduce()
    }
}

/// Absorbs at most [`POWERS`] blocks.
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) fn absorb(key: &HashKey, sum: __m128i, blocks: &[Block]) -> __m128i {
    if blocks.is_empty() {
        return sum;
    }
    let mut products = Products::new(sum);
    let powers = key.powers().iter().skip(POWERS - blocks.len().min(POWERS));
    for (block, power) in blocks.iter().zip(powers) {
        products.add(load(block), &folded(power));
    }
    products.reduce()
}

/// A power and the sum of its halves.
#[inline]
#[target_feature(enable = "sse2")]
fn folded([low, high]: &[u64; 2]) -> (__m128i, __m128i) {
    let power = _mm_set_epi64x(*high as i64, *low as i64);
    (power, fold(power))
}

/// POLYVAL with one reduction for up to [`POWERS`] blocks: block `i` of `n` is multiplied by `h^(n-i)`, and the sum so
/// far goes with the first block.
struct Products {
    low: __m128i,
    middle: __m128i,
    high: __m128i,
    carry: __m128i,
}

impl Products {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn new(sum: __m128i) -> Self {
        let zero = _mm_setzero_si128();
        Self {
            low: zero,
            middle: zero,
            high: zero,
            carry: sum,
        }
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn add(&mut self, block: __m128i, (power, folded): &(__m128i, __m128i)) {
        let x = _mm_xor_si128(block, self.carry);
        self.carry = _mm_setzero_si128();
        self.low = _mm_xor_si128(self.low, _mm_clmulepi64_si128::<0x00>(x, *power));
        self.high = _mm_xor_si128(self.high, _mm_clmulepi64_si128::<0x11>(x, *power));
        self.middle = _mm_xor_si128(self.middle, _mm_clmulepi64_si128::<0x00>(fold(x), *folded));
    }

    #[inline]
    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn reduce(self) -> __m128i {
        let middle = _mm_xor_si128(self.middle, _mm_xor_si128(self.low, self.high));
        reduce(self.low, middle, self.high)
    }
}

/// The sum of products, `high` and `middle` being those of the upper halves and of unlike halves, as a field element.
#[inline]
#[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
pub(crate) fn reduce(low: __m128i, middle: __m128i, high: __m128i) -> __m128i {
    let mut low = _mm_xor_si128(low, _mm_slli_si128::<8>(middle));
    let high = _mm_xor_si128(high, _mm_srli_si128::<8>(middle));
    // Montgomery, as in the portable code: clear the low word with a multiple of the modulus, twice.
    let modulus = _mm_set_epi64x(0, 0xc2 << 56);
    for _ in 0..2 {
        let product = _mm_clmulepi64_si128::<0x00>(low, modulus);
        low = _mm_xor_si128(_mm_shuffle_epi32::<SWAP>(low), product);
    }
    _mm_xor_si128(high, low)
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
pub(crate) fn load(block: &Block) -> __m128i {
    // SAFETY: sixteen readable bytes, no alignment asked for.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

/// As `load`, of what somebody else may write: the compiler cannot repeat it.
#[inline]
#[target_feature(enable = "sse2")]
fn load_once(block: &SharedBlock) -> __m128i {
    let x;
    // SAFETY: sixteen readable bytes, no alignment asked for, all of which may be written meanwhile.
    unsafe {
        asm!("movdqu {x}, [{from}]", x = lateout(xmm_reg) x, from = in(reg) block,
            options(readonly, nostack, preserves_flags))
    };
    x
}

/// Copies a block, reading it once.
#[inline]
#[target_feature(enable = "sse2")]
fn copy_block(from: &SharedBlock, to: &mut Block) -> __m128i {
    let x = load_once(from);
    store(to, x);
    x
}

#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn store(block: &mut Block, x: __m128i) {
    // SAFETY: sixteen writable bytes, no alignment asked for.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), x) }
}
