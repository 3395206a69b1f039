//! POLYVAL (RFC 8452, section 3) in constant time: a universal hash over GF(2^128).
//!
//! A field element is a little-endian `u128`. Carry-less products are made of integer
//! multiplications of operands with holes, so that carries die in the holes.

use crate::aes::Block;
use zeroize::Zeroize;

/// Powers of the hash key kept ready, for backends that hash several blocks between reductions.
pub const POWERS: usize = 32;

/// A POLYVAL key: the powers h^[`POWERS`] to h^1 under POLYVAL's own product, in the order in which blocks meet them:
/// a register of any width loads the powers for as many neighbouring blocks. Filled in place, wiped on drop.
#[repr(C)]
pub struct HashKey {
    powers: [[u64; 2]; POWERS],
}

impl HashKey {
    /// A key that is not set yet.
    pub const fn empty() -> Self {
        Self {
            powers: [[0; 2]; POWERS],
        }
    }

    /// Computes the powers in place.
    pub fn set(&mut self, h: &Block) {
        let h = halves(u128::from_le_bytes(*h));
        let mut power = h;
        for slot in self.powers.iter_mut().rev() {
            *slot = power;
            power = dot(power, h);
        }
    }

    /// `h^1` last; each as two little-endian words, the low one first.
    pub const fn powers(&self) -> &[[u64; 2]; POWERS] {
        &self.powers
    }

    /// Absorbs whole blocks into `acc`.
    pub fn hash(&self, acc: &mut Block, blocks: &[Block]) {
        let [.., h] = self.powers;
        let mut sum = u128::from_le_bytes(*acc);
        for block in blocks {
            let [low, high] = dot(halves(sum ^ u128::from_le_bytes(*block)), h);
            sum = u128::from(low) | u128::from(high) << 64;
        }
        *acc = sum.to_le_bytes();
    }
}

impl Zeroize for HashKey {
    fn zeroize(&mut self) {
        self.powers.zeroize();
    }
}

impl Drop for HashKey {
    fn drop(&mut self) {
        self.zeroize();
    }
}

const fn halves(x: u128) -> [u64; 2] {
    [x as u64, (x >> 64) as u64]
}

/// POLYVAL's product: a * b * x^-128 modulo x^128 + x^127 + x^126 + x^121 + 1.
fn dot([a0, a1]: [u64; 2], [b0, b1]: [u64; 2]) -> [u64; 2] {
    // Karatsuba.
    let low = clmul(a0, b0);
    let high = clmul(a1, b1);
    let middle = halves(clmul(a0 ^ a1, b0 ^ b1) ^ low ^ high);
    let [w0, w1] = halves(low);
    let [w2, w3] = halves(high);
    let (w1, w2) = (w1 ^ middle[0], w2 ^ middle[1]);

    // Montgomery: add the multiple of the modulus that clears the low word; twice.
    let w1 = w1 ^ w0 << 57 ^ w0 << 62 ^ w0 << 63;
    let w2 = w2 ^ w0 ^ w0 >> 1 ^ w0 >> 2 ^ w0 >> 7;
    let w2 = w2 ^ w1 << 57 ^ w1 << 62 ^ w1 << 63;
    let w3 = w3 ^ w1 ^ w1 >> 1 ^ w1 >> 2 ^ w1 >> 7;
    [w2, w3]
}

/// Carry-less product of two words.
fn clmul(x: u64, y: u64) -> u128 {
    const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;
    // `y` without its top nibble has at most 15 bits in each class, so that at most 15 ones meet in
    // any bit of a product and the sum stays inside its four bits.
    let xs = [0, 1, 2, 3].map(|i| x & EVERY_FOURTH << i);
    let ys = [0, 1, 2, 3].map(|i| y & EVERY_FOURTH >> 4 << i);
    let mul = |i: usize, j: usize| u128::from(xs[i & 3]) * u128::from(ys[j & 3]);
    let mut out = 0;
    for class in 0..4 {
        let sum = mul(0, class) ^ mul(1, class + 3) ^ mul(2, class + 2) ^ mul(3, class + 1);
        out ^= sum & (EVERY_FOURTH as u128 | (EVERY_FOURTH as u128) << 64) << class;
    }
    // The top nibble of `y`, bit by bit.
    for bit in 60..64 {
        let all_or_nothing = 0u64.wrapping_sub(y >> bit & 1);
        out ^= u128::from(x & all_or_nothing) << bit;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(hex: u128) -> Block {
        hex.to_be_bytes()
    }

    #[test]
    fn clmul_matches_shift_and_add() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut y = u64::MAX;
        for _ in 0..2000 {
            let slow = (0..64)
                .filter(|i| y >> i & 1 == 1)
                .fold(0, |r, i| r ^ u128::from(x) << i);
            assert_eq!(clmul(x, y), slow);
            assert_eq!(clmul(y, x), slow);
            (x, y) = (
                x.wrapping_mul(0xd129_0ded_53b5_9a35) ^ slow as u64,
                x | y.rotate_left(7),
            );
        }
        assert_eq!(
            clmul(u64::MAX, u64::MAX),
            0x5555_5555_5555_5555_5555_5555_5555_5555
        );
    }

    /// RFC 8452, appendix A.
    #[test]
    fn rfc_8452_appendix_a() {
        let mut key = HashKey::empty();
        key.set(&block(0x25629347589242761d31f826ba4b757b));
        let mut acc = [0; 16];
        let text = [
            block(0x4f4f95668c83dfb6401762bb2d01a262),
            block(0xd1a24ddd2721d006bbe45f20d3c9f362),
        ];
        key.hash(&mut acc, &text);
        assert_eq!(acc, block(0xf7a3b47b846119fae5b7866cf5e5b77e));
    }

    #[test]
    fn powers_are_powers() {
        let mut key = HashKey::empty();
        key.set(&[0x5a; 16]);
        // sum b[i] h^(n-i), once by Horner and once by powers
        let blocks: [Block; POWERS] = core::array::from_fn(|i| [i as u8 ^ 0x33; 16]);
        let mut acc = [0; 16];
        key.hash(&mut acc, &blocks);
        let mut sum = [0, 0];
        for (block, power) in blocks.iter().zip(&key.powers) {
            let [a, b] = dot(halves(u128::from_le_bytes(*block)), *power);
            sum = [sum[0] ^ a, sum[1] ^ b];
        }
        assert_eq!(halves(u128::from_le_bytes(acc)), sum);
    }
}
