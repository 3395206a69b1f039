//! C programs that drive the Rust library through the committed header: one that plays Xen, and one that has Xen's own
//! code lend vector registers to it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use vmcrypt_host::{Tally, cmd, paths, progress::Step};

use crate::{c_program, xen::patches_dir};

/// Build the library for this host and both programs, and run them.
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
    step.done("");

    let sanitizers = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let mut tally = program(&dir, "harness", &sanitizers, &[])?;
    // Between two pieces of assembly nobody but the backends may touch a vector register. The debug build's code has a
    // canary.
    let plain = ["-O2", "-mgeneral-regs-only", "-DCONFIG_DEBUG"];
    let vector = patches_dir().join("overlay/xen/arch/x86/vmcrypt");
    let empty = empty_headers(&dir, &vector.join("vector.c"))?;
    tally += program(&dir, "vectors", &plain, &[&empty, &vector])?;
    Ok(tally)
}

/// A directory with an empty file for every header of Xen that a source includes.
fn empty_headers(dir: &Path, source: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(source).with_context(|| format!("cannot read {}", paths::short(source)))?;
    let empty = dir.join("empty");
    for line in text.lines() {
        let Some(name) = line
            .strip_prefix("#include <")
            .and_then(|rest| rest.strip_suffix('>'))
        else {
            continue;
        };
        let header = empty.join(name);
        if let Some(parent) = header.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(header, "")?;
    }
    Ok(empty)
}

/// Compile one program of `tests/c` and run it; `include` goes before everything else.
fn program(dir: &Path, name: &str, flags: &[&str], include: &[&Path]) -> Result<Tally> {
    let step = Step::new(format!("C program {name}"));
    let library = dir.join("cargo/debug/libvmcrypt_ffi.a");
    let include: Vec<String> = include
        .iter()
        .map(|path| format!("-I{}", path.display()))
        .collect();
    let mut options = vec!["-lpthread", "-ldl", "-lm"];
    options.extend(flags);
    options.extend(include.iter().map(String::as_str));
    let program = c_program::compile(name, &[&format!("{name}.c")], &[library], &options, &step)?;

    step.note("run");
    let log = dir.join(format!("{name}.log"));
    let ended = cmd::logged(&mut Command::new(&program), &log, &step);
    let tally = c_program::verdicts(&log, ended)?;
    if tally.failed == 0 {
        step.done("");
    }
    Ok(tally)
}
