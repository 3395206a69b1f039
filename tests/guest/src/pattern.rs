//! The values that the `regs` role keeps in CPU registers, recognisable to whoever hunts for them.

use std::hint::black_box;

const MASK: u64 = 0x5555_aaaa_3333_cccc;
const BASE: u64 = 0x7e61_57e4_5ec2_0000 ^ MASK;

/// Value of general register number `n` (as the `regs` role numbers them).
pub fn general(n: u8) -> u64 {
    (black_box(BASE) ^ MASK) | 0x6000 | u64::from(n)
}

/// Value of 64-bit lane `lane` of vector register `n`: lanes 0 and 1 are SSE's, 2 and 3 AVX's upper half.
pub fn vector(n: u8, lane: u8) -> u64 {
    (black_box(BASE) ^ MASK) | 0x8000 | u64::from(lane) << 8 | u64::from(n)
}

/// Counts the places in `bytes` where eight bytes are one of ours, at any alignment.
pub fn count(bytes: &[u8]) -> usize {
    // In memory the low half-word, which varies, comes first; the fixed six bytes follow.
    let fixed = &general(0).to_le_bytes()[2..];
    bytes.windows(8).filter(|window| &window[2..] == fixed).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_kind_and_nothing_else() {
        let mut bytes = vec![0u8; 3];
        bytes.extend(general(9).to_le_bytes());
        bytes.extend(vector(15, 3).to_le_bytes());
        bytes.extend(0x1234_5678_9abc_def0u64.to_le_bytes());
        assert_eq!(count(&bytes), 2);
    }
}
