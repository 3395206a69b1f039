//! `cargo xtask e2e`.

use anyhow::{Result, bail};

/// Run end-to-end cases on real Xen.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
