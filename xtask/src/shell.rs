//! `cargo xtask shell`.

use anyhow::{Result, bail};

/// Boot the testbed and hand over the console of dom0.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
