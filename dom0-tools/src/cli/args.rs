//! Arguments that `sweep` and `inspect` share.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use vmcrypt_tools::escape;
use vmcrypt_tools::map::{self, MemoryMap};
use vmcrypt_tools::needle::{Needles, Tally};

/// What to look for and how to say what was found.
#[derive(Args)]
pub struct Common {
    /// Text to look for; may be repeated
    #[arg(long, value_name = "TEXT")]
    needle: Vec<String>,
    /// Bytes to look for, in hexadecimal; may be repeated
    #[arg(long, value_name = "HEX")]
    needle_hex: Vec<String>,
    /// File with one text to look for on each line
    #[arg(long, value_name = "FILE")]
    needle_file: Option<PathBuf>,
    /// Exit with status 3 if any needle is found
    #[arg(long)]
    deny_hits: bool,
    /// Write the result to stdout as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw a map of the memory, one dot a page, into this PNG file
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
}

impl Common {
    /// Gathers the needles.
    pub fn needles(&self) -> Result<Needles> {
        let mut all: Vec<Vec<u8>> = self.needle.iter().map(|text| text.clone().into_bytes()).collect();
        for digits in &self.needle_hex {
            all.push(hex::decode(digits).with_context(|| format!("--needle-hex {digits}"))?);
        }
        if let Some(file) = &self.needle_file {
            all.extend(Needles::lines_of(file).with_context(|| format!("cannot read {}", file.display()))?);
        }
        Needles::new(all).context("too many needles")
    }

    /// Writes the picture if one is wanted.
    pub fn draw(&self, title: &str, memory: &MemoryMap) -> Result<()> {
        let Some(file) = &self.png else { return Ok(()) };
        let picture = map::picture(&[(title, memory)]);
        picture
            .write_png(file)
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The exit status that the hits call for.
    pub const fn verdict(&self, tally: Tally) -> u8 {
        if self.deny_hits && tally.occurrences > 0 {
            3
        } else {
            0
        }
    }
}

/// The line about needles.
pub fn print_needles(tally: Tally, pages: u64, first: &str) {
    if tally.needles > 0 {
        say!(
            "needles     {} of {} found, {} times, on {pages} pages{first}",
            tally.needles_found,
            tally.needles,
            tally.occurrences
        );
    }
}

/// A row of a table of page classes.
pub fn print_class(name: &str, pages: u64, total: u64) {
    let share = 100.0 * pages as f64 / total.max(1) as f64;
    say!("  {name:<28} {pages:>10}  {share:>6.2} %");
}

/// Writes JSON to stdout.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = escape::json(&serde_json::to_string_pretty(value)?) + "\n";
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the result")
        }
        _ => Ok(()),
    }
}

/// An exit status.
pub fn exit(status: u8) -> Result<ExitCode> {
    Ok(ExitCode::from(status))
}
