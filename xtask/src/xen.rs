//! `cargo xtask xen`.

use anyhow::{Result, bail};

/// Fetch, patch and build Xen.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
