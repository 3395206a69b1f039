//! Figures, their spread, and the machine they belong to.

use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measures::{Measure, Place, Unit};

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    /// Compiler.
    rustc: &'static str,
    /// Which SHA-256 the record used: Xen has the portable one.
    sha256: &'static str,
    rounds: usize,
    /// In the order of the table.
    pub figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    family: String,
    model: String,
    /// Whether the machine is a virtual one.
    virtual_machine: bool,
    cpus: usize,
    /// Programs that wanted to run in the minute before the end, this one included.
    load: f64,
}

/// One measure.
#[derive(Serialize)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    #[serde(skip)]
    pub unit: Unit,
    /// Always nanoseconds, for one of these.
    nanoseconds_per: &'static str,
    /// Half of the rounds were faster.
    pub median: f64,
    /// A quarter was faster than this.
    pub lower_quartile: f64,
    /// A quarter was slower than this.
    pub upper_quartile: f64,
    /// Where a page's bytes are worked on.
    gigabytes_per_second: Option<f64>,
    /// Median of the ratios, round by round, to a copy of a page in the same place.
    copies: Option<f64>,
}

impl Report {
    /// Sums up the samples of each measure, one a round.
    pub fn new(list: &[Measure], samples: &[Vec<f64>]) -> Result<Self> {
        let copy = |unit| {
            let at = list.iter().position(|measure| measure.unit == unit);
            at.and_then(|at| samples.get(at))
        };
        let figures = list.iter().zip(samples).map(|(measure, samples)| {
            let base = match measure.unit {
                Unit::Record => None,
                Unit::Event => copy(Unit::Page(Place::Cold)),
                page => copy(page),
            };
            let ratios = base.map(|base| samples.iter().zip(base).map(|(time, copy)| time / copy).collect());
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            let median = quantile(&sorted, 0.5);
            Figure {
                name: measure.name,
                unit: measure.unit,
                nanoseconds_per: match measure.unit {
                    Unit::Record => "record",
                    _ => "page",
                },
                median,
                lower_quartile: quantile(&sorted, 0.25),
                upper_quartile: quantile(&sorted, 0.75),
                gigabytes_per_second: matches!(measure.unit, Unit::Page(_)).then(|| 4096.0 / median),
                copies: ratios.map(|mut ratios: Vec<f64>| {
                    ratios.sort_by(f64::total_cmp);
                    quantile(&ratios, 0.5)
                }),
            }
        });
        Ok(Self {
            machine: Machine::this()?,
            rustc: env!("VMCRYPT_BENCH_RUSTC"),
            sha256: if cfg!(sha2_backend = "soft") {
                "portable"
            } else {
                "the fastest that the CPU has"
            },
            rounds: samples.first().map_or(0, Vec::len),
            figures: figures.collect(),
        })
    }

    /// The machine, in one line.
    pub fn machine(&self) -> String {
        let machine = &self.machine;
        let guest = if machine.virtual_machine {
            ", in a virtual machine"
        } else {
            ""
        };
        format!(
            "{} (family {}, model {}){guest}",
            machine.cpu, machine.family, machine.model
        )
    }
}

/// The sample below which that part of all sorted samples lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((part * last as f64).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

impl Machine {
    fn this() -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines
                .find(|(key, _)| key.trim() == name)
                .map_or("", |(_, value)| value.trim())
        };
        let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
        Ok(Self {
            cpu: field("model name").to_owned(),
            family: field("cpu family").to_owned(),
            model: field("model").to_owned(),
            virtual_machine: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            cpus: std::thread::available_parallelism()?.get(),
            load: load
                .split(' ')
                .next()
                .unwrap_or("")
                .parse()
                .context("no load in /proc/loadavg")?,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, load {}", self.machine(), self.machine.load)?;
        writeln!(
            f,
            "{}, SHA-256: {}, {} rounds",
            self.rustc, self.sha256, self.rounds
        )?;
        writeln!(
            f,
            "{:<52}{:>12}{:>26}{:>8}{:>9}",
            "", "median", "quartiles", "GB/s", "copies"
        )?;
        for figure in &self.figures {
            let (scale, unit) = match figure.unit {
                Unit::Record => (1e-6, "ms"),
                _ => (1.0, "ns"),
            };
            let number = |time: f64| {
                let time = time * scale;
                format!("{time:.*}", if time < 100.0 { 1 } else { 0 })
            };
            let spread = format!(
                "{} .. {}",
                number(figure.lower_quartile),
                number(figure.upper_quartile)
            );
            let optional = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
            let line = format!(
                "{:<52}{:>9} {unit}{spread:>26}{:>8}{:>9}",
                figure.name,
                number(figure.median),
                optional(figure.gigabytes_per_second),
                optional(figure.copies),
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
