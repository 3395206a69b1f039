//! What VMCrypt costs, measured natively: `docs/PERFORMANCE.md`.
//!
//! Each verb measures one thing, prints a table and writes a result file; `compare` holds two of those against each other.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::figure::Report;

mod backend;
mod compare;
mod figure;
mod fit;
mod guest;
mod judge;
mod machine;
mod model;
mod page;
mod picture;
mod rounds;
mod save;
mod scaling;
mod stages;

/// MiB that a modelled disk takes at once: a small part of what a system keeps for its disks.
const DISK_CACHE: u64 = 16;

/// Measure what VMCrypt costs on this CPU.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// How fast a page is encrypted on one CPU, beside what others offer
    Page(Common),
    /// What a page costs on its way to dom0 and back, stage by stage
    Stages(Common),
    /// How the time to judge all pages of a save grows with memory: by a walk at each map, and with a set of bits
    Judge(Common),
    /// What a whole save takes, beside what users do today to have it encrypted
    Save(Save),
    /// Pages a second with more than one CPU at work
    Scaling(Common),
    /// Draw the figures of a result file
    Draw {
        /// Result file of any verb
        file: PathBuf,

        /// Where to draw them
        svg: PathBuf,
    },
    /// What changed between two result files of the same verb
    ///
    /// Exit code 0: nothing beyond noise; 1: something did; 2: the files cannot be compared.
    Compare(compare::Args),
}

/// Options of all that measures.
#[derive(clap::Args)]
struct Common {
    /// Write the figures here, as an array of objects
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw them here
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// A short run: for trying it out, not for quoting
    #[arg(long)]
    quick: bool,
}

#[derive(clap::Args)]
struct Save {
    #[command(flatten)]
    common: Common,

    /// Memory of the guests in MiB; by default 256 to 8,192 as far as there is room
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    sizes: Option<Vec<u64>>,

    /// Where files are written, and deleted at once
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// MB/s of the modelled disk
    #[arg(long, value_name = "MB/S", default_value_t = 200)]
    disk: u64,

    /// Largest guest in MiB that is saved to the modelled disk
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    disk_up_to: u64,
}

impl Common {
    fn publish(&self, report: &Report) -> Result<()> {
        // First: a path that cannot be written must not cost the run.
        print!("{report}");
        if let Some(path) = &self.json {
            report.save(path)?;
        }
        if let Some(path) = &self.svg {
            draw(report, path)?;
        }
        Ok(())
    }
}

/// By the verb that measured them.
fn draw(report: &Report, svg: &Path) -> Result<()> {
    match report.verb.as_str() {
        "page" => page::draw(report, svg),
        "stages" => stages::draw(report, svg),
        "judge" => judge::draw(report, svg),
        "save" => save::draw(report, svg),
        "scaling" => scaling::draw(report, svg),
        other => bail!("there is no picture of \"{other}\""),
    }
}

fn main() -> ExitCode {
    run(&Cli::parse().verb).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Page(common) => {
            let size = if common.quick {
                page::Size::QUICK
            } else {
                page::Size::FULL
            };
            common.publish(&page::measure(size)?)?;
        }
        Verb::Stages(common) => {
            let rounds = if common.quick { 5 } else { 150 };
            common.publish(&stages::measure(stages::Size::FULL, rounds)?)?;
        }
        Verb::Judge(common) => {
            let (sizes, rounds) = if common.quick {
                (judge::QUICK, 1)
            } else {
                (judge::FULL, 3)
            };
            let report = judge::measure(sizes, rounds)?;
            common.publish(&report)?;
            print!("\n{}", judge::growth(&report));
        }
        Verb::Save(args) => {
            let (sizes, rounds): (&[u64], _) = if args.common.quick {
                (&[64, 128, 256], 1)
            } else {
                (&[256, 512, 1024, 2048, 4096, 8192], 3)
            };
            let mut plan = save::Plan {
                sizes: args.sizes.clone().unwrap_or_else(|| sizes.to_vec()),
                disk_up_to: args.disk_up_to,
                disk: save::Disk::new(args.disk, DISK_CACHE),
                backends: backend::fast(),
                dir: args.dir.clone(),
                rounds,
            };
            plan.fit()?;
            let report = save::measure(&plan)?;
            args.common.publish(&report)?;
            print!("\n{}", save::growth(&report));
        }
        Verb::Scaling(common) => {
            let size = if common.quick {
                scaling::Size::QUICK
            } else {
                scaling::Size::FULL
            };
            let report = scaling::measure(size)?;
            common.publish(&report)?;
            print!("\n{}", scaling::gain(&report));
        }
        Verb::Draw { file, svg } => draw(&Report::load(file)?, svg)?,
        Verb::Compare(args) => return compare::run(args),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Figure, Place, Unit};

    #[test]
    fn a_file_is_drawn_by_the_verb_that_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, svg) = (dir.path().join("file"), dir.path().join("svg"));
        let figures = || {
            let figure = Figure::new("some cipher", Unit::Nanoseconds, &[1.0]).of_pages(Place::Cached);
            Ok(vec![Figure {
                backend: Some("a backend".to_owned()),
                ..figure
            }])
        };
        Report::measure("page", figures).unwrap().save(&file).unwrap();
        run(&Verb::Draw {
            file,
            svg: svg.clone(),
        })
        .unwrap();
        assert!(
            std::fs::read_to_string(&svg)
                .unwrap()
                .contains("some cipher, a backend")
        );
        draw(&Report::measure("nothing", figures).unwrap(), &svg).unwrap_err();
    }
}
