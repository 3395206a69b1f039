//! `cargo xtask test`.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;
use vmcrypt_e2e::{Options, Outcome};
use vmcrypt_host::{
    Tally, cmd, hostpkg, paths,
    progress::{Step, seconds},
};
use vmcrypt_testbed::Image;

use crate::{
    bench, header, instructions, link_gate, lint,
    xen::{self, Flavour},
};

mod bochs;
mod constant_time;
mod fuzz;
mod harness;
mod miri;
mod proof;
mod stack;

/// Run everything that CI runs
///
/// A section that fails does not stop those that do not need it. The last line counts the checks of all sections.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Leave out what boots Xen, and fuzz for a moment only
    #[arg(long)]
    quick: bool,

    /// Begin no end-to-end case after this many minutes of them; those left count as skipped
    #[arg(long, value_name = "MINUTES", default_value_t = 25)]
    minutes: u64,
    /// Sections to run, all if none is named
    #[arg(value_name = "SECTION", value_parser = PossibleValuesParser::new(SECTIONS.iter().map(|section| section.name)))]
    only: Vec<String>,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    let wanted =
        |section: &&Section| args.only.is_empty() || args.only.iter().any(|name| name == section.name);
    for section in SECTIONS.iter().filter(wanted) {
        report.run(section, args);
    }
    let total = report.print();
    if total.failed > 0 {
        // The count is the last line; an error message would follow it.
        std::process::exit(1);
    }
    Ok(())
}

/// A part of CI.
struct Section {
    name: &'static str,
    /// Sections that must have passed for this one to make sense.
    needs: &'static [&'static str],
    /// Whether it boots virtual machines.
    slow: bool,
    run: fn(&Args) -> Result<Outcome>,
}

const SECTIONS: &[Section] = &[
    Section {
        name: "lint",
        needs: &[],
        slow: false,
        run: |_| counted(lint::all()),
    },
    Section {
        name: "header",
        needs: &[],
        slow: false,
        run: |_| passed(header::run(&header::Args::default())),
    },
    Section {
        name: "native",
        needs: &[],
        slow: false,
        run: |_| {
            hostpkg::ensure(bench::PACKAGES)?;
            counted(cargo_test(
                "native",
                &["--workspace", "--no-fail-fast", "--features", bench::FEATURE],
            ))
        },
    },
    Section {
        name: "c-harness",
        needs: &[],
        slow: false,
        run: |_| counted(harness::run()),
    },
    Section {
        name: "miri",
        needs: &[],
        slow: false,
        run: |_| counted(miri::run()),
    },
    Section {
        name: "proof",
        needs: &[],
        slow: false,
        run: |_| counted(proof::run()),
    },
    Section {
        name: "fuzzing",
        needs: &[],
        slow: false,
        run: |args| counted(fuzz::run(args)),
    },
    Section {
        name: "gate-canaries",
        needs: &[],
        slow: false,
        run: |_| counted(link_gate::self_test()),
    },
    Section {
        name: "xen-stock",
        needs: &[],
        slow: false,
        run: |_| built(Flavour::Stock),
    },
    Section {
        name: "xen",
        needs: &[],
        slow: false,
        run: |_| built(Flavour::Product),
    },
    Section {
        name: "xen-debug",
        needs: &["xen"],
        slow: false,
        run: |_| built(Flavour::Debug),
    },
    Section {
        name: "link-gate",
        needs: &["xen"],
        slow: false,
        run: |_| counted(link_gate::gate()),
    },
    Section {
        name: "constant-time",
        needs: &["xen"],
        slow: false,
        run: |_| counted(constant_time::run()),
    },
    Section {
        name: "stack",
        needs: &["xen"],
        slow: false,
        run: |_| counted(stack::run()),
    },
    Section {
        name: "instructions",
        needs: &["xen"],
        slow: false,
        run: |_| counted(instructions::gate()),
    },
    Section {
        name: "xen-off",
        needs: &["xen-stock"],
        slow: false,
        run: |_| counted(xen::off::run()),
    },
    Section {
        name: "bochs",
        needs: &["xen"],
        slow: true,
        run: |_| counted(bochs::run()),
    },
    Section {
        name: "image",
        needs: &[],
        slow: true,
        run: |_| passed(Image::ensure().map(drop)),
    },
    Section {
        name: "e2e",
        needs: &["xen-stock", "xen", "xen-debug", "image"],
        slow: true,
        run: e2e,
    },
];

