//! What a whole save takes, and what users do today to have it encrypted: `cargo xtask bench save`.
//!
//! Memory goes to a sink in batches of 1,024 pages, as libxc writes it. It is as it is in memory (*plain*), or what dom0
//! sees of it under VMCrypt (each page mapped through the model, then unmapped), or goes on through a program or a
//! connection that encrypts. Those run beside the writer, on a CPU of their own if there is one; VMCrypt's work is the
//! writer's. Time on a CPU is that of all who take part; time on the wall has other programs' work in it too.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    backend::{Kind, PORTABLE},
    figure::{Figure, Report, Unit},
    fit::Fit,
    guest::boot,
    machine,
    model::{Frame, Mapped, resident},
    picture::{self, Curve},
    rounds::interleaved,
};
pub use sink::Disk;
use sink::Sink;
use way::Way;

mod sink;
#[cfg(feature = "peers")]
mod tls;
mod way;

/// Frames in a MiB.
const FRAMES: u64 = 256;
/// Memory that others may want while the largest save is measured.
const SPARE: u64 = 4096;

/// Sink of the figures of time on a CPU.
const ON_CPU: &str = "file, on a CPU";

/// What to save, and whereto.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Memory of the guests, in MiB, ascending.
    pub sizes: Vec<u64>,
    /// The largest that a modelled disk gets: it takes its time.
    pub disk_up_to: u64,
    /// The modelled disk.
    pub disk: Disk,
    /// Page ciphers to do it with.
    pub backends: Vec<Kind>,
    /// Where files are written, and deleted at once.
    pub dir: PathBuf,
    /// Samples of each.
    pub rounds: usize,
}

impl Plan {
    /// Leaves out what this machine has no room for, and says so.
    pub fn fit(&mut self) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.dir)
            .with_context(|| format!("cannot ask for free space at {}", self.dir.display()))?;
        let disk = (stat.f_bavail * stat.f_frsize) >> 20;
        let memory = available()?;
        // What is written stays in memory for a while, whatever it is written to.
        let fits = |mib: &u64| 2 * mib + SPARE <= memory && mib + SPARE <= disk;
        for mib in self.sizes.iter().filter(|mib| !fits(mib)) {
            println!(
                "no {mib} MiB: {memory} MiB of memory are available, {disk} MiB are free at {}",
                self.dir.display()
            );
        }
        self.sizes.retain(fits);
        if self.sizes.is_empty() {
            bail!("no size fits into this machine");
        }
        Ok(())
    }
}

/// MiB that programs can have now.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("no MemAvailable in /proc/meminfo")? >> 10)
}

/// Measures every way to every sink. Before that, each way is seen to bring memory back.
pub fn measure(plan: &Plan) -> Result<Report> {
    boot(PORTABLE)?;
    let dir =
        tempfile::tempdir_in(&plan.dir).with_context(|| format!("cannot write to {}", plan.dir.display()))?;
    let dir = dir.path();
    let ways = Way::all(&plan.backends, dir)?;
    for way in &ways {
        way.check(dir).with_context(|| way.label())?;
    }
    let largest = plan.sizes.iter().max().context("no size")?;
    let mut memory = resident((largest * FRAMES) as usize, Frame([0; 4096]), Mapped::Large);
    memory.iter_mut().for_each(|frame| fastrand::fill(&mut frame.0));
    let cells: Vec<(&Way, bool, u64)> = ways
        .iter()
        .flat_map(|way| plan.sizes.iter().map(move |mib| (way, *mib)))
        .flat_map(|(way, mib)| [(way, false, mib), (way, true, mib)])
        .filter(|(_, disk, mib)| !disk || *mib <= plan.disk_up_to)
        .collect();
    // One file is written over again and again: to find room for a new one takes the system as long as the save, and longer
    // the less room is left, whoever writes.
    let file = tempfile::NamedTempFile::new_in(dir)?;
    io::copy(&mut io::repeat(0).take((largest + 16) << 20), &mut file.as_file())?;
    Report::measure("save", || {
        let mut cpu = vec![Vec::with_capacity(plan.rounds); cells.len()];
        let wall = interleaved(cells.len(), 0, plan.rounds, |cell| {
            let (way, disk, mib) = cells[cell];
            let sink = if disk {
                Sink::Disk(plan.disk.start())
            } else {
                Sink::File(file.reopen()?)
            };
            let saver = way.prepare(mib * FRAMES)?;
            let pages = &memory[..(mib * FRAMES) as usize];
            let cost = machine::cost(|| saver.save(pages, sink).map(drop)).with_context(|| way.label())?;
            cpu[cell].push(cost.cpu);
            Ok(cost.wall)
        })?;
        let figures = |samples: &[Vec<f64>], sink: &dyn Fn(bool) -> Option<String>| -> Vec<Figure> {
            let figure = |(cell, of): (&Vec<f64>, &(&Way, bool, u64))| {
                let (way, disk, mib) = *of;
                let figure = Figure {
                    backend: way.backend(),
                    sink: Some(sink(disk)?),
                    mib: Some(mib),
                    ..Figure::new(way.name(), Unit::Seconds, cell)
                };
                let plain = cells.iter().position(|cell| *cell == (&Way::Plain, disk, mib));
                Some(match plain.and_then(|at| samples.get(at)) {
                    Some(plain) => figure.against(cell, plain),
                    None => figure,
                })
            };
            samples.iter().zip(&cells).filter_map(figure).collect()
        };
        let on_wall = figures(&wall, &|disk| {
            Some(if disk {
                plan.disk.to_string()
            } else {
                "file".to_owned()
            })
        });
        // A slow disk takes no CPU's time: that is the same as of a file.
        let on_cpu = figures(&cpu, &|disk| (!disk).then(|| ON_CPU.to_owned()));
        Ok([on_cpu, on_wall].concat())
    })
}

