//! The core's unit tests under Miri, where it is installed.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use vmcrypt_host::{
    Tally, cmd, paths,
    progress::{Step, seconds},
};

use super::count;

/// Miri is some hundred times slower than the processor.
const LIMIT: Duration = Duration::from_secs(240);

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
    let start = Instant::now();
    let verdict = cmd::logged(&mut test, &log, &step);
    let text = fs::read_to_string(&log)?;
    match verdict {
        Ok(()) => {
            let tally = count(&log)?;
            step.done(tally.to_string());
            Ok(tally)
        }
        // Out of time: those that ended well count, the rest was not seen.
        Err(_) if start.elapsed() >= LIMIT && !text.contains("Undefined Behavior") => {
            let passed = text
                .lines()
                .filter(|line| line.starts_with("test ") && line.ends_with(" ok"))
                .count();
            let skipped = text.lines().find_map(|line| {
                let tests: usize = line.strip_prefix("running ")?.split(' ').next()?.parse().ok()?;
                Some(tests.saturating_sub(passed))
            });
            step.done(format!("stopped after {}: the rest was not seen", seconds(LIMIT)));
            Ok(Tally {
                passed,
                failed: 0,
                skipped: skipped.unwrap_or(1),
            })
        }
        Err(error) => Err(error),
    }
}

fn miri(args: &[&str]) -> Command {
    let mut miri = Command::new("timeout");
    miri.arg(LIMIT.as_secs().to_string())
        .args(["rustup", "run", "nightly", "cargo", "miri"])
        .args(args);
    miri
}
