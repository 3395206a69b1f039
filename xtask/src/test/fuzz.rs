//! Fuzzing every parser of bytes that dom0, or whoever has a guest measured, chooses.

use std::{env, fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};

use super::Args;

/// What cargo-fuzz would pass: libFuzzer's instrumentation, AddressSanitizer.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
    "-Zsanitizer=address",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build the targets and run each for half a minute. The corpus is kept from run to run.
pub fn run(args: &Args) -> Result<Tally> {
    hostpkg::ensure(&["g++"])?;
    let time = Duration::from_secs(if args.quick { 5 } else { 30 });
    let source = paths::workspace_root().join("tests/fuzz");
    let dir = paths::target_subdir("fuzz")?;
    let step = Step::new("build fuzz targets");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(dir.join("cargo"));
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .env("RUSTC_BOOTSTRAP", "1");
    cmd::logged(cargo.current_dir(&source), &dir.join("build.log"), &step)?;
    step.done("");

    let mut tally = Tally::default();
    let targets = fs::read_dir(source.join("src/bin")).context("cannot list the fuzz targets")?;
    let mut names = Vec::new();
    for entry in targets {
        names.extend(
            entry?
                .path()
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    for name in names {
        let step = Step::new(format!("fuzz {name}"));
        let corpus = paths::target_subdir(&format!("fuzz/corpus-{name}"))?;
        let log = dir.join(format!("{name}.log"));
        let mut fuzzer = Command::new(dir.join("cargo").join(TARGET).join("release").join(&name));
        fuzzer
            .arg(format!("-max_total_time={}", time.as_secs()))
            .args(["-max_len=4096", "-timeout=10"]);
        fuzzer
            .arg(format!("-artifact_prefix={}/{name}-", dir.display()))
            .arg(&corpus);
        tally += match cmd::logged(&mut fuzzer, &log, &step) {
            Ok(()) => {
                let text = fs::read_to_string(&log)?;
                let last = text
                    .lines()
                    .rfind(|line| line.starts_with("Done "))
                    .context("the fuzzer did not end as it should")?;
                step.done(last);
                Tally::PASS
            }
            Err(error) => {
                println!(
                    "FAIL  {name}: the input that did it is in {}\n{error:#}",
                    paths::short(&dir)
                );
                Tally::FAIL
            }
        };
    }
    Ok(tally)
}
