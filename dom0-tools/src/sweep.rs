//! A guest's memory as a curious administrator of dom0 sees it.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::content::{Content, PAGE};
use crate::hypercall::{Error, Privcmd};
use crate::map::{Dot, MemoryMap};
use crate::needle::{Needles, Search, Tally};
use crate::pv;
use crate::xen::{self, BATCH, Domain, Frame, PageType};

/// Result of a sweep.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Frames that were tried to be mapped.
    pub frames_tried: u64,
    /// Frames that could be mapped and were read.
    pub mapped: u64,
    /// Pages that Xen says are the guest's and that could not be mapped, by errno.
    pub refused: BTreeMap<i32, u64>,
    /// Pages that look random.
    pub random: u64,
    /// Page tables.
    pub page_tables: u64,
    /// In clear, every entry a frame of this guest's or none: P2M.
    pub p2m: u64,
    /// GDT frames of a vCPU, in clear.
    pub descriptor: u64,
    /// `start_info`, in clear.
    pub start_info: u64,
    /// Console and xenstore ring, in clear.
    pub ring: u64,
    /// Pages that Xen allocated for the guest: `shared_info`, grant table. Only if every frame is tried.
    pub xen: u64,
    /// Pages of zero bytes.
    pub zero: u64,
    /// Pages with other content in clear.
    pub other: u64,
    /// Pages with a needle.
    pub with_needle: u64,
    /// First of them.
    pub first_frames: Vec<Frame>,
    /// First pages with other content in clear.
    pub first_other: Vec<Frame>,
    /// What was searched for, and found.
    pub needles: Tally,
    /// The guest's pages, in the order in which it counts them.
    #[serde(serialize_with = "as_runs")]
    pub map: MemoryMap,
}

fn as_runs<S: serde::Serializer>(map: &MemoryMap, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&map.to_runs())
}

/// How to sweep.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Ask for writable maps. Nothing is written.
    pub writable: bool,
    /// Try every frame of the machine as the guest's, not only those that its P2M table names.
    ///
    /// This is the strongest attack by maps alone, as it trusts no table, and finds the pages that Xen allocated for
    /// the guest too. It is slow, and Xen may log each frame that is not the guest's.
    pub every_frame: bool,
}

