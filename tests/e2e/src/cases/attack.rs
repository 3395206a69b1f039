//! What dom0 tries on a running guest.

use crate::case::{Problem, Verdict, demand};
use crate::cases::cycle;
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use anyhow::Context;
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use vmcrypt_core::domain::session_limit;
use vmcrypt_guest::{Role, pattern};

/// Maps every frame and looks for the secret.
pub fn sweep(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::main("swept").roles(&[Role::Secret, Role::Dirty]))?;
    let report = dom0.sweep(&guest)?;
    let lines = swept_lines(&report)?;
    demand!(lines == 0, "a sweep saw {lines} lines of the secret");
    let mapped = report["mapped"].as_u64().unwrap_or(0);
    demand!(
        mapped > 50_000,
        "only {mapped} pages could be mapped, so that the sweep proves little: {report}"
    );
    demand!(
        report["other"] == 0,
        "{} pages show content in clear that no class explains",
        report["other"]
    );
    dom0.await_alive(&mut guest)?;
    Ok(format!(
        "0 lines on {mapped} mapped pages, {} of them random",
        report["random"]
    ))
}

/// Lines of the secret that a sweep saw.
pub fn swept_lines(report: &Value) -> Result<u64, Problem> {
    let lines = report["needles"]["occurrences"].as_u64();
    Ok(lines.with_context(|| format!("the sweep's report has no count: {report}"))?)
}

/// Looks for the frames behind its maps under every owner's name.
pub fn replicas(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("sought"))?;
    let domid = dom0.domid(&guest)?;
    let report = dom0.attack(&format!("seek-replicas {domid}"), LONG)?;
    let count = |owner: &str, what: &str| report["owners"][owner][what].as_u64().unwrap_or(u64::MAX);
    let random = report["random"].as_u64().unwrap_or(0);
    demand!(random > 500, "hardly any held map shows ciphertext: {report}");
    // One session encrypts a page twice alike: that pages are found again, but for those that the guest wrote to since,
    // proves the comparison.
    demand!(
        count("guest", "content") * 10 >= random * 9 && count("guest", "secret") == 0,
        "mapped as the guest's own: {report}"
    );
    let owners = report["owners"].as_object().context("owners")?;
    for owner in owners.keys().filter(|owner| *owner != "guest") {
        demand!(
            count(owner, "content") == 0,
            "a replica can be mapped as a page of {owner}: {report}"
        );
        // dom0 itself knows the secret's first words, as it looks for them.
        demand!(
            ["0x0", "0x7ff0"].contains(&owner.as_str()) || count(owner, "secret") == 0,
            "the secret can be seen in a page of {owner}: {report}"
        );
    }
    demand!(
        count("0x7ff0", "mapped") > 10_000,
        "dom0's own pages were not mapped: {report}"
    );
    dom0.await_alive(&mut guest)?;
    Ok(format!(
        "no held replica and no secret under another owner: {report}"
    ))
}

/// Patterns in registers, hunted for in every way dom0 has.
pub fn registers(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("regs").roles(&[Role::Regs]))?;
    let seen = registers_seen(dom0, &mut guest)?;
    demand!(
        seen.general == 0 && seen.vector == 0 && seen.xenctx == 0,
        "dom0 saw the pattern: {seen}"
    );
    dom0.save(&guest)?;
    let places = pattern::count(&dom0.take(&guest.image())?);
    demand!(places == 0, "the image shows the pattern in {places} places");
    // The guest compares all its registers after every spin, so a sign of life says that they came back.
    dom0.restore(&mut guest)?;
    Ok(format!("{seen}; nowhere in the image; intact after restore"))
}

/// How often dom0 saw the pattern.
#[derive(Debug)]
pub struct Seen {
    /// Calls of each kind.
    pub reads: u64,
    /// In a vCPU's context.
    pub general: u64,
    /// In its XSAVE state.
    pub vector: u64,
    /// In the output of `xenctx`.
    pub xenctx: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen {
            reads,
            general,
            vector,
            xenctx,
        } = self;
        write!(
            f,
            "pattern seen in {general} of {reads} contexts, {vector} of {reads} XSAVE states, {xenctx} times by xenctx"
        )
    }
}

