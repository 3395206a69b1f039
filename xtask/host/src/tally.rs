//! Counting verdicts.

use std::{fmt, iter::Sum, ops::AddAssign};

/// How many checks passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks that passed on their positive marker.
    pub passed: usize,
    /// Checks that failed, or could not be judged.
    pub failed: usize,
    /// Checks that this machine or this run cannot do.
    pub skipped: usize,
}

impl Tally {
    /// One passed check.
    pub const PASS: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    /// One failed check.
    pub const FAIL: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    /// One skipped check.
    pub const SKIP: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}
