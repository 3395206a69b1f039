//! `cargo xtask demo`.

use anyhow::{Result, bail};

/// Show what VMCrypt does: the same guest on stock Xen and on VMCrypt, side by side.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