/// Reads the guest's registers many times while it holds the pattern.
pub fn registers_seen(dom0: &mut Dom0, guest: &mut Guest) -> Result<Seen, Problem> {
    let domid = dom0.domid(guest)?;
    let report = dom0.attack(&format!("registers {domid} 400"), LONG)?;
    let context =
        format!("for try in 1 2 3 4 5 6 7 8; do /usr/lib/xen-4.20/bin/xenctx -a {domid}; done; true");
    let text = dom0.run(&context)?.all_text();
    // The varying half-word is the last four digits.
    let digits = &format!("{:016x}", pattern::general(0))[..12];
    dom0.await_alive(guest)?;
    Ok(Seen {
        reads: report["reads"].as_u64().context("reads")?,
        general: report["general"].as_u64().context("general")?,
        vector: report["vector"].as_u64().context("vector")?,
        xenctx: text.matches(digits).count(),
    })
}

/// Maps of what does not exist, and writable ones of what does.
pub fn bad_maps(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("mapped"))?;
    let domid = dom0.domid(&guest)?;
    // Beyond the machine's memory, at the end of what an entry can hold, Xen's own first frame, and somebody else's.
    let outcome = dom0.attack(&format!("map {domid} 8388607 68719476735 0 1 256"), SHORT)?;
    let answers: Vec<i64> = outcome
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, e)| e.as_i64())
        .collect();
    demand!(
        answers.len() == 5 && answers.iter().all(|errno| *errno > 0),
        "frames that are not the guest's: {outcome}"
    );
    let outcome = dom0.attack(&format!("map-writable {domid}"), LONG)?;
    let allowed = outcome["0"].as_u64().unwrap_or(0);
    // The console and the xenstore ring: dom0's daemons write into them, by foreign map where need be.
    demand!(
        allowed == 2,
        "{allowed} pages of a running guest could be mapped writable, not just the two rings: {outcome}"
    );
    dom0.await_alive(&mut guest)?;
    let noise = noise(dom0)?;
    Ok(format!(
        "five bad frames refused, nothing but the rings writable ({outcome}); {noise}; {}",
        cycle::cycle(dom0, &mut guest)?
    ))
}

/// Calls that would read, change or stop the guest behind its back.
pub fn bad_calls(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("called").roles(&[Role::Secret, Role::Regs]))?;
    let domid = dom0.domid(&guest)?;
    for attack in ["set-registers", "remote-suspend", "xsave-size"] {
        let arguments = if attack == "xsave-size" { " -8" } else { "" };
        let outcome = dom0.attack(&format!("{attack} {domid}{arguments}"), SHORT)?;
        demand!(
            outcome["errno"].as_i64() > Some(0),
            "{attack} was not refused: {outcome}"
        );
        dom0.await_alive(&mut guest)?;
    }
    let noise = noise(dom0)?;
    Ok(format!(
        "all refused; {noise}; {}",
        cycle::cycle(dom0, &mut guest)?
    ))
}

/// Refusals are told in Xen's log, each naming domain and cause, and not in a flood.
fn noise(dom0: &mut Dom0) -> Result<String, Problem> {
    let log = dom0.xen_log()?;
    let lines = log.lines().filter(|line| line.contains("VMCrypt: d")).count();
    demand!(lines > 0, "Xen's log does not mention any refusal");
    demand!(
        lines < 200,
        "{lines} lines in Xen's log: they are not rate-limited"
    );
    Ok(format!("{lines} log lines"))
}

/// dom0 empties the log of what the guest wrote, and does not map those pages again.
pub fn stale_export(dom0: &mut Dom0) -> Verdict {
    const EAGAIN: i64 = 11;
    let guest = dom0.create(Spec::new("stale").roles(&[Role::Secret, Role::Dirty]))?;
    let domid = dom0.domid(&guest)?;
    dom0.xen_log()?;
    let outcome = dom0.attack(&format!("stale-export {domid} 3"), LONG)?;
    demand!(
        outcome["stale"] == EAGAIN,
        "a record was given out of pages that the guest has changed: {outcome}"
    );
    demand!(
        outcome["whole"] == 0,
        "no record was given out of pages that the guest cannot change: {outcome}"
    );
    let log = dom0.xen_log()?;
    let said = log.lines().find(|line| line.contains("after its last export"));
    let said = said.context("Xen's log does not say why it gave no record")?;
    Ok(format!(
        "refused, and given once all pages were mapped again: {}",
        said.trim()
    ))
}

