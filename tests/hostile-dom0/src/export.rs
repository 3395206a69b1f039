//! A save that leaves out what the guest wrote last.

use crate::calls::errno;
use crate::frames::{find, owned_frames};
use crate::registers::get_xsave;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_tools::hypercall::{Error, Privcmd};
use vmcrypt_tools::xen::{self, DomId, Frame, HYPERVISOR_DOMCTL, domctl};

/// Maps every page of a running guest, lets it write for a while, empties the log of what it wrote without looking, has
/// it suspend, and asks for the record; then once more after every page was mapped again.
pub fn stale(xen: &Privcmd, domain: DomId, writing: Duration) -> Result<Value> {
    log_dirty(xen, domain, ENABLE_LOGDIRTY, 0)?;
    // Where tools that save look for the P2M: Xen holds them to what was there.
    drop(xen.map_foreign(domain, &[find(xen, domain)?.shared_info], false)?);
    let frames = owned_frames(xen, domain)?;
    map_all(xen, domain, &frames)?;
    sleep(writing);
    log_dirty(xen, domain, CLEAN, frames.len() as u64 * 2)?;
    suspend(xen, domain)?;
    let stale = errno(get_xsave(xen, domain).map(drop))?;
    map_all(xen, domain, &frames)?;
    let whole = errno(get_xsave(xen, domain).map(drop))?;
    Ok(json!({ "stale": stale["errno"], "whole": whole["errno"] }))
}

/// Maps every page of a suspended guest that was saved before, and takes another record of that suspend.
pub fn another_record(xen: &Privcmd, domain: DomId, file: &Path) -> Result<Value> {
    // xl ended the log of writes with its save: what was exported before counts no more.
    map_all(xen, domain, &owned_frames(xen, domain)?)?;
    let record = get_xsave(xen, domain);
    if let Ok(record) = &record {
        std::fs::write(file, record)?;
    }
    errno(record.map(drop))
}

fn map_all(xen: &Privcmd, domain: DomId, frames: &[Frame]) -> Result<()> {
    for batch in frames.chunks(xen::BATCH) {
        let map = xen.map_foreign(domain, batch, false)?;
        for i in 0..batch.len() {
            ensure!(map.refusal(i).is_none(), "a page could not be mapped");
        }
    }
    Ok(())
}

fn log_dirty(xen: &Privcmd, domain: DomId, op: u32, pages: u64) -> Result<()> {
    let mut call = domctl(xen, SHADOW_OP, domain)?;
    call.put(domctl::BODY, op);
    call.put(domctl::BODY + 24, pages);
    xen.call("log-dirty", HYPERVISOR_DOMCTL, &[call.address()])?;
    Ok(())
}

/// As libxl ends a save that failed.
pub fn resume(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    let call = domctl(xen, RESUME, domain)?;
    xen.call("resume", HYPERVISOR_DOMCTL, &[call.address()]).map(drop)
}

/// As `xl save` does it.
fn suspend(xen: &Privcmd, domain: DomId) -> Result<()> {
    let node = format!("/local/domain/{}/control/shutdown", domain.0);
    let wrote = Command::new("xenstore-write").args([&node, "suspend"]).status()?;
    ensure!(wrote.success(), "{node} could not be written");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let domains = xen::domains(xen)?;
        let one = domains.iter().find(|one| one.id == domain);
        if one.context("the guest is gone")?.state == "shut down" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the guest does not suspend");
        sleep(Duration::from_millis(200));
    }
}

// `xen/include/public/domctl.h` of Xen 4.20.
const SHADOW_OP: u32 = 10;
const RESUME: u32 = 27;
const ENABLE_LOGDIRTY: u32 = 2;
const CLEAN: u32 = 11;
