//! An evil dom0 with all its means: attacks by name, races, random calls. Each runs on stock Xen as well, where it must
//! come to something.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use vmcrypt_host::paths;

/// Limit for all attacks: each builds a guest, and a host with two machines at work takes some ten seconds for it.
const ATTACKS_LIMIT: Duration = Duration::from_secs(2400);

/// One attack, and what came of it.
#[derive(Deserialize, Serialize)]
struct Attack {
    name: String,
    row: String,
    about: String,
    /// Why it is no attack here.
    argued: Option<String>,
    succeeded: bool,
    how: String,
}

/// Whatever dom0 tries fails.
pub fn attacks(dom0: &mut Dom0) -> Verdict {
    fail(dom0, "protected")
}

/// The same on the debug build.
pub fn attacks_debug(dom0: &mut Dom0) -> Verdict {
    fail(dom0, "debug")
}

fn fail(dom0: &mut Dom0, column: &str) -> Verdict {
    let attacks = made(dom0, column)?;
    let through: Vec<String> = attacks
        .iter()
        .filter(|attack| attack.succeeded)
        .map(|attack| format!("{} (row {}): {}", attack.name, attack.row, attack.how))
        .collect();
    demand!(
        through.is_empty(),
        "{} of {} attacks succeeded: {}",
        through.len(),
        attacks.len(),
        through.join("; ")
    );
    let argued = attacks.iter().filter(|attack| attack.argued.is_some()).count();
    // Those that a debug build stops.
    let made = |attack: &&Attack| attack.argued.is_none() && !attack.how.starts_with("not made");
    Ok(format!(
        "{} attacks failed, {argued} more are argued; table in {}",
        attacks.iter().filter(made).count(),
        paths::short(&table_file()?)
    ))
}

/// On stock Xen each succeeds, but for those of which it is said why not.
pub fn canary_attacks(dom0: &mut Dom0) -> Verdict {
    let attacks = made(dom0, "unprotected")?;
    let wrong: Vec<String> = attacks
        .iter()
        .filter(|attack| attack.succeeded == attack.argued.is_some())
        .map(|attack| format!("{} (row {}): {}", attack.name, attack.row, attack.how))
        .collect();
    demand!(
        wrong.is_empty(),
        "attacks that are duds, or are argued and succeed: {}",
        wrong.join("; ")
    );
    let argued = attacks.iter().filter(|attack| attack.argued.is_some()).count();
    Ok(format!(
        "{} attacks succeeded, {argued} are argued",
        attacks.len() - argued
    ))
}

/// Has all attacks made, and writes them into their column of the table.
fn made(dom0: &mut Dom0, column: &str) -> Result<Vec<Attack>, Problem> {
    const REPORT: &str = "/out/attacks.jsonl";
    let names = std::env::var("VMCRYPT_ATTACKS").unwrap_or_default();
    let build = if column == "debug" { "--debug-build" } else { "" };
    let ran = dom0.try_run(
        &format!("vmcrypt-hostile attacks --report {REPORT} {build} {names}"),
        ATTACKS_LIMIT,
    )?;
    let report = String::from_utf8(dom0.take(REPORT)?).context("the report is no text")?;
    dom0.note(&report);
    demand!(ran.ok(), "vmcrypt-hostile ended early: {}", ran.all_text().trim());
    let attacks: Vec<Attack> = report
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading {line}")))
        .collect::<Result<_>>()?;
    if names.is_empty() {
        let file = paths::target_subdir("testbed")?.join(format!("attacks-{column}.json"));
        fs::write(&file, serde_json::to_string_pretty(&attacks)?)?;
        fs::write(table_file()?, table()?)?;
    }
    Ok(attacks)
}

fn table_file() -> Result<std::path::PathBuf> {
    Ok(paths::target_subdir("testbed")?.join("attacks.md"))
}

