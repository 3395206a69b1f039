//! `vmcrypt measure`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};
use vmcrypt_tools::measure::{Config, Launch};

use super::args::{exit, print_json};

/// Work out the launch measurement that Xen will find for a guest; needs no Xen
#[derive(Args)]
pub struct Measure {
    /// The guest's kernel, its initrd and its xl configuration; without kernel or initrd, those that the configuration
    /// names
    #[arg(num_args = 1..=3, required = true, value_name = "[KERNEL [INITRD]] CFG")]
    files: Vec<PathBuf>,
    /// Also print number, kind and SHA-256 of each page that is measured
    #[arg(long, conflicts_with = "json")]
    pages: bool,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

impl Measure {
    pub fn run(self) -> Result<ExitCode> {
        let Some((file, given)) = self.files.split_last() else {
            bail!("name at least the guest's configuration");
        };
        let config =
            Config::parse(&read(file)?).with_context(|| format!("cannot follow {}", file.display()))?;
        let kernel = given.first().or(config.kernel.as_ref());
        let Some(kernel) = kernel else {
            bail!("{} names no kernel, and none was given", file.display());
        };
        let initrd = given.get(1).or(config.ramdisk.as_ref());
        let initrd = initrd.map(|path| read(path)).transpose()?;
        let launch = Launch::new(&read(kernel)?, initrd.as_deref(), &config)
            .with_context(|| format!("cannot lay out the guest of {}", file.display()))?;

        if self.pages {
            for (pfn, kind, page) in launch.measured_pages() {
                say!("{pfn:#x} {} {}", kind as u32, hex::encode(Sha256::digest(page)));
            }
        }
        let measurement = hex::encode(launch.measurement());
        if self.json {
            print_json(
                &json!({ "measurement": measurement, "measured_pages": launch.measured_pages().count() }),
            )?;
        } else {
            say!("{measurement}");
        }
        exit(0)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
