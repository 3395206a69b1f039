//! How the time to judge all pages of a save grows with memory: `cargo xtask bench judge`.
//!
//! VMCrypt's first prototype (Tadokoro, Uchida, Kourai and Chiba, for Xen 4.0.1) looked at each map for the page among
//! the guest's page tables and P2M frames, by a walk. There are more of both the more memory there is, so all maps of
//! a save took time with its square. VMCrypt asks a set of bits instead. The prototype's code is not here: its walk is
//! [`Tree`], which looks at what such a walk has to look at and at nothing else: locks, mappings and absent entries are
//! left out.

use std::path::Path;

use anyhow::{Result, ensure};
use vmcrypt_core::State;

use crate::{
    backend::PORTABLE,
    figure::{Figure, Report, Unit},
    fit::Fit,
    guest::{Guest, View, boot},
    machine,
    picture::{self, Curve},
    rounds::interleaved,
};

/// Entries of a page table and of a P2M frame.
const ENTRIES: u64 = 512;
/// Pages in a MiB.
const PAGES: u64 = 256;
const WALK: &str = "walk at each map";
const SET: &str = "set of bits";

/// Memory of the guests, in MiB.
pub const FULL: &[u64] = &[256, 512, 1024, 2048, 4096, 8192];
/// For trying it out.
pub const QUICK: &[u64] = &[256, 512, 1024];

/// A tree of frames that name frames: page tables, or a P2M with its lists. The lowest frames are named and not there.
struct Tree {
    /// The entries of each that name a frame, from the first frame on; the root is the last.
    frames: Vec<Vec<u64>>,
    first: u64,
    levels: u32,
}

/// Of an entry: it names a frame.
const PRESENT: u64 = 1;

impl Tree {
    /// A tree above `lowest` frames from number `start` on; its own follow these.
    fn above(start: u64, lowest: u64) -> Self {
        let first = start + lowest;
        let mut frames = Vec::new();
        let (mut named, mut levels) = (start..first, 0);
        while named.end - named.start > 1 || levels == 0 {
            let next = first + frames.len() as u64;
            let numbers: Vec<u64> = named.collect();
            let tables = numbers.chunks(ENTRIES as usize);
            frames.extend(
                tables.map(|names| names.iter().map(|name| name << 12 | PRESENT).collect::<Vec<_>>()),
            );
            named = next..first + frames.len() as u64;
            levels += 1;
        }
        Self {
            frames,
            first,
            levels,
        }
    }

    /// All frames that it has or names.
    fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    /// Whether a frame belongs to it: every entry is looked at until one names it.
    #[inline(never)]
    fn has(&self, frame: u64) -> bool {
        let root = self.end() - 1;
        frame == root || self.names(root, self.levels, frame)
    }

    fn names(&self, table: u64, level: u32, frame: u64) -> bool {
        let entries = &self.frames[(table - self.first) as usize];
        let mut present = entries.iter().filter(|entry| **entry & PRESENT != 0);
        present.any(|entry| {
            let child = entry >> 12;
            child == frame || (level > 1 && self.names(child, level - 1, frame))
        })
    }
}

/// A guest whose plain pages are both known to a set and to be found by walks.
struct Subject {
    mib: u64,
    guest: Guest,
    trees: [Tree; 2],
}

impl Subject {
    /// With page tables for all of its memory, as a PV kernel has them, and a P2M.
    fn new(mib: u64) -> Result<Self> {
        let pages = mib * PAGES;
        let lowest = pages.div_ceil(ENTRIES);
        let tables = Tree::above(0, lowest);
        let p2m = Tree::above(tables.end(), lowest);
        let guest = Guest::new(pages);
        (0..p2m.end()).for_each(|pfn| guest.gain(pfn));
        guest.enter(&[State::Sealing, State::Running, State::Suspended])?;
        Ok(Self {
            mib,
            guest,
            trees: [tables, p2m],
        })
    }

    fn plain_pages(&self) -> u64 {
        self.trees[1].end()
    }

