//! The core's unit tests under Miri, where it is installed.

use std::process::Command;

use anyhow::Result;
use vmcrypt_host::{Tally, cmd, paths, progress::Step};

use super::count;

/// Run them, or say what is missing.
pub fn run() -> Result<Tally> {
    if cmd::output(&mut miri(&["--version"])).is_err() {
        println!(
            "SKIP  no Miri on this machine: `rustup toolchain install nightly --component miri,rust-src`"
        );
        return Ok(Tally::SKIP);
    }
    let step = Step::new("miri");
    let dir = paths::target_subdir("test")?;
    let log = dir.join("miri.log");
    let mut test = miri(&[
        "test",
        "--locked",
        "--package",
        "vmcrypt-core",
        "--lib",
        "--target-dir",
    ]);
    test.arg(dir.join("miri")).current_dir(paths::workspace_root());
    let verdict = cmd::logged(&mut test, &log, &step);
    let tally = count(&log)?;
    // Undefined behaviour ends the program, and no test is counted as failed.
    verdict?;
    step.done(tally.to_string());
    Ok(tally)
}

fn miri(args: &[&str]) -> Command {
    let mut miri = Command::new("rustup");
    miri.args(["run", "nightly", "cargo", "miri"]).args(args);
    miri
}
