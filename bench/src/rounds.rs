//! Measures that take turns.

use anyhow::Result;

/// Runs each of `measures` once a round, in an order of its own each time, so that other load on the machine falls on
/// all alike. Gives the samples of each measure, round by round; `warm` more rounds go before and count for nothing.
pub fn interleaved(
    measures: usize,
    warm: usize,
    rounds: usize,
    mut run: impl FnMut(usize) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::with_capacity(rounds); measures];
    let mut order: Vec<usize> = (0..measures).collect();
    for round in 0..warm + rounds {
        fastrand::shuffle(&mut order);
        for &measure in &order {
            let time = run(measure)?;
            if round >= warm {
                samples[measure].push(time);
            }
        }
    }
    Ok(samples)
}

/// `f` of both samples of each round.
pub fn by_round(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_measure_and_the_first_do_not_count() {
        let mut runs = [0.0; 3];
        let samples = interleaved(3, 2, 4, |measure| {
            runs[measure] += 1.0;
            Ok(runs[measure] + 100.0 * measure as f64)
        })
        .unwrap();
        for (measure, samples) in samples.iter().enumerate() {
            let offset = 100.0 * measure as f64;
            assert_eq!(*samples, [3.0, 4.0, 5.0, 6.0].map(|run| run + offset));
        }
        assert_eq!(by_round(&samples[1], &samples[0], |a, b| a - b), [100.0; 4]);
    }
}