    /// Nanoseconds for all of its pages, once each.
    fn judge(&self, how: fn(&Self, u64) -> Result<bool>) -> Result<f64> {
        let mut plain = 0;
        let time = machine::on_cpu(1, || {
            for pfn in 0..self.mib * PAGES {
                plain += u64::from(how(self, pfn)?);
            }
            Ok(())
        })?;
        ensure!(
            plain == self.plain_pages(),
            "{plain} pages were judged plain, and {} are",
            self.plain_pages()
        );
        Ok(time)
    }

    fn by_walk(&self, pfn: u64) -> Result<bool> {
        Ok(self.trees.iter().any(|tree| tree.has(pfn)))
    }

    fn by_set(&self, pfn: u64) -> Result<bool> {
        Ok(self.guest.judge(pfn)? == View::Snapshot)
    }
}

type Way = (&'static str, fn(&Subject, u64) -> Result<bool>);
const WAYS: [Way; 2] = [(WALK, Subject::by_walk), (SET, Subject::by_set)];

/// Measures both ways on guests of these sizes.
pub fn measure(sizes: &[u64], rounds: usize) -> Result<Report> {
    boot(PORTABLE)?;
    let subjects: Vec<Subject> = sizes
        .iter()
        .map(|mib| Subject::new(*mib))
        .collect::<Result<_>>()?;
    Report::measure("judge", || {
        let ways = WAYS.len();
        let samples = machine::pinned(|| {
            interleaved(subjects.len() * ways, 0, rounds, |cell| {
                Ok(subjects[cell / ways].judge(WAYS[cell % ways].1)? * 1e-9)
            })
        })?;
        let figures = samples.iter().enumerate().map(|(cell, samples)| Figure {
            mib: Some(subjects[cell / ways].mib),
            ..Figure::new(WAYS[cell % ways].0, Unit::Seconds, samples)
        });
        Ok(figures.collect())
    })
}

/// What the figures say of growth.
pub fn growth(report: &Report) -> String {
    let lines = curves(report).into_iter().map(|Curve { label, points }| {
        format!(
            "{label}: time grows with memory to the power of {:.2}; as a straight line R^2 {:.4}\n",
            Fit::power(&points).slope,
            Fit::line(&points).r_squared
        )
    });
    lines.collect()
}

/// Both curves.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let heading = format!("Judging every page of a guest once. {}", report.machine.cpu());
    picture::curves(&heading, &curves(report), path)
}

fn curves(report: &Report) -> Vec<Curve> {
    WAYS.map(|(name, _)| Curve {
        label: name.to_owned(),
        points: report.over_memory(|figure| figure.name == name),
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::MACHINE;

    #[test]
    fn a_tree_has_its_own_frames_and_those_it_names() {
        // 1,025 lowest frames under 3 and 1.
        let tree = Tree::above(10, 1025);
        assert_eq!((tree.levels, tree.frames.len(), tree.end()), (2, 4, 10 + 1029));
        assert!((10..tree.end()).all(|frame| tree.has(frame)));
        assert!(!tree.has(9) && !tree.has(tree.end()));
        assert_eq!(Tree::above(0, 1).end(), 2);
    }

    #[test]
    fn both_ways_judge_alike_and_are_reported() {
        let _alone = MACHINE.lock();
        let report = measure(&[1, 2, 4], 1).unwrap();
        assert_eq!(report.figures.len(), 6);
        assert!(growth(&report).contains(WALK) && growth(&report).contains(SET));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("judge.svg");
        draw(&report, &path).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().contains(WALK));
    }

    #[test]
    fn a_page_judged_wrongly_is_noticed() {
        let _alone = MACHINE.lock();
        let mut subject = Subject::new(1).unwrap();
        subject.judge(Subject::by_walk).unwrap();
        subject.judge(Subject::by_set).unwrap();
        subject.guest.gain(200);
        subject.judge(Subject::by_set).unwrap_err();
        subject.trees[0].frames[0][0] = 201 << 12 | PRESENT;
        subject.trees[1].frames[0][0] = 202 << 12;
        subject.judge(Subject::by_walk).unwrap_err();
    }
}
