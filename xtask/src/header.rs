//! `cargo xtask header`.

use std::fs;

use anyhow::{Context, Result, bail};
use similar::TextDiff;
use vmcrypt_host::paths;

use crate::xen::{patches_dir, write_if_changed};

/// Compare the committed C header with the Rust exports
#[derive(clap::Args, Default)]
pub struct Args {
    /// Write the header instead
    #[arg(long)]
    write: bool,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    let path = patches_dir().join("overlay/xen/include/xen/vmcrypt-rust.h");
    let new = generate()?;
    if args.write {
        let changed = write_if_changed(&path, new.as_bytes())?;
        println!(
            "{}: {}",
            paths::short(&path),
            if changed { "written" } else { "unchanged" }
        );
        return Ok(());
    }
    let old = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; write it with `cargo xtask header --write`",
            paths::short(&path)
        )
    })?;
    if old != new {
        let diff = TextDiff::from_lines(&old, &new);
        print!(
            "{}",
            diff.unified_diff()
                .context_radius(2)
                .header("committed", "generated")
        );
        bail!(
            "{} is out of date; write it with `cargo xtask header --write`",
            paths::short(&path)
        );
    }
    println!("{} is up to date", paths::short(&path));
    Ok(())
}

/// The header that belongs to the Rust sources as they are.
fn generate() -> Result<String> {
    let ffi = paths::workspace_root().join("ffi");
    let config =
        cbindgen::Config::from_file(ffi.join("cbindgen.toml")).map_err(|error| anyhow::anyhow!("{error}"))?;
    let bindings = cbindgen::Builder::new()
        .with_crate(&ffi)
        .with_config(config)
        .generate()
        .context("cbindgen cannot read the exports of ffi")?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    Ok(String::from_utf8(text)?)
}
