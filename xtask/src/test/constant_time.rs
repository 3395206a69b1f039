//! No branch and no address depends on a secret: memcheck's word on the machine code that Xen is linked from, and traces
//! of the backends.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use vmcrypt_core::{hpke::PublicKey, sealed_key::Policy};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};
use vmcrypt_tools::owner::OwnerKey;

use crate::c_program;

/// The domain's handle in `tests/c/guest.h`.
const UUID: [u8; 16] = *b"a guest's handle";

/// Run both checks.
pub fn run() -> Result<Tally> {
    let mut tally = memcheck()?;
    tally += traces()?;
    Ok(tally)
}

/// Run `ffi/simd/tests/trace.rs` on optimised code, that of the profile which is built quickly. A backend that this CPU
/// cannot run says so and passes.
fn traces() -> Result<Tally> {
    let test = [
        "--profile",
        "static",
        "--package",
        "vmcrypt-simd",
        "--test",
        "trace",
    ];
    let tally = super::cargo_test(
        "traces",
        &[&test[..], &["--", "--show-output", "--test-threads=1"]].concat(),
    )?;
    let text = fs::read_to_string(paths::target_subdir("test")?.join("traces.log"))?;
    let skips: Vec<_> = text.lines().filter(|line| line.starts_with("SKIP")).collect();
    skips.iter().for_each(|line| println!("{line}"));
    Ok(Tally {
        passed: tally.passed - skips.len(),
        skipped: tally.skipped + skips.len(),
        ..tally
    })
}

/// Build `tests/c/constant_time.c` and run it under memcheck.
fn memcheck() -> Result<Tally> {
    hostpkg::ensure(&["valgrind"])?;
    let dir = paths::target_subdir("test")?;
    let step = Step::new("memcheck");
    let program = c_program::with_hypervisor_code("constant-time", "constant_time.c", &step)?;

    // Its host draws the same keys each time, so that an owner can seal one to it beforehand.
    let host = cmd::output(Command::new(&program).arg("public-key"))?;
    let key = OwnerKey::draw()?.seal(UUID, 0, Policy::default(), &[public_key(host.trim())?])?;
    let sealed = dir.join("constant-time.key");
    fs::write(&sealed, key)?;

    step.note("run");
    let (log, uses) = (dir.join("constant-time.log"), dir.join("constant-time.memcheck"));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=memcheck", "--quiet", "--error-limit=no"]);
    valgrind.arg(format!("--log-file={}", uses.display()));
    let ended = cmd::logged(valgrind.arg(&program).arg(&sealed), &log, &step);
    let tally = c_program::verdicts(&log, ended)?;
    if tally.failed > 0 {
        println!("      each use of a secret: {}", paths::short(&uses));
    } else {
        step.done("");
    }
    Ok(tally)
}

fn public_key(digits: &str) -> Result<PublicKey> {
    ensure!(digits.len() == 64, "`{digits}` is no public key");
    let mut key = PublicKey::default();
    for (byte, pair) in key.0.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(pair)?;
        *byte = u8::from_str_radix(text, 16).with_context(|| format!("`{digits}` is no public key"))?;
    }
    Ok(key)
}
