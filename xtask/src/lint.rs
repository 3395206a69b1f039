//! `cargo xtask lint`.

use anyhow::{Result, bail};

/// Check format, lints, patches and texts.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
