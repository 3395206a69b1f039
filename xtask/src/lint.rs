//! `cargo xtask lint`.

use std::{env, process::Command};

use anyhow::{Result, ensure};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};
use walkdir::{DirEntry, WalkDir};

use crate::{bench, doors};

mod patches;
mod sizes;
mod texts;

/// Check format, lints, patches and texts, and print sizes
#[derive(clap::Args, Default)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    let tally = all()?;
    ensure!(tally.failed == 0, "lint found something ({tally})");
    Ok(())
}

/// Returns what it found.
type Check = fn() -> Result<Vec<String>>;

/// Run every lint and count the verdicts.
pub fn all() -> Result<Tally> {
    let checks: [(&str, Check); 5] = [
        ("rustfmt", rustfmt),
        ("clippy", clippy),
        ("patches", patches::findings),
        ("texts", texts::findings),
        ("doors", doors::findings),
    ];
    let mut tally = Tally::default();
    for (name, check) in checks {
        let findings = check().unwrap_or_else(|error| vec![format!("{error:#}")]);
        println!("{:>4}  {name}", if findings.is_empty() { "ok" } else { "FAIL" });
        findings.iter().for_each(|finding| println!("        {finding}"));
        tally += if findings.is_empty() {
            Tally::PASS
        } else {
            Tally::FAIL
        };
    }
    sizes::print()?;
    Ok(tally)
}

fn rustfmt() -> Result<Vec<String>> {
    cargo("fmt", &["fmt", "--all", "--check"])
}

fn clippy() -> Result<Vec<String>> {
    const STRICT: &[&str] = &["--locked", "--", "-D", "warnings"];
    hostpkg::ensure(bench::PACKAGES)?;
    let all = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        bench::FEATURE,
    ];
    cargo("clippy", &[&all[..], STRICT].concat())?;
    // The test guests' own kernel: no program of this machine, and nothing unwinds in it.
    let kernel = [
        "clippy",
        "-p",
        "vmcrypt-kernel",
        "--features",
        "bare",
        "--profile",
        "static",
        "--bin",
        "vmcrypt-kernel",
    ];
    cargo("clippy-kernel", &[&kernel[..], STRICT].concat())
}

/// Run a cargo command that succeeds if it finds nothing.
fn cargo(name: &str, args: &[&str]) -> Result<Vec<String>> {
    let step = Step::new(name);
    let log = paths::target_subdir("lint")?.join(format!("{name}.log"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cmd::logged(cargo.args(args).current_dir(paths::workspace_root()), &log, &step)?;
    step.done("");
    Ok(Vec::new())
}

/// Every file of the project, by its path below the root; what git and cargo keep for themselves is left out.
fn project_files() -> Result<Vec<String>> {
    let root = paths::workspace_root();
    let own = |entry: &DirEntry| {
        entry.depth() != 1 || ![".git", "target"].iter().any(|name| entry.file_name() == *name)
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(&root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(own)
    {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.push(paths::short(entry.path()));
        }
    }
    Ok(files)
}
