//! AES-256 in constant time: no table and no branch depends on a secret.
//!
//! Four blocks are worked on at once, bit-sliced over eight words: bit `16 * row + 4 * column + block`
//! of plane `i` is bit `i` of that byte of the state, and the S-box is a Boolean circuit. ShiftRows is never
//! done ("fixslicing", A. Adomnicai and T. Peyrin, ePrint 2020/1123): the rows stay where they are, MixColumns
//! looks for its bytes where as many ShiftRows as there were rounds would have fetched them from, and the
//! round keys are laid out the same way.
//!
//! Why not the `aes` crate: `docs/decisions/0001-own-constant-time-aes.md`.

use zeroize::Zeroize;

/// What AES works on.
pub type Block = [u8; 16];

/// Round keys of AES-256: one before the first of fourteen rounds, one after each.
const ROUND_KEYS: usize = 15;

type Planes = [u64; 8];

/// An expanded AES-256 key, in both forms in use: in the standard's order for AES-NI, and
/// bit-sliced. Filled in place, wiped on drop.
#[repr(C)]
pub struct AesKey {
    rounds: [Block; ROUND_KEYS],
    /// All four blocks share a key, so each nibble of a plane is 0 or 15 and four planes fit in a word.
    sliced: [[u64; 2]; ROUND_KEYS],
}

impl AesKey {
    /// A key that is not set yet: all zero, and useless.
    pub const fn empty() -> Self {
        Self {
            rounds: [[0; 16]; ROUND_KEYS],
            sliced: [[0; 2]; ROUND_KEYS],
        }
    }

    /// Expands `key` in place (FIPS 197, section 5.2).
    pub fn set(&mut self, key: &[u8; 32]) {
        for (round, half) in self.rounds.iter_mut().zip(key.as_chunks().0) {
            *round = *half;
        }
        let mut rcon = 1;
        for i in 2..ROUND_KEYS {
            let before = words(&self.rounds[i - 2]);
            let mut last = words(&self.rounds[i - 1])[3];
            if i % 2 == 0 {
                last = sub_word(last).rotate_right(8) ^ rcon;
                rcon <<= 1;
            } else {
                last = sub_word(last);
            }
            let mut round = [0; 16];
            for (out, w) in round.as_chunks_mut::<4>().0.iter_mut().zip(before) {
                last ^= w;
                *out = last.to_le_bytes();
            }
            self.rounds[i] = round;
            round.zeroize();
        }
        for (i, (sliced, round)) in (0..).zip(self.sliced.iter_mut().zip(&self.rounds)) {
            let mut planes = slice(&[*round; 4]);
            // The last round ends with the rows in their places.
            unshift_rows(&mut planes, if i == ROUND_KEYS as u32 - 1 { 0 } else { i });
            *sliced = compress(&planes);
            planes.zeroize();
        }
    }

    /// The round keys in the order of FIPS 197, as AES-NI wants them.
    pub const fn round_keys(&self) -> &[Block; ROUND_KEYS] {
        &self.rounds
    }

    /// The same, bit-sliced, as they are kept for [`encrypt4`](Self::encrypt4).
    pub const fn sliced_keys(&self) -> &[[u64; 2]; ROUND_KEYS] {
        &self.sliced
    }

    /// Encrypts four blocks in place.
    pub fn encrypt4(&self, blocks: &mut [Block; 4]) {
        let [first, middle @ .., last] = &self.sliced;
        let mut q = slice(blocks);
        add_round_key(&mut q, first);
        for (shifts, key) in (1..14u32).zip(middle) {
            sub_bytes(&mut q);
            match shifts % 4 {
                0 => mix_columns::<0>(&mut q),
                1 => mix_columns::<1>(&mut q),
                2 => mix_columns::<2>(&mut q),
                _ => mix_columns::<3>(&mut q),
            }
            add_round_key(&mut q, key);
        }
        sub_bytes(&mut q);
        // Fourteen ShiftRows at once: two, as four are none, and two undo two.
        unshift_rows(&mut q, 2);
        add_round_key(&mut q, last);
        unslice(q, blocks);
    }

