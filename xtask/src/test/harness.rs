//! C programs that drive the Rust library through the committed header: one that plays Xen, and one that has Xen's own
//! code lend vector registers to it.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};

use crate::xen::patches_dir;

/// Build the library for this host and both programs, and run them.
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
fn empty_headers(dir: &Path, source: &Path) -> Result<std::path::PathBuf> {
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

/// Compile one program of `tests/c`, run it, and read its count.
fn program(dir: &Path, name: &str, flags: &[&str], include: &[&Path]) -> Result<Tally> {
    let step = Step::new(format!("C program {name}"));
    let program = dir.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(flags);
    for path in include {
        gcc.arg("-I").arg(path);
    }
    gcc.arg("-I").arg(patches_dir().join("overlay/xen/include"));
    gcc.arg(paths::workspace_root().join(format!("tests/c/{name}.c")))
        .arg(dir.join("cargo/debug/libvmcrypt_ffi.a"));
    gcc.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program);
    cmd::logged(&mut gcc, &dir.join(format!("{name}-compile.log")), &step)?;

    step.note("run");
    let log = dir.join(format!("{name}.log"));
    let verdict = cmd::logged(&mut Command::new(&program), &log, &step);
    let text = fs::read_to_string(&log)?;
    let (details, count) = text.trim_end().rsplit_once('\n').unwrap_or_default();
    let Some((passed, failed)) = count
        .strip_suffix(" failed")
        .and_then(|count| count.split_once(" passed, "))
    else {
        // It did not come to its end.
        verdict?;
        bail!("{name} ended without its count; see {}", paths::short(&log));
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
