//! `cargo xtask header`.

use anyhow::{Result, bail};

/// Compare the committed C header with the Rust exports.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    bail!("not there yet")
}
