//! Every single change of a save image.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT, marker};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use vmcrypt_host::paths;
use vmcrypt_kernel::Line;
use vmcrypt_tamper::changes::Operation;
use vmcrypt_tamper::{Outcome, Summary, Trial};

/// What `xl create` reads.
const CONFIG: &str = "name = \"tiny\"\ntype = \"pv\"\nkernel = \"/usr/local/bin/vmcrypt-kernel\"\nmemory = 8\n\
                      maxmem = 8\nvcpus = 2\non_crash = \"preserve\"\non_reboot = \"destroy\"\n";
const LOG: &str = "/var/log/xen/console/guest-tiny.log";

/// The kernel itself: it boots, is saved, and goes on with the same memory.
pub fn kernel(dom0: &mut Dom0) -> Verdict {
    dom0.run(&format!("cat >/root/tiny.cfg <<'EOF'\n{CONFIG}EOF"))?;
    dom0.must("xl create -q /root/tiny.cfg", LONG)?;
    let before = rounds(dom0, 0)?;
    dom0.must("xl save tiny /root/tiny.img", LONG)?;
    dom0.must("xl restore /root/tiny.img", LONG)?;
    let after = rounds(dom0, before.0)?;
    demand!(
        before.1 == after.1,
        "its memory is {} instead of {}",
        after.1,
        before.1
    );
    marker(format!(
        "round {} before, {} after, memory {}",
        before.0, after.0, after.1
    ))
}

/// The image of such a guest with that uuid, as small as it can be made.
pub(super) fn saved_tiny(dom0: &mut Dom0, uuid: &str) -> Result<Vec<u8>, Problem> {
    let config = CONFIG.replace("= 8\n", "= 6\n");
    dom0.run(&format!(
        "cat >/root/tiny.cfg <<'EOF'\n{config}uuid = \"{uuid}\"\nEOF"
    ))?;
    dom0.must("xl create -q /root/tiny.cfg", LONG)?;
    rounds(dom0, 0)?;
    dom0.must("xl save tiny /root/tiny.img", LONG)?;
    Ok(dom0.take("/root/tiny.img")?)
}

/// Restores such an image and waits until the guest has found its memory intact; the round in which it says so, and the
/// hash of its memory.
pub(super) fn restored_tiny(dom0: &mut Dom0, image: &[u8]) -> Result<(u64, String), Problem> {
    dom0.run(&format!("rm -f {LOG}"))?;
    let file = dom0.give(image)?;
    dom0.must(&format!("xl restore {file}"), LONG)?;
    let first = rounds(dom0, 0)?;
    let next = rounds(dom0, first.0)?;
    demand!(first.1 == next.1, "its memory is {} and then {}", first.1, next.1);
    dom0.run("xl destroy tiny")?;
    Ok(first)
}

