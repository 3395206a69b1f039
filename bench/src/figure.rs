//! Figures and their spread: rows of a result file, and of the table that is printed.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use statrs::statistics::{Data, OrderStatistics};

use crate::machine::Machine;

/// Nanoseconds for a page of 4,096 bytes are gigabytes (10^9) a second.
const PAGE: f64 = 4096.0;

/// One thing that was measured. Less is always better.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Which page cipher, or whose code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Where pages are when they are worked on.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Where the bytes go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// Memory of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mib: Option<u64>,
    /// Threads at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// What the following numbers count.
    pub unit: Unit,
    /// A quarter of the samples was less than this.
    pub lower_quartile: f64,
    /// Half of the samples were less.
    pub median: f64,
    /// A quarter was more than this.
    pub upper_quartile: f64,
    /// How many samples there were.
    pub rounds: usize,
    /// Where a page's bytes are worked on: the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_per_page: Option<f64>,
    /// The same as 10^9 bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gbps: Option<f64>,
    /// Median of the ratios, round by round, to the first figure of the same kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// Where pages are when they are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The same eight again and again: in the first or second level cache.
    Cached,
    /// In address order through more memory than the caches hold.
    Sequential,
    /// The same memory in random order.
    Random,
}

impl Place {
    /// Its name in result files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Sequential => "sequential",
            Self::Random => "random",
        }
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Nanoseconds for one.
    #[default]
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Seconds for all.
    #[serde(rename = "s")]
    Seconds,
}

impl Figure {
    /// Sums up samples.
    pub fn new(name: impl Into<String>, unit: Unit, samples: &[f64]) -> Self {
        let mut data = Data::new(samples.to_vec());
        Self {
            name: name.into(),
            unit,
            lower_quartile: data.lower_quartile(),
            median: data.median(),
            upper_quartile: data.upper_quartile(),
            rounds: samples.len(),
            ..Self::default()
        }
    }

    /// Of nanoseconds for a page.
    pub fn of_pages(self, place: Place) -> Self {
        Self {
            place: Some(place),
            ns_per_page: Some(self.median),
            gbps: Some(PAGE / self.median),
            ..self
        }
    }

    /// Notes how many times as long it took as a baseline, whose samples were taken in the same rounds.
    pub fn against(self, samples: &[f64], baseline: &[f64]) -> Self {
        let ratios: Vec<f64> = samples.iter().zip(baseline).map(|(a, b)| a / b).collect();
        Self {
            ratio: Some(Data::new(ratios).median()),
            ..self
        }
    }

    /// What tells it from the other figures of its file.
    pub fn label(&self) -> String {
        let parts = [
            Some(self.name.clone()),
            self.backend.clone(),
            self.place.map(|place| place.name().to_owned()),
            self.sink.clone(),
            self.mib.map(|mib| format!("{mib} MiB")),
            self.threads
                .map(|threads| format!("{threads} thread{}", if threads == 1 { "" } else { "s" })),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// A number of its unit, for a reader.
    pub fn show(&self, number: f64) -> String {
        let (number, unit) = match self.unit {
            Unit::Nanoseconds if number.abs() >= 1e6 => (number / 1e6, "ms"),
            Unit::Nanoseconds if number.abs() >= 1e4 => (number / 1e3, "us"),
            Unit::Nanoseconds => (number, "ns"),
            Unit::Seconds if number.abs() < 1.0 => (number * 1e3, "ms"),
            Unit::Seconds => (number, "s"),
        };
        let digits = match number.abs() {
            0.0..10.0 => 2,
            10.0..100.0 => 1,
            _ => 0,
        };
        format!("{number:.digits$} {unit}")
    }
}

/// All figures of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which verb measured them.
    pub verb: String,
    /// Where.
    pub machine: Machine,
    /// In the order of the table.
    pub figures: Vec<Figure>,
}

/// A row of a result file stands for itself.
#[derive(Serialize, Deserialize)]
struct Row {
    verb: String,
    #[serde(flatten)]
    figure: Figure,
    machine: Machine,
}

impl Report {
    /// Labels of its figures, of which no two may be the same.
    #[cfg(test)]
    pub fn labels(&self) -> std::collections::BTreeSet<String> {
        let labels: std::collections::BTreeSet<String> = self.figures.iter().map(Figure::label).collect();
        assert_eq!(labels.len(), self.figures.len(), "two figures have the same name");
        labels
    }

