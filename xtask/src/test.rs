//! `cargo xtask test`.

use anyhow::{Result, bail};

/// Run everything that CI runs.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
