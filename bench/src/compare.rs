//! What changed between two runs: `cargo xtask bench compare`.

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};

use crate::{
    figure::{Figure, Report},
    machine::Machine,
};

/// Two result files.
#[derive(clap::Args)]
pub struct Args {
    /// Result file of the earlier run
    #[arg(value_name = "A")]
    before: PathBuf,

    /// Result file of the later run, of the same verb on the same kind of machine
    #[arg(value_name = "B")]
    after: PathBuf,

    /// Percent that a median must have moved, besides leaving the other's quartiles
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    least: f64,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<ExitCode> {
    let (before, after) = (Report::load(&args.before)?, Report::load(&args.after)?);
    let comparison = Comparison::new(&before, &after, args.least)?;
    print!("{comparison}");
    Ok(ExitCode::from(u8::from(comparison.changed())))
}

/// Samples without which quartiles say nothing: those of three are nearly the lowest and the highest, and of two times three
/// one in ten is apart by chance.
const ENOUGH: usize = 10;

/// What became of the figures of the first run.
struct Comparison<'a> {
    /// What ran, and how busy the machine was.
    runs: [&'a Machine; 2],
    both: Vec<(&'a Figure, &'a Figure, Verdict)>,
    /// Figures that one of the runs has alone.
    alone: [Vec<&'a Figure>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Noise,
    Faster,
    Slower,
    /// They are apart, and with so few rounds that may be chance.
    TooFewRounds,
}

impl<'a> Comparison<'a> {
    /// Refuses what measures other things, or another kind of machine.
    fn new(before: &'a Report, after: &'a Report, least: f64) -> Result<Self> {
        ensure!(
            before.verb == after.verb,
            "not comparable: one file is of \"{}\", the other of \"{}\"",
            before.verb,
            after.verb
        );
        ensure!(
            before.machine.is_like(&after.machine),
            "not comparable: one file is of {}, the other of {}",
            before.machine.cpu(),
            after.machine.cpu()
        );
        let same = |figure: &Figure, others: &'a Report| {
            let label = figure.label();
            let fits = |other: &&Figure| other.label() == label && other.unit == figure.unit;
            others.figures.iter().find(fits)
        };
        let both: Vec<_> = before
            .figures
            .iter()
            .filter_map(|a| same(a, after).map(|b| (a, b, judge(a, b, least))))
            .collect();
        ensure!(!both.is_empty(), "not comparable: no figure is in both files");
        let alone = |own: &'a Report, others| {
            let figures = own.figures.iter();
            figures.filter(|figure| same(figure, others).is_none()).collect()
        };
        Ok(Self {
            runs: [&before.machine, &after.machine],
            both,
            alone: [alone(before, after), alone(after, before)],
        })
    }

    fn changed(&self) -> bool {
        let changed = |verdict| matches!(verdict, Verdict::Faster | Verdict::Slower);
        self.both.iter().any(|(.., verdict)| changed(*verdict))
    }
}