    /// Measures, and notes how busy the machine was before and after it.
    pub fn measure(verb: &str, work: impl FnOnce() -> Result<Vec<Figure>>) -> Result<Self> {
        let mut machine = Machine::this()?;
        let figures = work()?;
        machine.finish()?;
        Ok(Self {
            verb: verb.to_owned(),
            machine,
            figures,
        })
    }

    /// Memory in MiB and the median, of figures for several sizes of memory.
    pub fn over_memory(&self, wanted: impl Fn(&Figure) -> bool) -> Vec<(f64, f64)> {
        let wanted = self.figures.iter().filter(|figure| wanted(figure));
        wanted
            .filter_map(|figure| Some((figure.mib? as f64, figure.median)))
            .collect()
    }

    /// Writes an array of objects, one for each figure.
    pub fn save(&self, path: &Path) -> Result<()> {
        let rows: Vec<Row> = self
            .figures
            .iter()
            .map(|figure| Row {
                verb: self.verb.clone(),
                figure: figure.clone(),
                machine: self.machine.clone(),
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what [`Report::save`] wrote.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let rows: Vec<Row> =
            serde_json::from_str(&text).with_context(|| format!("{shown} is no result file"))?;
        let first = rows
            .first()
            .with_context(|| format!("{shown} has no figures in it"))?;
        let (verb, machine) = (first.verb.clone(), first.machine.clone());
        ensure!(
            rows.iter().all(|row| row.verb == verb && row.machine == machine),
            "{shown} holds figures of several runs"
        );
        Ok(Self {
            verb,
            machine,
            figures: rows.into_iter().map(|row| row.figure).collect(),
        })
    }
}

/// The machine and a table in Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        let labels: Vec<String> = self.figures.iter().map(Figure::label).collect();
        let width = labels.iter().map(String::len).max().unwrap_or(0);
        let mut row = |cells: [&str; 5]| {
            let [label, median, spread, rate, ratio] = cells;
            writeln!(
                f,
                "| {label:<width$} | {median:>9} | {spread:>22} | {rate:>6} | {ratio:>7} |"
            )
        };
        row(["", "median", "quartiles", "GB/s", "ratio"])?;
        row(["---", "---:", "---:", "---:", "---:"])?;
        for (label, figure) in labels.iter().zip(&self.figures) {
            let spread = [figure.lower_quartile, figure.upper_quartile].map(|time| figure.show(time));
            let number = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
            row([
                label,
                &figure.show(figure.median),
                &spread.join(" .. "),
                &number(figure.gbps),
                &number(figure.ratio),
            ])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_an_array_of_objects_and_comes_back() {
        let samples = [3.0, 1.0, 2.0];
        let figure = Figure::new("a", Unit::Nanoseconds, &samples).of_pages(Place::Random);
        let report =
            Report::measure("page", || Ok(vec![figure.against(&samples, &[1.0, 1.0, 1.0])])).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        report.save(file.path()).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(file.path()).unwrap()).unwrap();
        let row = &json.as_array().unwrap()[0];
        assert_eq!(
            (row["name"].as_str(), row["where"].as_str()),
            (Some("a"), Some("random"))
        );
        assert_eq!(
            (row["ns_per_page"].as_f64(), row["gbps"].as_f64()),
            (Some(2.0), Some(2048.0))
        );
        assert!(row["machine"]["cpu"].as_str().is_some_and(|cpu| !cpu.is_empty()));
        assert_eq!(row["ratio"].as_f64(), Some(2.0));
        let read = Report::load(file.path()).unwrap();
        assert_eq!(read.figures[0].label(), "a, random");
        assert_eq!(read.machine, report.machine);
        assert!(read.to_string().contains("2.00 ns"));
    }

    #[test]
    fn another_file_is_no_result() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["{}", "[]", "[{\"name\": \"a\"}]"] {
            fs::write(file.path(), text).unwrap();
            Report::load(file.path()).unwrap_err();
        }
    }
}
