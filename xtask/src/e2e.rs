//! `cargo xtask e2e`.

use anyhow::{Result, bail};
use std::path::PathBuf;
use vmcrypt_e2e::{Options, run as run_cases, select};
use vmcrypt_host::paths;

/// Run end-to-end cases on real Xen.
///
/// Prints a line for each case (ok, FAIL, ERROR or SKIP) and a count at the end; logs stay below target/testbed/logs.
#[derive(clap::Args)]
pub struct Args {
    /// Cases to run, all if none is named; `canary*` stands for all that begin so.
    cases: Vec<String>,
    /// Name the cases and what each shows, and run nothing.
    #[arg(long)]
    list: bool,
    /// Use this hypervisor as the one under test.
    #[arg(long, value_name = "FILE")]
    hypervisor: Option<PathBuf>,
    /// Use this hypervisor as the unpatched one.
    #[arg(long, value_name = "FILE")]
    stock: Option<PathBuf>,
    /// Show what happens in dom0 while it happens.
    #[arg(long)]
    keep: bool,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    let cases = select(&args.cases)?;
    if args.list {
        for case in cases {
            println!("{:<24} {}", case.name, case.about);
        }
        return Ok(());
    }
    let target = paths::target_dir();
    let options = Options {
        vmcrypt: args.hypervisor.clone().unwrap_or_else(|| target.join("xen/xen")),
        stock: args.stock.clone().unwrap_or_else(|| target.join("xen-stock/xen")),
        echo: args.keep,
    };
    let tally = run_cases(&cases, &options)?;
    if tally.failed > 0 {
        bail!("{} of {} cases failed", tally.failed, cases.len());
    }
    Ok(())
}
