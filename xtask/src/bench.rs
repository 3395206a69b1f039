//! `cargo xtask bench`.

use std::{env, ffi::OsString, process::Command};

use anyhow::{Context, Result};
use vmcrypt_host::{hostpkg, paths};

/// What the bench is built against (OpenSSL's headers) and what it measures beside VMCrypt (`openssl`, `age`).
pub const PACKAGES: &[&str] = &["age", "libssl-dev", "openssl", "pkg-config"];
/// The feature without which others are not measured.
pub const FEATURE: &str = "vmcrypt-bench/peers";

/// Measure what VMCrypt costs on this CPU, beside what others offer
///
/// Builds the bench, installing what is missing, and hands the rest of the command line to it: `cargo xtask bench
/// --help` lists its verbs.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// A verb of the bench, and its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Run the verb. Files are named from where the caller is.
pub fn run(args: &Args) -> Result<()> {
    hostpkg::ensure(PACKAGES)?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["run", "--quiet", "--release", "--locked", "--features", FEATURE])
        .args(["--package", "vmcrypt-bench", "--manifest-path"])
        .arg(paths::workspace_root().join("Cargo.toml"))
        .arg("--")
        .args(&args.rest);
    let verdict = cargo.status().context("cannot start cargo")?;
    if !verdict.success() {
        // The bench said why; its exit code means something.
        std::process::exit(verdict.code().unwrap_or(1));
    }
    Ok(())
}
