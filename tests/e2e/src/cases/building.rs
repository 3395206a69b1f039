//! What dom0 prepares in a guest before its first unpause, to profit from it later.

use crate::case::{Verdict, demand};
use crate::dom0::{Dom0, LONG};
use crate::guest::Spec;

/// EBUSY: `still-mapped`.
const BUSY: i64 = 16;
/// What Xen's log says of it.
const STILL_MAPPED: &str = "still mapped";

/// Maps and grants that would survive the first unpause.
pub fn maps_over_unpause(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create_paused(Spec::new("held"))?;
    let domid = dom0.domid(&guest)?;
    let mut refused = Vec::new();
    for attack in [
        "maps-over-unpause {} data 0",
        "maps-over-unpause {} all-data 0",
        "maps-over-unpause {} page-table 0",
        "maps-over-unpause {} shared-info 0",
        "forge-grant {} 0",
        "use-grant {} 0",
    ] {
        dom0.xen_log()?;
        let attack = attack.replace("{}", &domid.to_string());
        let answer = dom0.attack(&attack, LONG)?;
        demand!(
            answer["errno"] == BUSY,
            "{attack}: the unpause should have been refused: {answer}"
        );
        let log = dom0.xen_log()?;
        demand!(
            log.contains(STILL_MAPPED),
            "{attack}: Xen's log does not say why: {log}"
        );
        refused.push(attack.replace(&format!(" {domid}"), "").replace(" 0", ""));
    }
    dom0.start(&mut guest)?;
    Ok(format!(
        "unpause refused after {}; without any of it the guest lives",
        refused.join(", ")
    ))
}

/// A ring is not where dom0 likes.
pub fn ring_place(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create_paused(Spec::new("ringed"))?;
    let domid = dom0.domid(&guest)?;
    for ring in ["console", "store"] {
        dom0.xen_log()?;
        let answer = dom0.attack(&format!("forge-ring {domid} {ring}"), LONG)?;
        demand!(
            answer["errno"].as_i64() > Some(0),
            "a free page was accepted as the {ring} ring: {answer}"
        );
        let log = dom0.xen_log()?;
        demand!(
            log.contains("names a ring page"),
            "Xen's log does not say why: {log}"
        );
    }
    dom0.start(&mut guest)?;
    Ok("a free page as console ring and as xenstore ring: unpause refused; with the right ones the guest lives".into())
}

/// A context that Xen refuses, and that leaves a vCPU in a mode for which it has no page tables: it would run on those at
/// frame 0. On stock Xen the machine dies of it, so there is no control.
pub fn vcpu_mode(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create_paused(Spec::new("moded"))?;
    let domid = dom0.domid(&guest)?;
    dom0.xen_log()?;
    let answer = dom0.attack(&format!("vcpu-mode {domid}"), LONG)?;
    demand!(
        answer["context"].as_i64() > Some(0) && answer["errno"].as_i64() > Some(0),
        "the context and the unpause should both have been refused: {answer}"
    );
    let log = dom0.xen_log()?;
    demand!(log.contains("vCPU"), "Xen's log does not say why: {log}");
    dom0.start(&mut guest)?;
    Ok(format!(
        "unpause refused: {answer}; with the right context the guest lives"
    ))
}
