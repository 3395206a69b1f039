//! Whether something grows in a straight line.

use statrs::statistics::Statistics;

/// The straight line with the least squares of what is off it.
#[derive(Debug, Clone, Copy)]
pub struct Fit {
    /// Growth of y for one x.
    pub slope: f64,
    /// y at zero.
    pub start: f64,
    /// Part of y's variance that the line explains, at most 1.
    pub r_squared: f64,
}

impl Fit {
    /// Of points whose x are not all the same.
    pub fn line(points: &[(f64, f64)]) -> Self {
        let (x, y): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
        let covariance = (&x).covariance(&y);
        let slope = covariance / (&x).variance();
        Self {
            slope,
            start: (&y).mean() - slope * (&x).mean(),
            r_squared: slope * covariance / (&y).variance(),
        }
    }

    /// The power of x with which y grows: 1 if in proportion, 2 if with the square. Of positive numbers.
    pub fn power(points: &[(f64, f64)]) -> Self {
        let logarithms: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        Self::line(&logarithms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_a_curve_is_not_one() {
        let line: Vec<_> = [1.0, 2.0, 4.0, 8.0].map(|x| (x, 3.0 * x + 5.0)).into();
        let fit = Fit::line(&line);
        assert!((fit.slope - 3.0).abs() < 1e-9 && (fit.start - 5.0).abs() < 1e-9);
        assert!(fit.r_squared > 0.999_999);
        let square: Vec<_> = [1.0, 2.0, 4.0, 8.0].map(|x: f64| (x, x * x)).into();
        assert!(Fit::line(&square).r_squared < 0.97);
        assert!((Fit::power(&square).slope - 2.0).abs() < 1e-9);
    }
}
