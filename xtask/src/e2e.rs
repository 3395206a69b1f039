//! `cargo xtask e2e`.

use anyhow::{Result, bail};
use std::path::PathBuf;
use vmcrypt_e2e::case::{Case, Hypervisor};
use vmcrypt_e2e::{Options, run as run_cases, select};

use crate::xen::{self, Flavour};

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
    let options = options(&cases, args)?;
    let tally = run_cases(&cases, &options)?.tally;
    if tally.failed > 0 {
        bail!("{} of {} cases failed", tally.failed, cases.len());
    }
    Ok(())
}

/// Builds those hypervisors that the cases need and that were not given.
fn options(cases: &[&Case], args: &Args) -> Result<Options> {
    let needed: Vec<Hypervisor> = cases.iter().flat_map(|case| case.hypervisors()).collect();
    let built = |which, flavour: Flavour, given: &Option<PathBuf>| -> Result<PathBuf> {
        match given {
            Some(file) => Ok(file.clone()),
            None if needed.contains(&which) => Ok(xen::build(flavour)?.join("xen")),
            None => Ok(flavour.dir().join("xen")),
        }
    };
    Ok(Options {
        vmcrypt: built(Hypervisor::VmCrypt, Flavour::Product, &args.hypervisor)?,
        stock: built(Hypervisor::Stock, Flavour::Stock, &args.stock)?,
        debug: built(Hypervisor::Debug, Flavour::Debug, &None)?,
        echo: args.keep,
        until: None,
        skip_on_demand: false,
    })
}