/// The columns that there are, side by side.
fn table() -> Result<String> {
    const COLUMNS: [&str; 3] = ["unprotected", "protected", "debug"];
    let mut rows: Vec<(String, Attack)> = Vec::new();
    let mut cells: BTreeMap<(String, &str), String> = BTreeMap::new();
    for column in COLUMNS {
        let file = paths::target_subdir("testbed")?.join(format!("attacks-{column}.json"));
        let Ok(text) = fs::read(&file) else { continue };
        for attack in serde_json::from_slice::<Vec<Attack>>(&text)? {
            let key = format!("{} {} {}", attack.name, attack.row, attack.about);
            let word = if attack.succeeded { "**succeeds**" } else { "fails" };
            cells.insert(
                (key.clone(), column),
                format!("{word}: {}", attack.how.replace('|', "/")),
            );
            if !rows.iter().any(|(known, _)| *known == key) {
                rows.push((key, attack));
            }
        }
    }
    let mut text = "| attack | row | what dom0 does | on unprotected | on protected | debug build |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    for (key, attack) in rows {
        let cell = |column| {
            let cell = cells.get(&(key.clone(), column)).map_or("", String::as_str);
            match &attack.argued {
                Some(why) if column == COLUMNS[0] => format!("{cell} (argued: {why})"),
                _ => cell.to_owned(),
            }
        };
        let columns = COLUMNS.map(cell).join(" | ");
        let _ = writeln!(
            text,
            "| {} | {} | {} | {columns} |",
            attack.name, attack.row, attack.about
        );
    }
    Ok(text)
}

/// Threads that map, start, pause, save and destroy at the same time see nothing, and break nothing.
pub fn race(dom0: &mut Dom0) -> Verdict {
    let outcome = dom0.attack("race --seconds 75", LONG)?;
    demand!(
        outcome["needles"] == 0 && outcome["damage"].is_null(),
        "a race was won: {outcome}"
    );
    let done = |what: &str| outcome[what].as_u64().unwrap_or(0);
    demand!(
        done("rounds") > 1 && done("maps") > 1000,
        "hardly anything was done: {outcome}"
    );
    let pool = whole_pool(dom0)?;
    Ok(format!("{outcome}; {pool}"))
}

/// On stock Xen they see the secret.
pub fn canary_race(dom0: &mut Dom0) -> Verdict {
    let outcome = dom0.attack("race --seconds 10", LONG)?;
    demand!(
        outcome["needles"].as_u64() > Some(0),
        "no secret was seen: {outcome}"
    );
    Ok(outcome.to_string())
}

/// Random calls, for as long as CI has.
pub fn fuzz(dom0: &mut Dom0) -> Verdict {
    fuzzed(dom0, "--seconds 80")
}

/// A million of them.
pub fn fuzz_full(dom0: &mut Dom0) -> Verdict {
    fuzzed(dom0, "--operations 1000000")
}

/// On stock Xen they come upon the secret.
pub fn canary_fuzz(dom0: &mut Dom0) -> Verdict {
    let outcome = dom0.attack("fuzz --seconds 60 --seed 1", LONG)?;
    demand!(
        outcome["needles"].as_u64() > Some(0),
        "no secret was seen: {outcome}"
    );
    Ok(format!(
        "secret seen {} times within {} calls",
        outcome["needles"], outcome["operations"]
    ))
}

/// `VMCRYPT_FUZZ` holds more options for the fuzzer, as `--seed 7`.
fn fuzzed(dom0: &mut Dom0, options: &str) -> Verdict {
    let more = std::env::var("VMCRYPT_FUZZ").unwrap_or_default();
    let outcome = dom0.attack(&format!("fuzz {options} {more}"), Duration::from_secs(4000))?;
    if !outcome["damage"].is_null() {
        dom0.run(
            "xl list -v; xl vcpu-list; tail -n 20 /var/log/xen/console/guest-prey*; xl dmesg -c >/dev/null; \
             xl debug-keys q; xl debug-keys e; xl debug-keys a; sleep 1; xl dmesg",
        )?;
    }
    demand!(
        outcome["needles"] == 0 && outcome["damage"].is_null(),
        "random calls of seed {} came to something: {} needles, guest: {}, suspects: {}",
        outcome["seed"],
        outcome["needles"],
        outcome["damage"],
        outcome["suspects"]
    );
    demand!(
        outcome["operations"].as_u64() > Some(5000) && outcome["maps"].as_u64() > Some(1000),
        "hardly anything was done: {outcome}"
    );
    let pool = whole_pool(dom0)?;
    Ok(format!(
        "seed {}: {} calls in {:.0} s, {} pages read, saved {} times; no secret, guest intact; {pool}",
        outcome["seed"],
        outcome["operations"],
        outcome["seconds"].as_f64().unwrap_or(0.0),
        outcome["maps"],
        outcome["saves"],
    ))
}

/// Nothing is left that Xen takes for mapped.
fn whole_pool(dom0: &mut Dom0) -> Result<String, Problem> {
    let status = dom0.json("vmcrypt status --json")?;
    let pool = &status["host"]["pool"];
    demand!(
        pool["free"].is_u64() && pool["free"] == pool["frames"],
        "replicas are missing: {pool}"
    );
    Ok(format!("all {} replicas are free", pool["frames"]))
}
