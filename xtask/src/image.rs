//! `cargo xtask image`.

use anyhow::{Result, bail};

/// Build the dom0 disk of the testbed.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
