//! A guest's memory as a curious administrator of dom0 sees it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::content::Content;
use crate::hypercall::{Error, Privcmd};
use crate::map::{Dot, MemoryMap};
use crate::needle::{Needles, Search, Tally};
use crate::xen::{self, BATCH, Domain, Frame, PageType};

/// Result of a sweep.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Frames that were tried.
    pub frames_tried: u64,
    /// Frames that could be mapped and were read.
    pub mapped: u64,
    /// Pages that Xen says are the guest's and that could not be mapped, by errno.
    pub refused: BTreeMap<i32, u64>,
    /// Pages that look random.
    pub random: u64,
    /// Page tables.
    pub page_tables: u64,
    /// Pages of zero bytes.
    pub zero: u64,
    /// Pages with other content in clear.
    pub other: u64,
    /// Pages with a needle.
    pub with_needle: u64,
    /// First of them.
    pub first_frames: Vec<Frame>,
    /// What was searched for, and found.
    pub needles: Tally,
    /// The guest's pages in the order of their frames.
    #[serde(serialize_with = "as_runs")]
    pub map: MemoryMap,
}

fn as_runs<S: serde::Serializer>(map: &MemoryMap, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&map.to_runs())
}

/// Tries to map every frame of the machine as the guest's, and reads what it gets.
///
/// This is the strongest attack by maps alone: it trusts no table to tell which pages the guest has. `progress` is
/// told how many frames were tried.
pub fn sweep(
    xen: &Privcmd,
    domain: &Domain,
    limit: u64,
    needles: &Needles,
    writable: bool,
    mut progress: impl FnMut(u64),
) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut search = Search::new(needles);
    let frames: Vec<Frame> = (0..limit).map(Frame).collect();
    for batch in frames.chunks(BATCH) {
        // Types only colour the report; a hypervisor that keeps them to itself is swept all the same.
        let types = xen::page_types(xen, domain.id, batch).unwrap_or_default();
        let map = xen.map_foreign(domain.id, batch, writable)?;
        for (i, &frame) in batch.iter().enumerate() {
            let kind = types.get(i).copied().unwrap_or(PageType::Invalid);
            let Some(page) = map.page(i) else {
                if let (Some(errno), PageType::Data | PageType::PageTable(_)) = (map.refusal(i), kind) {
                    *report.refused.entry(errno).or_default() += 1;
                    report.map.0.push(Dot::Absent);
                }
                continue;
            };
            // Frames that follow each other in the machine do not do so in the guest.
            search.cut();
            let hits = search.feed(&page);
            report.mapped += 1;
            let (counter, mut dot) = match (kind, Content::of(&page)) {
                (PageType::PageTable(_), _) => (&mut report.page_tables, Dot::PageTable),
                (_, Content::Random) => (&mut report.random, Dot::Private),
                (_, Content::Zero) => (&mut report.zero, Dot::Zero),
                (_, Content::Plain) => (&mut report.other, Dot::Plain),
            };
            *counter += 1;
            if hits > 0 {
                dot = Dot::Needle;
                report.with_needle += 1;
                if report.first_frames.len() < FIRST {
                    report.first_frames.push(frame);
                }
            }
            report.map.0.push(dot);
        }
        report.frames_tried += batch.len() as u64;
        progress(report.frames_tried);
    }
    report.needles = search.tally();
    Ok(report)
}

/// Frames with hits that are named one by one.
const FIRST: usize = 16;
