//! POLYVAL and XCTR for all inputs: `tests/proof`, about the LLVM IR that rustc makes of `vmcrypt-core`.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};

use crate::c_program;

/// From the Python Package Index, through the machine's own configuration of pip.
const PACKAGES: &[&str] = &["sympy==1.14.0", "z3-solver==5.4.1.0"];

/// Make the IR and prove.
pub fn run() -> Result<Tally> {
    let step = Step::new("proof");
    let python = python(&step)?;
    let dir = paths::target_subdir("proof")?;
    let ir = dir.join("vmcrypt-core.ll");
    step.note("the IR of vmcrypt-core");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // One unit, so that all calls are found; the loops of a block stay loops of a block.
    cargo
        .args(["rustc", "--locked", "--profile", "static", "--lib"])
        .args(["--package", "vmcrypt-core", "--target-dir"])
        .arg(dir.join("cargo"))
        .args(["--", "-Ccodegen-units=1"])
        .args(["-Cno-vectorize-slp", "-Cno-vectorize-loops"])
        .arg(format!("--emit=llvm-ir={}", ir.display()));
    cargo.current_dir(paths::workspace_root());
    cmd::logged(&mut cargo, &dir.join("cargo.log"), &step)?;
    step.note("prove");
    let log = dir.join("proof.log");
    let mut prove = Command::new(python);
    prove
        .arg("-B")
        .arg(paths::workspace_root().join("tests/proof/prove.py"))
        .arg(ir);
    let ended = cmd::logged(&mut prove, &log, &step);
    let tally = c_program::verdicts(&log, ended)?;
    if tally.failed == 0 {
        step.done("");
    }
    Ok(tally)
}

/// A Python that has the packages.
fn python(step: &Step) -> Result<PathBuf> {
    hostpkg::ensure(&["python3-venv"])?;
    let dir = paths::target_subdir("proof")?;
    let venv = dir.join("venv");
    let (python, log) = (venv.join("bin/python"), dir.join("pip.log"));
    if !python.exists() {
        step.note("a Python environment");
        cmd::logged(
            Command::new("python3").args(["-m", "venv"]).arg(&venv),
            &log,
            step,
        )?;
    }
    step.note("Python packages");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--quiet"])
        .args(PACKAGES);
    cmd::logged(&mut pip, &log, step)
        .with_context(|| format!("pip could not install {}", PACKAGES.join(" ")))?;
    Ok(python)
}
