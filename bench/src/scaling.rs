//! Pages a second with more than one CPU at work: `cargo xtask bench scaling`.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{Barrier, Mutex},
    thread,
};

use anyhow::{Context, Result, anyhow};
use vmcrypt_core::State;

use crate::{
    backend::{self, Kind},
    figure::{Figure, Report, Unit},
    guest::{Cpu, Guest, PRIVATE, boot},
    machine,
    model::{Frame, Mapped, resident},
    picture::{self, Bars, Row},
    rounds::interleaved,
};

/// How much there is to work on.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Pages of each thread; as far as figures go, more than its share of the last cache level.
    pub pages: usize,
    /// Samples of each.
    pub rounds: usize,
}

impl Size {
    /// 32 MiB for each thread.
    pub const FULL: Self = Self {
        pages: 8 << 10,
        rounds: 100,
    };
    /// For trying it out.
    pub const QUICK: Self = Self {
        rounds: 5,
        ..Self::FULL
    };
}

const WORKS: [Work; 2] = [
    Work {
        name: "begin, encrypt and end",
        page: |worker, pfn, frame| {
            let mut ticket = worker.guest.begin(pfn)?;
            worker.guest.encrypt(&mut ticket, PRIVATE, frame);
            worker.guest.end(&mut ticket);
            Ok(())
        },
    },
    Work {
        name: "map and unmap a private page",
        page: |worker, pfn, frame| {
            let replica = worker.guest.map(&mut worker.cpu, pfn, frame)?;
            worker.guest.unmap(&mut worker.cpu, replica).map(drop)
        },
    },
];

struct Work {
    name: &'static str,
    page: fn(&mut Worker<'_>, u64, &mut Frame) -> Result<()>,
}

/// What a CPU works with.
struct Worker<'a> {
    guest: &'a Guest,
    cpu: Cpu,
}

/// Measures one to as many threads as there are CPUs, all at the pages of one guest under its one lock. The time of a
/// page is what it took its thread on its CPU, waiting for the lock and for memory included, shared among the
/// threads.
/// They begin together and overlap as far as other programs let them.
pub fn measure(size: Size) -> Result<Report> {
    let cpus = machine::cpus()?;
    let backends = backend::available();
    let guest = Guest::new((size.pages * cpus.len()) as u64);
    guest.enter(&[State::Sealing, State::Running, State::Suspended])?;
    let memory: Vec<Mutex<Vec<Frame>>> = cpus
        .iter()
        .map(|_| Mutex::new(resident(size.pages, Frame([0x5a; 4096]), Mapped::Large)))
        .collect();
    let cells: Vec<(&Work, Kind, usize)> = WORKS
        .iter()
        .flat_map(|work| backends.iter().map(move |kind| (work, *kind)))
        .flat_map(|(work, kind)| (1..=cpus.len()).map(move |threads| (work, kind, threads)))
        .collect();
    Report::measure("scaling", || {
        let samples = interleaved(cells.len(), 1, size.rounds, |cell| {
            let (work, kind, threads) = cells[cell];
            boot(kind)?;
            // The portable backend is slow.
            let pages = size.pages / if kind == backend::PORTABLE { 16 } else { 1 };
            sample(work, &guest, &cpus[..threads], &memory, pages)
        })?;
        let figures = samples
            .iter()
            .zip(&cells)
            .map(|(samples, (work, kind, threads))| {
                let figure = Figure {
                    backend: Some(kind.name.to_owned()),
                    threads: Some(*threads),
                    ..Figure::new(work.name, Unit::Nanoseconds, samples)
                };
                Figure {
                    gbps: Some(4096.0 / figure.median),
                    ns_per_page: Some(figure.median),
                    ..figure
                }
            });
        Ok(figures.collect())
    })
}

/// Nanoseconds for a page.
fn sample(
    work: &Work,
    guest: &Guest,
    cpus: &[usize],
    memory: &[Mutex<Vec<Frame>>],
    pages: usize,
) -> Result<f64> {
    let barrier = Barrier::new(cpus.len());
    let times: Vec<f64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..)
            .zip(cpus.iter().zip(memory))
            .map(|(number, (cpu, frames))| {
                let barrier = &barrier;
                scope.spawn(move || -> Result<_> {
                    // Every thread comes to the barrier, whatever happens before.
                    let ready = machine::pin(*cpu);
                    let mut worker = Worker {
                        guest,
                        cpu: Cpu::new(1),
                    };
                    let frames = frames.lock();
                    barrier.wait();
                    ready?;
                    let mut frames = frames.map_err(|_| anyhow!("another thread failed"))?;
                    machine::on_cpu(pages, || {
                        for (i, frame) in (0..).zip(frames.iter_mut().take(pages)) {
                            (work.page)(&mut worker, number * pages as u64 + i, frame)?;
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        let joined = workers.into_iter().map(|worker| {
            let result = worker.join().map_err(|_| anyhow!("a thread panicked"))?;
            result.context(work.name)
        });
        joined.collect::<Result<_>>()
    })?;
    let a_second: f64 = times.iter().map(|time| 1.0 / time).sum();
    Ok(1.0 / a_second)
}

/// Bars of gigabytes a second, of all threads together.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let panel = |work: &Work| {
        let figures = report.figures.iter().filter(|figure| figure.name == work.name);
        let of = |time: f64| 4096.0 / time;
        let rows = figures.map(|figure| Row {
            label: figure.label(),
            middle: of(figure.median),
            spread: [of(figure.upper_quartile), of(figure.lower_quartile)],
            ours: figure.threads == Some(1),
        });
        Bars {
            title: format!("{}: GB/s", work.name),
            rows: rows.collect(),
        }
    };
    picture::bars(&report.machine.cpu(), &WORKS.each_ref().map(panel), path)
}

/// How many times as many pages a second there are as with one thread.
pub fn gain(report: &Report) -> String {
    let mut text = String::new();
    for figure in report.figures.iter().filter(|figure| figure.threads > Some(1)) {
        let alone = |other: &&Figure| {
            (&other.name, &other.backend, other.threads) == (&figure.name, &figure.backend, Some(1))
        };
        if let Some(one) = report.figures.iter().find(alone) {
            let _ = writeln!(
                text,
                "{}: {:.0} pages/s, {:.2} times one thread's {:.0}",
                figure.label(),
                1e9 / figure.median,
                one.median / figure.median,
                1e9 / one.median
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::MACHINE;

    #[test]
    fn every_number_of_threads_is_reported() {
        let _alone = MACHINE.lock();
        let report = measure(Size { pages: 32, rounds: 2 }).unwrap();
        let cpus = machine::cpus().unwrap().len();
        assert_eq!(
            report.figures.len(),
            WORKS.len() * backend::available().len() * cpus
        );
        assert!(report.figures.iter().all(|figure| figure.median > 0.0));
        let dir = tempfile::tempdir().unwrap();
        draw(&report, &dir.path().join("scaling.svg")).unwrap();
        assert_eq!(
            gain(&report).lines().count(),
            report.figures.len() / cpus * (cpus - 1)
        );
    }

    #[test]
    fn a_thread_that_fails_fails_the_sample() {
        let _alone = MACHINE.lock();
        boot(backend::PORTABLE).unwrap();
        let guest = Guest::new(8);
        let memory = [Mutex::new(vec![Frame([0; 4096])])];
        // The guest was not started: nothing of it can be exported.
        sample(&WORKS[1], &guest, &[0], &memory, 1).unwrap_err();
    }
}