    /// Decrypts four blocks in place.
    pub fn decrypt4(&self, blocks: &mut [Block; 4]) {
        let [first, middle @ .., last] = &self.sliced;
        let mut q = slice(blocks);
        add_round_key(&mut q, last);
        unshift_rows(&mut q, 2);
        inv_sub_bytes(&mut q);
        for (shifts, key) in (1..14u32).zip(middle).rev() {
            add_round_key(&mut q, key);
            match shifts % 4 {
                0 => inv_mix_columns::<0>(&mut q),
                1 => inv_mix_columns::<1>(&mut q),
                2 => inv_mix_columns::<2>(&mut q),
                _ => inv_mix_columns::<3>(&mut q),
            }
            inv_sub_bytes(&mut q);
        }
        add_round_key(&mut q, first);
        unslice(q, blocks);
    }

    /// Encrypts one block in place. Costs as much as four.
    pub fn encrypt(&self, block: &mut Block) {
        let mut four = [*block; 4];
        self.encrypt4(&mut four);
        [*block, ..] = four;
    }

    /// Decrypts one block in place. Costs as much as four.
    pub fn decrypt(&self, block: &mut Block) {
        let mut four = [*block; 4];
        self.decrypt4(&mut four);
        [*block, ..] = four;
    }
}

impl Zeroize for AesKey {
    fn zeroize(&mut self) {
        self.rounds.zeroize();
        self.sliced.zeroize();
    }
}