/// Maps that race with the end of the domain.
pub fn map_while_destroyed(dom0: &mut Dom0) -> Verdict {
    let mut other = dom0.create(Spec::new("bystander"))?;
    let mut rounds = 0;
    for _ in 0..2 {
        let guest = dom0.create(Spec::new("doomed"))?;
        let domid = dom0.domid(&guest)?;
        let race = format!(
            "vmcrypt-hostile map-storm {domid} 60 >/tmp/storm & storm=$!; \
             until [ -s /tmp/storm ]; do sleep 0.2; done; sleep 2; xl destroy doomed; \
             wait $storm; tail -n 1 /tmp/storm; rm /tmp/storm"
        );
        let storm: Value = serde_json::from_slice(&dom0.run_for(&race, LONG)?.stdout)?;
        rounds += storm["rounds"].as_u64().unwrap_or(0);
        let gone = "for try in $(seq 100); do [ $(xl list | wc -l) = 3 ] && exit 0; sleep 0.2; done; xl list; exit 1";
        dom0.must(gone, SHORT)?;
        dom0.run("rm -f /var/log/xen/console/guest-doomed*.log")?;
    }
    demand!(rounds > 0, "not a single round of maps was done");
    dom0.await_alive(&mut other)?;
    Ok(format!(
        "{rounds} rounds of maps during two destructions; no domain lingers, the bystander goes on"
    ))
}

/// A session that dom0 never lets end shows it which pages change: it has an end all the same.
pub fn wear_out(dom0: &mut Dom0) -> Verdict {
    let seen = dom0.attack("wear-out", Duration::from_secs(900))?;
    let count = |of: &str, errno: &str| seen[of][errno].as_u64().unwrap_or(0);
    let pages = seen["pages"].as_u64().context("the guest's pages")?;
    demand!(count("errnos", "16") > 0, "no map was refused: {seen}");
    let exports = count("errnos", "0");
    // What is live, rings and Xen's own frames, is mapped all the same: a few pages, in each round.
    demand!(
        (7 * pages..=session_limit(pages) + 1000).contains(&exports),
        "{exports} maps of {pages} pages: {seen}"
    );
    demand!(
        count("while_held", "0") < 16 && count("while_held", "16") > pages / 2,
        "what is held lets others be mapped: {seen}"
    );
    demand!(
        count("after", "16") == 0 && count("after", "0") == pages,
        "no new session: {seen}"
    );
    demand!(seen["damage"].is_null(), "the guest: {}", seen["damage"]);
    Ok(format!(
        "{exports} maps of {pages} pages, then -EBUSY; all again when nothing was held"
    ))
}

/// Holds more pages than there are replicas.
pub fn pool(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("pool"))?;
    let domid = dom0.domid(&guest)?;
    let before = dom0.status(&guest)?;
    let frames = before["host"]["pool"]["frames"]
        .as_u64()
        .context("the pool's size")?;
    let hold = format!("timeout 120 vmcrypt-hostile hold {domid} {} 2", frames + 2048);
    let text = dom0.must(&hold, Duration::from_secs(150))?.text();
    let held: Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
    const ENOMEM: &str = "12";
    demand!(
        held[ENOMEM].as_u64().unwrap_or(0) > 0,
        "no map was refused for want of a replica: {held}"
    );
    let after = dom0.status(&guest)?;
    let exhausted = after["host"]["pool"]["exhausted"].as_u64().unwrap_or(0);
    demand!(
        exhausted > 0,
        "the status counts no exhaustion: {}",
        after["host"]
    );
    demand!(
        after["host"]["pool"]["free"] == before["host"]["pool"]["free"],
        "replicas leak: {}",
        after["host"]
    );
    dom0.await_alive(&mut guest)?;
    Ok(format!(
        "pool of {frames}: {held}, all free again; {}",
        cycle::cycle(dom0, &mut guest)?
    ))
}
