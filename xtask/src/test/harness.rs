//! A C program that drives the Rust library through the committed header.

use std::{env, process::Command};

use anyhow::Result;
use vmcrypt_host::{Tally, cmd, paths, progress::Step};

use crate::c_program;

/// Build the library for this host and the program with AddressSanitizer, and run it.
pub fn run() -> Result<Tally> {
    let dir = paths::target_subdir("test")?;
    let step = Step::new("C harness");
    step.note("library");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "rustc",
        "--locked",
        "--package",
        "vmcrypt-ffi",
        "--lib",
        "--crate-type",
        "staticlib",
    ]);
    cargo
        .arg("--target-dir")
        .arg(dir.join("cargo"))
        .current_dir(paths::workspace_root());
    cmd::logged(&mut cargo, &dir.join("harness-library.log"), &step)?;

    step.note("program");
    let library = dir.join("cargo/debug/libvmcrypt_ffi.a");
    let options = [
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-lpthread",
        "-ldl",
        "-lm",
    ];
    let program = c_program::compile("harness", &["harness.c"], &[library], &options, &step)?;

    step.note("run");
    let log = dir.join("harness.log");
    let ended = cmd::logged(&mut Command::new(&program), &log, &step);
    let tally = c_program::verdicts(&log, ended)?;
    if tally.failed == 0 {
        step.done("");
    }
    Ok(tally)
}