impl Drop for AesKey {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// The four columns of a block.
fn words(block: &Block) -> [u32; 4] {
    let all = u128::from_le_bytes(*block);
    [
        all as u32,
        (all >> 32) as u32,
        (all >> 64) as u32,
        (all >> 96) as u32,
    ]
}

/// The S-box on each byte of a word, for the key schedule.
fn sub_word(word: u32) -> u32 {
    let mut q = [u64::from(word), 0, 0, 0, 0, 0, 0, 0];
    transpose(&mut q);
    sub_bytes(&mut q);
    transpose(&mut q);
    let [out, ..] = q;
    q.zeroize();
    out as u32
}

/// Blocks to planes.
fn slice(blocks: &[Block; 4]) -> Planes {
    // Each byte of a column to the low half of the 16-bit lane of its row.
    fn spread(column: u32) -> u64 {
        let x = u64::from(column);
        let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
        (x | x << 8) & 0x00ff_00ff_00ff_00ff
    }
    let mut q = [0; 8];
    let (even, odd) = q.split_at_mut(4);
    for ((even, odd), block) in even.iter_mut().zip(odd).zip(blocks) {
        let [c0, c1, c2, c3] = words(block);
        *even = spread(c0) | spread(c2) << 8;
        *odd = spread(c1) | spread(c3) << 8;
    }
    transpose(&mut q);
    q
}

/// Planes to blocks.
fn unslice(mut q: Planes, blocks: &mut [Block; 4]) {
    fn gather(lanes: u64) -> u128 {
        let x = lanes & 0x00ff_00ff_00ff_00ff;
        let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
        u128::from((x | x >> 16) as u32)
    }
    transpose(&mut q);
    let (even, odd) = q.split_at(4);
    for ((even, odd), block) in even.iter().zip(odd).zip(blocks) {
        let all = gather(*even) | gather(*odd) << 32 | gather(*even >> 8) << 64 | gather(*odd >> 8) << 96;
        *block = all.to_le_bytes();
    }
}

/// Transposes the 8x8 bit matrix formed by byte `j` of the eight words, for every `j`. Its own inverse.
fn transpose(q: &mut Planes) {
    fn swap(a: u64, b: u64, shift: u32, low: u64) -> (u64, u64) {
        let t = (a >> shift ^ b) & low;
        (a ^ t << shift, b ^ t)
    }
    let [q0, q1, q2, q3, q4, q5, q6, q7] = *q;
    const ONE: u64 = 0x5555_5555_5555_5555;
    let ((q0, q1), (q2, q3)) = (swap(q0, q1, 1, ONE), swap(q2, q3, 1, ONE));
    let ((q4, q5), (q6, q7)) = (swap(q4, q5, 1, ONE), swap(q6, q7, 1, ONE));
    const TWO: u64 = 0x3333_3333_3333_3333;
    let ((q0, q2), (q1, q3)) = (swap(q0, q2, 2, TWO), swap(q1, q3, 2, TWO));
    let ((q4, q6), (q5, q7)) = (swap(q4, q6, 2, TWO), swap(q5, q7, 2, TWO));
    const FOUR: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let ((q0, q4), (q1, q5)) = (swap(q0, q4, 4, FOUR), swap(q1, q5, 4, FOUR));
    let ((q2, q6), (q3, q7)) = (swap(q2, q6, 4, FOUR), swap(q3, q7, 4, FOUR));
    *q = [q0, q1, q2, q3, q4, q5, q6, q7];
}

const NIBBLE: u64 = 0x1111_1111_1111_1111;

fn compress(q: &Planes) -> [u64; 2] {
    let [q0, q1, q2, q3, q4, q5, q6, q7] = q;
    let pack = |a, b, c, d| a & NIBBLE | b & NIBBLE << 1 | c & NIBBLE << 2 | d & NIBBLE << 3;
    [pack(q0, q1, q2, q3), pack(q4, q5, q6, q7)]
}

fn add_round_key(q: &mut Planes, [low, high]: &[u64; 2]) {
    // One bit to the whole nibble; 15 * x, and nothing carries over.
    fn expand(packed: u64, plane: u32) -> u64 {
        let x = packed >> plane & NIBBLE;
        (x << 4).wrapping_sub(x)
    }
    let [q0, q1, q2, q3, q4, q5, q6, q7] = q;
    for (plane, (a, b)) in [(q0, q4), (q1, q5), (q2, q6), (q3, q7)].into_iter().enumerate() {
        *a ^= expand(*low, plane as u32);
        *b ^= expand(*high, plane as u32);
    }
}

/// The inverse of so many ShiftRows.
fn unshift_rows(q: &mut Planes, times: u32) {
    for x in q {
        let row = |r: u32| u64::from(((*x >> (16 * r)) as u16).rotate_left(4 * r * times)) << (16 * r);
        *x = row(0) | row(1) | row(2) | row(3);
    }
}

/// To each row and column what stands so many rows and columns further on.
#[inline(always)]
fn fetch<const ROWS: u32, const COLUMNS: u32>(x: u64) -> u64 {
    const { assert!(ROWS < 4 && COLUMNS < 4) };
    // Columns that do not wrap around within their row.
    let straight = (0xffff >> (4 * COLUMNS)) * 0x0001_0001_0001_0001;
    let distance = 16 * ROWS + 4 * COLUMNS;
    x.rotate_right(distance) & straight | x.rotate_right((distance + 48) % 64) & !straight
}

/// Multiplies every byte by x.
fn double([x0, x1, x2, x3, x4, x5, x6, x7]: Planes) -> Planes {
    [x7, x0 ^ x7, x1, x2 ^ x7, x3 ^ x7, x4, x5, x6]
}

/// MixColumns after `SHIFTS` ShiftRows that were not done.
#[inline(always)]
fn mix_columns<const SHIFTS: u32>(q: &mut Planes) {
    // Row r becomes 2 (a[r] + a[r+1]) + a[r+1] + (a[r+2] + a[r+3]).
    let next = q.map(match SHIFTS {
        0 => fetch::<1, 0>,
        1 => fetch::<1, 1>,
        2 => fetch::<1, 2>,
        _ => fetch::<1, 3>,
    });
    let mut sum = *q;
    for (sum, next) in sum.iter_mut().zip(next) {
        *sum ^= next;
    }
    let opposite = two_rows_on::<SHIFTS>(sum);
    for (((q, doubled), next), opposite) in q.iter_mut().zip(double(sum)).zip(next).zip(opposite) {
        *q = doubled ^ next ^ opposite;
    }
}

#[inline(always)]
fn inv_mix_columns<const SHIFTS: u32>(q: &mut Planes) {
    // The inverse matrix is MixColumns times (5, 0, 4, 0).
    let mut sum = two_rows_on::<SHIFTS>(*q);
    for (sum, q) in sum.iter_mut().zip(&*q) {
        *sum ^= q;
    }
    for (q, four) in q.iter_mut().zip(double(double(sum))) {
        *q ^= four;
    }
    mix_columns::<SHIFTS>(q);
}

#[inline(always)]
fn two_rows_on<const SHIFTS: u32>(q: Planes) -> Planes {
    q.map(if SHIFTS.is_multiple_of(2) {
        fetch::<2, 0>
    } else {
        fetch::<2, 2>
    })
}

fn inv_sub_bytes(q: &mut Planes) {
    // With S(x) = A(1/x) + 63h and B(y) = A^-1(y + 63h): S^-1 = B . S . B.
    fn inverse_affine(q: &mut Planes) {
        let [y0, y1, y2, y3, y4, y5, y6, y7] = *q;
        let (y0, y1, y5, y6) = (!y0, !y1, !y5, !y6);
        *q = [
            y2 ^ y5 ^ y7,
            y3 ^ y6 ^ y0,
            y4 ^ y7 ^ y1,
            y5 ^ y0 ^ y2,
            y6 ^ y1 ^ y3,
            y7 ^ y2 ^ y4,
            y0 ^ y3 ^ y5,
            y1 ^ y4 ^ y6,
        ];
    }
    inverse_affine(q);
    sub_bytes(q);
    inverse_affine(q);
}

/// The AES S-box as the published circuit of 113 gates: J. Boyar and R. Peralta, "A small depth-16
/// circuit for the AES S-box", 2012 (ePrint 2011/332), in the paper's own names.
fn sub_bytes(q: &mut Planes) {
    let [u7, u6, u5, u4, u3, u2, u1, u0] = *q;
    // Top: linear.
    let t1 = u3 ^ u5;
    let t2 = u0 ^ u6;
    let t3 = u0 ^ u3;
    let t4 = u0 ^ u5;
    let t5 = u1 ^ u2;
    let y1 = t5 ^ u7;
    let y4 = y1 ^ u3;
    let y12 = t2 ^ t1;
    let y2 = y1 ^ u0;
    let y5 = y1 ^ u6;
    let y3 = y5 ^ t4;
    let t6 = u4 ^ y12;
    let y15 = t6 ^ u5;
    let y20 = t6 ^ u1;
    let y6 = y15 ^ u7;
    let y10 = y15 ^ t5;
    let y11 = y20 ^ t3;
    let y7 = u7 ^ y11;
    let y17 = y10 ^ y11;
    let y19 = y10 ^ t4;
    let y16 = t5 ^ y11;
    let y21 = t2 ^ y16;
    let y18 = u0 ^ y16;
    // Middle: the inversion.
    let m1 = y12 & y15;
    let m2 = y3 & y6 ^ m1;
    let m3 = y4 & u7 ^ m1;
    let m4 = t2 & y16;
    let m5 = y5 & y1 ^ m4;
    let m6 = y2 & y7 ^ m4;
    let m7 = t3 & y11;
    let m8 = t1 & y17 ^ m7;
    let m9 = t4 & y10 ^ m7;
    let a = m2 ^ m8 ^ y20;
    let b = m3 ^ m9 ^ y19;
    let c = m5 ^ m8 ^ y21;
    let d = m6 ^ m9 ^ y18;
    let e = a ^ b;
    let f = a & c;
    let g = d ^ f;
    let h = e & g ^ b;
    let i = (b ^ f) & (c ^ d) ^ d;
    let j = d & (g ^ i);
    let k = j ^ c ^ i;
    let l = h & (g ^ j) ^ e;
    let n = l ^ k;
    let o = h ^ i;
    let p = h ^ l;
    let r = i ^ k;
    let s = o ^ n;
    let z0 = r & y15;
    let z1 = k & y6;
    let z2 = i & u7;
    let z3 = p & y16;
    let z4 = l & y1;
    let z5 = h & y7;
    let z6 = o & y11;
    let z7 = s & y17;
    let z8 = n & y10;
    let z9 = r & y12;
    let z10 = k & y3;
    let z11 = i & y4;
    let z12 = p & t2;
    let z13 = l & y5;
    let z14 = h & y2;
    let z15 = o & t3;
    let z16 = s & t1;
    let z17 = n & t4;
    // Bottom: linear.
    let t1 = z15 ^ z16;
    let t2 = z5 ^ z13;
    let t3 = z9 ^ z10;
    let t4 = z6 ^ z7;
    let t5 = z2 ^ z12 ^ z0 ^ z3;
    let t6 = z4 ^ t1;
    let t7 = z3 ^ t4;
    let t8 = z7 ^ z8 ^ t6;
    let t9 = t3 ^ t6;
    let t10 = z4 ^ t7;
    let t11 = z14 ^ t5 ^ t8;
    let t12 = z1 ^ t9;
    let s3 = z0 ^ z3 ^ t12;
    *q = [
        !(t2 ^ t1 ^ t5),
        !(z12 ^ t2 ^ t8),
        z10 ^ z11 ^ t11,
        z2 ^ z5 ^ t12,
        s3,
        !(z16 ^ z17 ^ t10 ^ t11),
        !(t10 ^ s3),
        t7 ^ t9,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

    /// The S-box by its definition: inverse in GF(2^8), then the affine map (FIPS 197, section 5.1.1).
    fn sbox(x: u8) -> u8 {
        let mul = |mut a: u8, mut b: u8| {
            let mut r = 0;
            while b != 0 {
                r ^= if b & 1 == 1 { a } else { 0 };
                a = (a << 1) ^ if a & 0x80 != 0 { 0x1b } else { 0 };
                b >>= 1;
            }
            r
        };
        let inv = (0..254).fold(1, |p, _| mul(p, x));
        let inv = if x == 0 { 0 } else { inv };
        (1..5).fold(inv, |s, n| s ^ inv.rotate_left(n)) ^ 0x63
    }

    #[test]
    fn sbox_circuit_matches_its_definition() {
        for x in 0..=255u8 {
            let word = u32::from_le_bytes([x, 0, 0x53, !x]);
            assert_eq!(sub_word(word).to_le_bytes(), [sbox(x), 0x63, 0xed, sbox(!x)]);
        }
    }

    #[test]
    fn fips_197_appendix_c3() {
        let key = core::array::from_fn(|i| i as u8);
        let mut block: Block = core::array::from_fn(|i| 0x11 * i as u8);
        let plain = block;
        let mut aes = AesKey::empty();
        aes.set(&key);
        aes.encrypt(&mut block);
        assert_eq!(u128::from_be_bytes(block), 0x8ea2b7ca516745bfeafc49904b496089);
        aes.decrypt(&mut block);
        assert_eq!(block, plain);
    }

    #[test]
    fn agrees_with_the_aes_crate() {
        let mut key = [7; 32];
        let mut blocks = [[1; 16], [2; 16], [3; 16], [4; 16]];
        let mut own = AesKey::empty();
        for _ in 0..if cfg!(miri) { 4 } else { 2000 } {
            own.set(&key);
            let other = aes::Aes256::new(&key.into());
            let plain = blocks;
            own.encrypt4(&mut blocks);
            for (block, plain) in blocks.iter().zip(plain) {
                let mut expected = plain.into();
                other.encrypt_block(&mut expected);
                assert_eq!(expected, *block);
                other.decrypt_block(&mut expected);
                assert_eq!(expected, plain);
            }
            let mut back = blocks;
            own.decrypt4(&mut back);
            assert_eq!(back, plain);
            key[..16].copy_from_slice(&blocks[0]);
            key[16..].copy_from_slice(&blocks[1]);
        }
    }

    #[test]
    fn wiping_leaves_nothing() {
        let mut key = AesKey::empty();
        key.set(&[0xa5; 32]);
        key.zeroize();
        assert!(key.rounds.as_flattened().iter().all(|b| *b == 0));
        assert!(key.sliced.as_flattened().iter().all(|w| *w == 0));
    }
}