/// Maps the guest's frames and reads what it gets. `progress` is told how many frames are done, and of how many.
pub fn sweep(
    xen: &Privcmd,
    domain: &Domain,
    needles: &Needles,
    manner: Manner,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Error> {
    let listed: Vec<Frame> = xen::frames(xen, domain)?.into_iter().flatten().collect();
    let known = Known::ask(xen, domain, &listed);
    let frames: Vec<Frame> = match manner.every_frame {
        true => (0..xen::frame_limit(xen, domain)?).map(Frame).collect(),
        false => listed
            .into_iter()
            .filter(|&frame| known.kind(frame) != PageType::Invalid)
            .collect(),
    };
    let mut report = Report::default();
    let mut search = Search::new(needles);
    let mut rings = xen::rings(domain.id);
    let mut seen = Vec::new();
    for batch in frames.chunks(BATCH) {
        progress(report.frames_tried, frames.len() as u64);
        let map = xen.map_foreign(domain.id, batch, manner.writable)?;
        report.frames_tried += batch.len() as u64;
        for (i, &frame) in batch.iter().enumerate() {
            let Some(page) = map.page(i) else {
                if let (Some(errno), true) = (map.refusal(i), known.kind(frame) != PageType::Invalid) {
                    *report.refused.entry(errno).or_default() += 1;
                    seen.push((frame, Class::Refused, 0));
                }
                continue;
            };
            // Frames that follow each other in the machine do not do so in the guest.
            search.cut();
            let hits = search.feed(&page);
            let class = known.judge(frame, &page);
            if class == Class::StartInfo {
                rings.extend(pv::rings(&page).map(Frame));
            }
            seen.push((frame, class, hits));
        }
    }

    for (frame, class, hits) in seen {
        let ring = matches!(class, Class::Other | Class::Zero) && rings.contains(&frame);
        report.count(frame, if ring { Class::Ring } else { class }, hits > 0);
    }
    report.needles = search.tally();
    Ok(report)
}

impl Report {
    fn count(&mut self, frame: Frame, class: Class, hit: bool) {
        let (counter, dot) = match class {
            Class::Refused => return self.map.0.push(Dot::Absent),
            Class::Random => (&mut self.random, Dot::Private),
            Class::PageTable => (&mut self.page_tables, Dot::PageTable),
            Class::P2m => (&mut self.p2m, Dot::Known),
            Class::Descriptor => (&mut self.descriptor, Dot::Known),
            Class::StartInfo => (&mut self.start_info, Dot::Known),
            Class::Ring => (&mut self.ring, Dot::Known),
            Class::Xen => (&mut self.xen, Dot::Known),
            Class::Zero => (&mut self.zero, Dot::Zero),
            Class::Other => (&mut self.other, Dot::Plain),
        };
        *counter += 1;
        self.mapped += 1;
        if class == Class::Other && self.first_other.len() < FIRST {
            self.first_other.push(frame);
        }
        if hit {
            self.with_needle += 1;
            if self.first_frames.len() < FIRST {
                self.first_frames.push(frame);
            }
        }
        self.map.0.push(if hit { Dot::Needle } else { dot });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Refused,
    Random,
    PageTable,
    P2m,
    Descriptor,
    StartInfo,
    Ring,
    Xen,
    Zero,
    Other,
}

/// What Xen tells about the guest's frames. A hypervisor that keeps it to itself is swept all the same.
struct Known {
    pv: bool,
    kinds: HashMap<Frame, PageType>,
    descriptors: Vec<Frame>,
}

impl Known {
    fn ask(xen: &Privcmd, domain: &Domain, frames: &[Frame]) -> Self {
        let mut kinds = HashMap::new();
        for batch in frames.chunks(BATCH) {
            let types = xen::page_types(xen, domain.id, batch);
            let types = types.unwrap_or_else(|_| vec![PageType::Unknown; batch.len()]);
            kinds.extend(batch.iter().copied().zip(types));
        }
        let pv = !domain.hvm;
        let vcpus = if pv { domain.vcpus } else { 0 };
        let descriptors = (0..vcpus)
            .filter_map(|vcpu| xen::vcpu_context(xen, domain.id, vcpu).ok())
            .flat_map(|context| pv::gdt_frames(&context))
            .map(Frame)
            .collect();
        Self {
            pv,
            kinds,
            descriptors,
        }
    }

    fn kind(&self, frame: Frame) -> PageType {
        self.kinds.get(&frame).copied().unwrap_or(PageType::Invalid)
    }

    fn judge(&self, frame: Frame, page: &[u8; PAGE]) -> Class {
        let owned = |number| matches!(self.kind(Frame(number)), PageType::Data | PageType::PageTable(_));
        match (self.kind(frame), Content::of(page)) {
            (PageType::PageTable(_), _) => Class::PageTable,
            // Mapped, although Xen lists no such page of the guest's: one of its own.
            (PageType::Invalid, _) => Class::Xen,
            (_, Content::Random) => Class::Random,
            _ if self.descriptors.contains(&frame) => Class::Descriptor,
            (_, Content::Zero) => Class::Zero,
            (_, Content::Plain) if !self.pv => Class::Other,
            (_, Content::Plain) if pv::is_start_info(page) => Class::StartInfo,
            (_, Content::Plain) if pv::is_p2m(page, owned) => Class::P2m,
            (_, Content::Plain) => Class::Other,
        }
    }
}

/// Frames that are named one by one.
const FIRST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_in_clear_are_explained_or_not() {
        let mut kinds: HashMap<Frame, PageType> = (0..1000).map(|n| (Frame(n), PageType::Data)).collect();
        kinds.insert(Frame(5), PageType::PageTable(1));
        kinds.insert(Frame(6), PageType::Invalid);
        let known = Known {
            pv: true,
            kinds,
            descriptors: vec![Frame(7)],
        };
        let mut text = [b' '; PAGE];
        text[..6].copy_from_slice(b"secret");
        let mut p2m = [0xff; PAGE];
        p2m[..8].copy_from_slice(&999u64.to_le_bytes());
        assert_eq!(known.judge(Frame(1), &text), Class::Other);
        assert_eq!(known.judge(Frame(1), &[0; PAGE]), Class::Zero);
        assert_eq!(known.judge(Frame(1), &p2m), Class::P2m);
        p2m[..8].copy_from_slice(&1000u64.to_le_bytes());
        assert_eq!(
            known.judge(Frame(1), &p2m),
            Class::Other,
            "an entry that is not the guest's"
        );
        assert_eq!(known.judge(Frame(5), &text), Class::PageTable);
        assert_eq!(known.judge(Frame(6), &text), Class::Xen);
        assert_eq!(known.judge(Frame(7), &text), Class::Descriptor);
        assert_eq!(known.judge(Frame(u64::MAX), &text), Class::Xen);
    }

    #[test]
    fn a_needle_shows_on_the_map() {
        let mut report = Report::default();
        report.count(Frame(3), Class::Other, true);
        report.count(Frame(4), Class::Random, false);
        report.count(Frame(5), Class::Refused, false);
        assert_eq!(
            (report.mapped, report.other, report.random, report.with_needle),
            (2, 1, 1, 1)
        );
        assert_eq!(report.map.to_runs(), "1n1r1a");
    }
}