/// A change is one beyond the quartiles of both runs, and large enough to mean something.
fn judge(before: &Figure, after: &Figure, least: f64) -> Verdict {
    let moved = (after.median / before.median - 1.0).abs() * 100.0 >= least;
    let verdict = if moved && after.upper_quartile < before.lower_quartile {
        Verdict::Faster
    } else if moved && after.lower_quartile > before.upper_quartile {
        Verdict::Slower
    } else {
        return Verdict::Noise;
    };
    if before.rounds.min(after.rounds) < ENOUGH {
        return Verdict::TooFewRounds;
    }
    verdict
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (which, machine) in ["first", "second"].into_iter().zip(self.runs) {
            writeln!(f, "{which}: {}", machine.run())?;
        }
        let alone = self.alone.iter().flatten().copied();
        let all = self.both.iter().map(|(figure, ..)| *figure).chain(alone);
        let width = all.map(|figure| figure.label().len()).max().unwrap_or(0) + 2;
        for (before, after, verdict) in &self.both {
            let verdict = match verdict {
                Verdict::Noise => "",
                Verdict::Faster => "  faster",
                Verdict::Slower => "  SLOWER",
                Verdict::TooFewRounds => "  too few rounds to tell",
            };
            writeln!(
                f,
                "{:<width$}{:>12}{:>12}{:>+8.1} %{verdict}",
                before.label(),
                before.show(before.median),
                after.show(after.median),
                (after.median / before.median - 1.0) * 100.0
            )?;
        }
        for (which, figures) in ["first", "second"].into_iter().zip(&self.alone) {
            for figure in figures {
                writeln!(f, "{:<width$}in the {which} file alone", figure.label())?;
            }
        }
        let count = |wanted| {
            self.both
                .iter()
                .filter(|(.., verdict)| *verdict == wanted)
                .count()
        };
        writeln!(
            f,
            "{} faster, {} slower, {} within noise, {} with too few rounds to tell",
            count(Verdict::Faster),
            count(Verdict::Slower),
            count(Verdict::Noise),
            count(Verdict::TooFewRounds)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    /// A run with figures that have these samples, each twice.
    fn run(verb: &str, figures: &[(&str, [f64; 5])]) -> Report {
        let figures = figures
            .iter()
            .map(|(name, samples)| Figure::new(*name, Unit::Nanoseconds, &[*samples, *samples].concat()));
        Report::measure(verb, || Ok(figures.collect())).unwrap()
    }

    const OLD: [f64; 5] = [98.0, 99.0, 100.0, 101.0, 102.0];

    #[test]
    fn changed() {
        let before = run("page", &[("a", OLD), ("b", OLD)]);
        let after = run(
            "page",
            &[
                ("a", OLD.map(|time| time * 1.2)),
                ("b", OLD.map(|time| time * 0.8)),
            ],
        );
        let comparison = Comparison::new(&before, &after, 3.0).unwrap();
        assert!(comparison.changed());
        let verdicts: Vec<_> = comparison.both.iter().map(|(.., verdict)| *verdict).collect();
        assert_eq!(verdicts, [Verdict::Slower, Verdict::Faster]);
        assert!(
            comparison
                .to_string()
                .contains("1 faster, 1 slower, 0 within noise, 0 with")
        );
    }

    #[test]
    fn noise() {
        let before = run("page", &[("a", OLD), ("b", OLD), ("gone", OLD)]);
        let wide = [60.0, 80.0, 110.0, 140.0, 160.0];
        // One has a wide spread, the other moved by little.
        let after = run("page", &[("a", wide), ("b", OLD.map(|time| time * 1.029))]);
        let comparison = Comparison::new(&before, &after, 3.0).unwrap();
        assert!(!comparison.changed());
        assert!(comparison.to_string().contains("gone  in the first file alone"));
    }

    #[test]
    fn too_few_rounds() {
        let of = |samples: &[f64]| Figure::new("a", Unit::Seconds, samples);
        assert_eq!(
            judge(&of(&OLD), &of(&OLD.map(|time| time * 2.0)), 3.0),
            Verdict::TooFewRounds
        );
        assert_eq!(judge(&of(&OLD), &of(&OLD), 3.0), Verdict::Noise);
    }

    #[test]
    fn not_comparable() {
        let page = run("page", &[("a", OLD)]);
        let refused = |other: &Report| {
            let error = Comparison::new(&page, other, 3.0).err().expect("it was compared");
            assert!(error.to_string().starts_with("not comparable"), "{error}");
        };
        refused(&run("stages", &[("a", OLD)]));
        refused(&run("page", &[("b", OLD)]));
        // The same file as another machine would have written it.
        let file = tempfile::NamedTempFile::new().unwrap();
        page.save(file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), text.replace("\"cpus\": ", "\"cpus\": 1")).unwrap();
        refused(&Report::load(file.path()).unwrap());
    }
}
