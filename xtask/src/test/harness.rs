//! A C program that drives the Rust library through the committed header.

use std::{env, fs, process::Command};

use anyhow::{Context, Result, bail};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};

use crate::xen::patches_dir;

/// Build the library for this host and the program with AddressSanitizer, and run it.
pub fn run() -> Result<Tally> {
    hostpkg::ensure(&["gcc", "libc6-dev"])?;
    let dir = paths::target_subdir("test")?;
    let root = paths::workspace_root();
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
        .current_dir(&root);
    cmd::logged(&mut cargo, &dir.join("harness-library.log"), &step)?;

    step.note("program");
    let program = dir.join("harness");
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-std=gnu11",
        "-g",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsanitize=address,undefined",
    ]);
    gcc.arg("-fno-sanitize-recover=all")
        .arg("-I")
        .arg(patches_dir().join("overlay/xen/include"));
    gcc.arg(root.join("tests/c/harness.c"))
        .arg(dir.join("cargo/debug/libvmcrypt_ffi.a"));
    gcc.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program);
    cmd::logged(&mut gcc, &dir.join("harness-compile.log"), &step)?;

    step.note("run");
    let log = dir.join("harness.log");
    let verdict = cmd::logged(&mut Command::new(&program), &log, &step);
    let text = fs::read_to_string(&log)?;
    let (details, count) = text.trim_end().rsplit_once('\n').unwrap_or_default();
    let Some((passed, failed)) = count
        .strip_suffix(" failed")
        .and_then(|count| count.split_once(" passed, "))
    else {
        // It did not come to its end.
        verdict?;
        bail!(
            "the C harness ended without its count; see {}",
            paths::short(&log)
        );
    };
    println!("{details}");
    let number = |text: &str| text.parse().with_context(|| format!("`{text}` is no count"));
    let tally = Tally {
        passed: number(passed)?,
        failed: number(failed)?,
        skipped: 0,
    };
    if tally.failed == 0 {
        verdict?;
        step.done("");
    }
    Ok(tally)
}