/// What the figures say of growth: a straight line, and the power of memory with which time grows.
pub fn growth(report: &Report) -> String {
    let mut text = String::new();
    for Curve { label, points } in curves(report) {
        let fit = Fit::line(&points);
        let _ = writeln!(
            text,
            "{label}: {:.1} ms and {:.3} s for each GiB, R^2 {:.4}; as memory to the power {:.2}",
            fit.start * 1e3,
            fit.slope * 1024.0,
            fit.r_squared,
            Fit::power(&points).slope
        );
    }
    text
}

/// Curves of time on a CPU: the others are nearly one on a slow disk, and other programs' on the wall.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let heading = format!("Saving a guest: seconds on a CPU. {}", report.machine.cpu());
    let mut curves = curves(report);
    curves.retain_mut(|curve| match curve.label.strip_suffix(&format!(", {ON_CPU}")) {
        Some(way) => {
            curve.label = way.to_owned();
            true
        }
        None => false,
    });
    picture::curves(&heading, &curves, path)
}

fn curves(report: &Report) -> Vec<Curve> {
    let label = |figure: &Figure| {
        let without = Figure {
            mib: None,
            ..figure.clone()
        };
        without.label()
    };
    let mut labels: Vec<String> = report.figures.iter().map(label).collect();
    labels.sort();
    labels.dedup();
    let curve = |name: String| Curve {
        points: report.over_memory(|figure| label(figure) == name),
        label: name,
    };
    labels.into_iter().map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::MACHINE;

    #[test]
    fn every_way_to_every_sink_is_reported() {
        let _alone = MACHINE.lock();
        let dir = tempfile::tempdir().unwrap();
        let mut plan = Plan {
            sizes: vec![1, 2],
            disk_up_to: 1,
            disk: Disk::new(4000, 1),
            backends: vec![PORTABLE],
            dir: dir.path().to_owned(),
            rounds: 1,
        };
        plan.fit().unwrap();
        let report = measure(&plan).unwrap();
        let ways = Way::all(&plan.backends, dir.path()).unwrap();
        assert_eq!(report.figures.len(), (2 + 3) * ways.len());
        let plain = |figure: &&Figure| figure.name == Way::Plain.name();
        assert!(
            report
                .figures
                .iter()
                .filter(plain)
                .all(|figure| figure.ratio == Some(1.0))
        );
        assert_eq!(growth(&report).lines().count(), 3 * ways.len());
        draw(&report, &dir.path().join("save.svg")).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut plan = Plan {
            sizes: vec![1, 1 << 40],
            disk_up_to: 0,
            disk: Disk::new(1, 1),
            backends: vec![PORTABLE],
            dir: std::env::temp_dir(),
            rounds: 1,
        };
        plan.fit().unwrap();
        assert_eq!(plan.sizes, [1]);
        plan.sizes = vec![1 << 40];
        plan.fit().unwrap_err();
    }
}