/// The next round that the kernel reports, and the hash of its memory.
fn rounds(dom0: &mut Dom0, after: u64) -> Result<(u64, String)> {
    for _ in 0..40 {
        let log = dom0.try_run(&format!("cat {LOG}"), SHORT)?.text();
        for line in log.lines() {
            if let Some(Line::Fail(what)) = Line::parse(line) {
                anyhow::bail!("the kernel says: {what}");
            }
        }
        let mut last = log.lines().filter_map(|line| match Line::parse(line) {
            Some(Line::Intact(round, hash)) => Some((round, hash.to_owned())),
            _ => None,
        });
        if let Some(last) = last.next_back().filter(|last| last.0 > after) {
            return Ok(last);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    dom0.try_run("xl list; xl dmesg | tail -n 30", SHORT)?;
    None.context("the kernel gives no sign of life")
}

/// As many as there is time for, of one change of each class and operation, in an order drawn from the seed.
pub fn sample(dom0: &mut Dom0) -> Verdict {
    judged(dom0, "tamper", "--seconds 180", Duration::from_secs(600))
}

/// Every change. `VMCRYPT_TAMPER` holds more options for `vmcrypt-tamper`, to try a part of them.
pub fn full(dom0: &mut Dom0) -> Verdict {
    let options = std::env::var("VMCRYPT_TAMPER").unwrap_or_default();
    judged(
        dom0,
        "tamper-full",
        &format!("--all {options}"),
        Duration::from_secs(4 * 3600),
    )
}

/// On a hypervisor that lets changes through, the same program sees that they were.
pub fn canary(dom0: &mut Dom0) -> Verdict {
    let mut seen = Vec::new();
    for (only, wanted) in [
        ("private page: flip", "private memory"),
        ("GDT: flip", "descriptor tables"),
        ("vCPU 0 BASIC: flip", ""),
    ] {
        let name = format!("canary-tamper-{}", seen.len());
        let options = format!("--all --most 12 --only '{only}'");
        let (trials, _) = trials(dom0, &name, &options, Duration::from_secs(600))?;
        let mut accepted = trials.iter().filter(|trial| trial.outcome == Outcome::Accepted);
        let found = accepted.find(|trial| trial.reason.contains(wanted));
        let Some(found) = found else {
            return Err(Problem::Fail(format!(
                "{only}: not seen that stock Xen accepts it: {trials:?}"
            )));
        };
        seen.push(format!("{only} {}: {}", found.place, found.reason));
    }
    marker(format!("accepted, and seen to be: {}", seen.join("; ")))
}

fn judged(dom0: &mut Dom0, name: &str, options: &str, limit: Duration) -> Verdict {
    let (trials, summary) = trials(dom0, name, options, limit)?;
    let table = table(&trials);
    let dir = paths::target_subdir("testbed")?;
    fs::write(dir.join(format!("{name}.md")), &table)?;
    let report = json!({ "listed": summary.listed, "controls": summary.controls, "trials": trials });
    fs::write(
        dir.join(format!("{name}.json")),
        serde_json::to_string_pretty(&report)?,
    )?;
    dom0.note(&table);
    let count = |outcome| trials.iter().filter(|trial| trial.outcome == outcome).count();
    let accepted: Vec<String> = trials
        .iter()
        .filter(|trial| trial.outcome == Outcome::Accepted)
        .map(|trial| {
            format!(
                "{}: {} {}: {}",
                trial.class, trial.operation, trial.place, trial.reason
            )
        })
        .collect();
    demand!(accepted.is_empty(), "accepted: {}", accepted.join("; "));
    demand!(trials.len() > 10, "only {} changes were tried", trials.len());
    marker(format!(
        "{} of {} changes tried: {} refused by Xen, {} by the tools, {} harmless, 0 accepted; the unchanged image \
         restored {} times in between; table in {}",
        trials.len(),
        summary.listed,
        count(Outcome::Xen),
        count(Outcome::Tools),
        count(Outcome::Harmless),
        summary.controls,
        paths::short(&dir.join(format!("{name}.md")))
    ))
}

/// Has changes tried in dom0; what came of each, and a word about all.
fn trials(
    dom0: &mut Dom0,
    name: &str,
    options: &str,
    limit: Duration,
) -> Result<(Vec<Trial>, Summary), Problem> {
    let file = format!("/out/{name}.jsonl");
    let ran = dom0.try_run(&format!("vmcrypt-tamper --report {file} {options}"), limit)?;
    let report = String::from_utf8(dom0.take(&file)?).context("the report is no text")?;
    let last = report.lines().last().unwrap_or("nothing");
    let said = ran.all_text();
    demand!(
        ran.ok(),
        "vmcrypt-tamper ended early: {}; it had tried {last}",
        said.trim()
    );
    let summary = serde_json::from_str(last).with_context(|| format!("reading {last}"))?;
    let trials: Result<Vec<Trial>> = report
        .lines()
        .filter(|line| *line != last)
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading {line}")))
        .collect();
    Ok((trials?, summary))
}

/// What became of which operation on which class, and why.
fn table(trials: &[Trial]) -> String {
    let mut text = String::from(
        "| class | operation | tried | Xen | tools | harmless | accepted |\n|---|---|---|---|---|---|---|\n",
    );
    let mut groups: BTreeMap<(&str, Operation), Vec<&Trial>> = BTreeMap::new();
    for trial in trials {
        groups
            .entry((&trial.class, trial.operation))
            .or_default()
            .push(trial);
    }
    for ((class, operation), group) in &groups {
        let count = |outcome| group.iter().filter(|trial| trial.outcome == outcome).count();
        let counts = [Outcome::Xen, Outcome::Tools, Outcome::Harmless, Outcome::Accepted].map(count);
        let counts = counts.map(|count| count.to_string()).join(" | ");
        let _ = writeln!(text, "| {class} | {operation} | {} | {counts} |", group.len());
    }
    for (outcome, title) in [
        (Outcome::Xen, "Refused by Xen, because"),
        (Outcome::Tools, "Refused by the stock tools, because"),
        (Outcome::Harmless, "Harmless, because"),
        (Outcome::Accepted, "Accepted"),
    ] {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for trial in trials.iter().filter(|trial| trial.outcome == outcome) {
            *reasons.entry(&trial.reason).or_default() += 1;
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let _ = write!(text, "\n{title}\n\n| reason | changes |\n|---|---|\n");
        for (reason, count) in reasons {
            let _ = writeln!(text, "| {reason} | {count} |");
        }
    }
    text
}
