//! What a page looks like to somebody who knows nothing about it.

/// Bytes of one page.
pub const PAGE: usize = 4096;

/// Outward look of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zero bytes.
    Zero,
    /// No byte value is more frequent than chance allows: ciphertext, or well-compressed data.
    Random,
    /// Anything else.
    Plain,
}

impl Content {
    /// Judges a page by Pearson's chi-squared statistic over its byte values.
    ///
    /// Of 4,096 uniformly random bytes the statistic has 255 degrees of freedom: mean 255, standard deviation
    /// 22.6. Beyond the bounds below lies less than one random page in 10^11 (Wilson-Hilferty approximation), on
    /// either side: too even is as suspicious as too uneven.
    pub fn of(page: &[u8; PAGE]) -> Self {
        if page.iter().all(|&b| b == 0) {
            return Self::Zero;
        }
        const EXPECTED: u64 = PAGE as u64 / 256;
        let mut seen = [0u16; 256];
        for &byte in page {
            seen[usize::from(byte)] += 1;
        }
        // sum((seen - expected)^2) / expected, kept in integers: sum(seen^2)/expected - PAGE.
        let squares: u64 = seen.iter().map(|&n| u64::from(n) * u64::from(n)).sum();
        let chi_squared = squares / EXPECTED - PAGE as u64;
        if (112..=440).contains(&chi_squared) {
            Self::Random
        } else {
            Self::Plain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64*, good enough to look uniform.
    fn noise(seed: u64) -> [u8; PAGE] {
        let mut x = seed | 1;
        std::array::from_fn(|_| {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        })
    }

    #[test]
    fn noise_is_random_always() {
        for seed in 1..4_000 {
            assert_eq!(
                Content::of(&noise(seed * 0x9e37_79b9)),
                Content::Random,
                "seed {seed}"
            );
        }
    }

    #[test]
    fn text_counters_and_half_noise_are_plain() {
        assert_eq!(Content::of(&[0; PAGE]), Content::Zero);
        assert_eq!(
            Content::of(&std::array::from_fn(|i| b"VMCRYPT "[i % 8])),
            Content::Plain
        );
        assert_eq!(
            Content::of(&std::array::from_fn(|i| i as u8)),
            Content::Plain,
            "too even"
        );
        let mut half = noise(7);
        half[..PAGE / 2].fill(0);
        assert_eq!(Content::of(&half), Content::Plain);
        let mut spoilt = noise(8);
        spoilt[..160].fill(b'=');
        assert_eq!(
            Content::of(&spoilt),
            Content::Plain,
            "160 equal bytes of 4,096 show"
        );
    }
}
