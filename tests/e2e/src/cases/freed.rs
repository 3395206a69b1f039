//! Pages that a running guest gives back.

use crate::case::{Problem, Verdict, demand};
use crate::cases::attack::swept_lines;
use crate::dom0::{Dom0, SHORT};
use crate::guest::Spec;
use anyhow::Context;
use serde_json::Value;
use vmcrypt_guest::Role;

/// They are empty when dom0 gets them.
pub fn freed(dom0: &mut Dom0) -> Verdict {
    let (lines, what) = inherited(dom0)?;
    demand!(
        lines == 0,
        "{lines} lines of the secret are in freed pages; {what}"
    );
    Ok(what)
}

/// They are as the guest left them.
pub fn canary(dom0: &mut Dom0) -> Verdict {
    let (lines, what) = inherited(dom0)?;
    demand!(
        lines > 10_000,
        "only {lines} lines of the secret are in pages that a stock guest freed; {what}"
    );
    Ok(what)
}

/// A new guest is built of nearly all free memory, and read by dom0, which may still map all of it.
fn inherited(dom0: &mut Dom0) -> Result<(u64, String), Problem> {
    // A kernel that does not clear pages itself when it takes them or gives them back: nothing obliges it to.
    let spec = Spec::main("spilt")
        .roles(&[Role::Spill])
        .arguments("init_on_alloc=0 init_on_free=0 xen_scrub_pages=0");
    let mut guest = dom0.create(spec)?;
    dom0.run("xl mem-set spilt 110m")?;
    let reached = "for try in $(seq 200); do [ $(xl list spilt | awk 'NR == 2 { print $3 }') -le 112 ] && exit 0; \
                   sleep 0.2; done; xl list; exit 1";
    dom0.must(reached, SHORT)?;
    let free = dom0.run("xl info free_memory")?.text();
    let free: u32 = free.trim().parse().context("xl info free_memory")?;
    // Xen needs some for itself: shadow and page tables, its own structures.
    let size = free.saturating_sub(free / 16 + 32);
    let heir = dom0.create_paused(Spec::new("heir").memory_mib(size))?;
    let report: Value = dom0.sweep(&heir)?;
    let lines = swept_lines(&report)?;
    let mapped = report["mapped"].as_u64().unwrap_or(0);
    demand!(
        mapped > u64::from(size) * 250,
        "only {mapped} pages of the new guest could be read: {report}"
    );
    dom0.run("xl destroy heir")?;
    dom0.await_alive(&mut guest)?;
    let what =
        format!("{lines} lines of the secret on {mapped} pages of a new guest of {size} of {free} free MiB");
    Ok((lines, what))
}
