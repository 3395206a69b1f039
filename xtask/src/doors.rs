//! `cargo xtask doors`.

mod attacks;
mod hypercalls;

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use vmcrypt_host::paths;

use crate::xen::write_if_changed;

/// Compare the tables of the documents with those in the code: hypercall operations, ways into a guest, attacks
#[derive(clap::Args, Default)]
pub struct Args {
    /// Write the documents instead
    #[arg(long)]
    write: bool,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    if args.write {
        for (path, text) in documents()? {
            let done = match write_if_changed(&path, text.as_bytes())? {
                true => "written",
                false => "unchanged",
            };
            println!("{}: {done}", paths::short(&path));
        }
        return Ok(());
    }
    match findings()?.first() {
        Some(finding) => bail!("{finding}"),
        None => {
            println!("the documents are up to date");
            Ok(())
        }
    }
}

/// Says which document is not what the tables say.
pub fn findings() -> Result<Vec<String>> {
    let stale = documents()?
        .into_iter()
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text));
    Ok(stale
        .map(|(path, _)| {
            let name = paths::short(&path);
            format!("{name} is not what the tables say; write it with `cargo xtask doors --write`")
        })
        .collect())
}

/// Each document as it should be.
fn documents() -> Result<Vec<(PathBuf, String)>> {
    let docs = paths::workspace_root().join("docs");
    let threats = docs.join("THREAT-MODEL.md");
    let text = fs::read_to_string(&threats).with_context(|| format!("cannot read {}", threats.display()))?;
    Ok(vec![
        (docs.join("HYPERCALLS.md"), hypercalls::document()),
        (docs.join("ATTACKS.md"), attacks::document()),
        (threats, attacks::threats(&text)?),
    ])
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn line(text: &mut String, cells: &[&str]) {
    _ = writeln!(text, "| {} |", cells.join(" | "));
}
