//! `cargo xtask image`.

use anyhow::Result;
use vmcrypt_testbed::Image;

/// Build the dom0 disk of the testbed, and the programs that run in dom0 and in test guests.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    let image = Image::ensure()?;
    println!("{}", image.dir().display());
    Ok(())
}