/// What came out of the sections so far.
#[derive(Default)]
struct Report {
    lines: Vec<(&'static str, Tally, Duration)>,
    failed: BTreeSet<&'static str>,
    /// End-to-end cases for which there was no time left.
    late: Vec<&'static str>,
}

impl Report {
    fn run(&mut self, section: &Section, args: &Args) {
        let start = Instant::now();
        println!("\n== {}", section.name);
        let broken = section.needs.iter().find(|name| self.failed.contains(**name));
        let Outcome { tally, late } = match broken {
            Some(name) => {
                println!("SKIP  it needs the section \"{name}\", which failed");
                self.failed.insert(section.name);
                Tally::SKIP.into()
            }
            None if section.slow && args.quick => {
                println!("SKIP  --quick");
                Tally::SKIP.into()
            }
            None => (section.run)(args).unwrap_or_else(|error| {
                println!("FAIL  {error:#}");
                Tally::FAIL.into()
            }),
        };
        self.late.extend(late);
        if tally.failed > 0 {
            self.failed.insert(section.name);
        }
        self.lines.push((section.name, tally, start.elapsed()));
    }

    /// The table of sections and what there was no time for; its last line is the total.
    fn print(&self) -> Tally {
        println!();
        for (name, tally, time) in &self.lines {
            println!("{name:<24}{:>14}   {tally}", seconds(*time));
        }
        if !self.late.is_empty() {
            println!(
                "{} end-to-end cases skipped, there was no time left: {}",
                self.late.len(),
                self.late.join(", ")
            );
        }
        let total = self.lines.iter().map(|(_, tally, _)| *tally).sum();
        println!("{total}");
        total
    }
}

fn counted(result: Result<Tally>) -> Result<Outcome> {
    result.map(Outcome::from)
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Tally::PASS.into())
}

fn built(flavour: Flavour) -> Result<Outcome> {
    passed(xen::build(flavour).map(drop))
}

/// Run tests of this workspace and count their verdicts; the log is called `name`.
fn cargo_test(name: &str, arguments: &[&str]) -> Result<Tally> {
    let step = Step::new(format!("cargo test: {name}"));
    let log = paths::target_subdir("test")?.join(format!("{name}.log"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["test", "--locked"])
        .args(arguments)
        .current_dir(paths::workspace_root());
    let verdict = cmd::logged(&mut cargo, &log, &step);
    let tally = count(&log)?;
    match verdict {
        Ok(()) => step.done(tally.to_string()),
        Err(error) => {
            let text = fs::read_to_string(&log)?;
            text.lines()
                .filter(|line| line.ends_with("... FAILED"))
                .for_each(|line| println!("FAIL  {line}"));
            // When nothing ran, or everything that ran passed, it is the build that failed.
            ensure!(tally.failed > 0, error);
        }
    }
    Ok(tally)
}

/// Count the verdicts that cargo's test programs wrote.
fn count(log: &Path) -> Result<Tally> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", paths::short(log)))?;
    let number = |line: &str, what: &str| -> usize {
        let part = line.split([';', '.']).find(|part| part.trim().ends_with(what));
        part.and_then(|part| part.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    let results = text.lines().filter(|line| line.starts_with("test result:"));
    Ok(results
        .map(|line| Tally {
            passed: number(line, " passed"),
            failed: number(line, " failed"),
            skipped: number(line, " ignored"),
        })
        .sum())
}

fn e2e(args: &Args) -> Result<Outcome> {
    let options = Options {
        stock: Flavour::Stock.dir().join("xen"),
        vmcrypt: Flavour::Product.dir().join("xen"),
        debug: Flavour::Debug.dir().join("xen"),
        echo: false,
        until: Some(Instant::now() + Duration::from_secs(60 * args.minutes)),
        skip_on_demand: true,
    };
    vmcrypt_e2e::run(&vmcrypt_e2e::select(&[])?, &options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_counted() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.02s\n\
                    test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n";
        fs::write(log.path(), text).unwrap();
        assert_eq!(
            count(log.path()).unwrap(),
            Tally {
                passed: 15,
                failed: 2,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_section_whose_ground_is_missing_is_skipped() {
        let mut report = Report::default();
        let fails = Section {
            name: "a",
            needs: &[],
            slow: false,
            run: |_| anyhow::bail!("broken"),
        };
        let needs = Section {
            name: "b",
            needs: &["a"],
            slow: false,
            run: |_| Ok(Tally::PASS.into()),
        };
        let stands = Section {
            name: "c",
            needs: &[],
            slow: false,
            run: |_| Ok(Tally::PASS.into()),
        };
        for section in [&fails, &needs, &stands] {
            report.run(section, &Args::default());
        }
        assert_eq!(
            report.print(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 1
            }
        );
    }
}
