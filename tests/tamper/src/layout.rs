//! What a save image consists of: every byte of it belongs to one part, every page to one class.

use crate::stream::{Page, Stream, kind};
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::ops::Range;

/// A header or record.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is; unique but for batches of pages.
    pub class: String,
    /// All of it.
    pub whole: Range<usize>,
    /// Without its header and padding; the same for what has neither.
    pub body: Range<usize>,
    /// Whether type and length stand before it.
    pub record: bool,
}

/// What a page is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageClass {
    /// Nobody's but the guest's.
    Private,
    /// Page tables.
    Table(u8),
    /// The GDT.
    Gdt,
    /// The LDT.
    Ldt,
    /// `start_info`.
    StartInfo,
    /// The console's ring.
    ConsoleRing,
    /// xenstore's ring.
    StoreRing,
    /// A leaf of the P2M.
    P2m,
}

impl PageClass {
    /// Every class that an image of the tiny kernel has.
    pub const ALL: [PageClass; 11] = [
        PageClass::Private,
        PageClass::Table(1),
        PageClass::Table(2),
        PageClass::Table(3),
        PageClass::Table(4),
        PageClass::Gdt,
        PageClass::Ldt,
        PageClass::StartInfo,
        PageClass::ConsoleRing,
        PageClass::StoreRing,
        PageClass::P2m,
    ];

    /// Its name in reports.
    pub fn name(self) -> String {
        match self {
            PageClass::Private => "private page".into(),
            PageClass::Table(level) => format!("L{level} table"),
            PageClass::Gdt => "GDT".into(),
            PageClass::Ldt => "LDT".into(),
            PageClass::StartInfo => "start_info".into(),
            PageClass::ConsoleRing => "console ring".into(),
            PageClass::StoreRing => "xenstore ring".into(),
            PageClass::P2m => "P2M leaf".into(),
        }
    }
}

/// Adds what is no record, and gives its end.
fn header(parts: &mut Vec<Part>, at: usize, class: &str, length: usize) -> usize {
    let end = at + length;
    parts.push(Part {
        class: class.into(),
        body: at..end,
        whole: at..end,
        record: false,
    });
    end
}

/// All parts, in order and without a gap.
pub fn parts(stream: &Stream) -> Result<Vec<Part>> {
    const XL_HEADER: usize = 48;
    let bytes = &stream.bytes;
    let mut parts = Vec::new();
    let optional = word(bytes, XL_HEADER - 4)? as usize;
    let at = header(&mut parts, 0, "xl header", XL_HEADER);
    let at = header(&mut parts, at, "xl configuration", optional);
    let first = header(&mut parts, at, "libxl header", 16);
    ensure!(
        word(bytes, first)? == 1,
        "libxl's first record is not libxc's stream"
    );
    let context = record(bytes, first, "libxl LIBXC_CONTEXT")?;
    let at = context.whole.end;
    parts.push(context);
    let at = header(&mut parts, at, "libxc image header", 24);
    let at = header(&mut parts, at, "libxc domain header", 16);
    ensure!(
        Some(at) == stream.records.first().map(|record| record.whole.start),
        "libxc's records are elsewhere"
    );
    for one in &stream.records {
        parts.push(Part {
            class: record_class(stream, one.kind, one.body.start),
            whole: one.whole.clone(),
            body: one.body.clone(),
            record: true,
        });
    }
    let mut at = stream.records.last().context("no record")?.whole.end;
    while at < bytes.len() {
        let class = match word(bytes, at)? {
            0 => "libxl END".into(),
            2 => "libxl EMULATOR_XENSTORE_DATA".into(),
            3 => "libxl EMULATOR_CONTEXT".into(),
            other => format!("libxl record {other}"),
        };
        let part = record(bytes, at, &class)?;
        at = part.whole.end;
        parts.push(part);
    }
    Ok(parts)
}

fn record_class(stream: &Stream, number: u32, body: usize) -> String {
    let vcpu = || word(&stream.bytes, body).unwrap_or(0);
    match number {
        kind::END => "END".into(),
        kind::PAGE_DATA => "PAGE_DATA".into(),
        2 => "X86_PV_INFO".into(),
        kind::P2M_FRAMES => "X86_PV_P2M_FRAMES".into(),
        kind::VCPU_BASIC => format!("vCPU {} BASIC", vcpu()),
        5 => format!("vCPU {} EXTENDED", vcpu()),
        kind::VCPU_XSAVE if vcpu() == 0 => "sealed record".into(),
        kind::VCPU_XSAVE => format!("vCPU {} XSAVE", vcpu()),
        7 => "SHARED_INFO".into(),
        8 => "X86_TSC_INFO".into(),
        12 => format!("vCPU {} MSRS", vcpu()),
        13 => "VERIFY".into(),
        16 => "STATIC_DATA_END".into(),
        17 => "X86_CPUID_POLICY".into(),
        18 => "X86_MSR_POLICY".into(),
        other => format!("libxc record {other}"),
    }
}

/// Every page with content, and what it is.
pub fn pages(stream: &Stream) -> Result<Vec<(PageClass, Page)>> {
    let all = stream.pages()?;
    let by_pfn: HashMap<u64, Page> = all.iter().map(|page| (page.pfn, *page)).collect();
    let entry = |pfn: u64, place: u64| -> Option<u64> {
        let content = stream.content(*by_pfn.get(&pfn)?);
        long(content, 8 * place as usize).ok()
    };
    // Registers and structures: `struct vcpu_guest_context` and `struct start_info` (public/xen.h).
    const LDT_BASE: usize = 4816;
    const CR3: usize = 4984 + 3 * 8;
    const STORE: u64 = 56 / 8;
    const CONSOLE: u64 = 72 / 8;
    let context = stream.first(kind::VCPU_BASIC)?.body.start + 8;
    let frames = stream.vcpu_context(0)?;
    let ldt = walk(
        long(&stream.bytes, context + CR3)? >> 12,
        long(&stream.bytes, context + LDT_BASE)?,
        entry,
    );
    let mut special = HashMap::from([
        (frames.start_info, PageClass::StartInfo),
        (frames.gdt_frame, PageClass::Gdt),
    ]);
    special.extend(ldt.map(|pfn| (pfn, PageClass::Ldt)));
    special.extend(entry(frames.start_info, STORE).map(|pfn| (pfn, PageClass::StoreRing)));
    special.extend(entry(frames.start_info, CONSOLE).map(|pfn| (pfn, PageClass::ConsoleRing)));
    let p2m = stream.first(kind::P2M_FRAMES)?.body;
    for at in (p2m.start + 8..p2m.end).step_by(8) {
        special.insert(long(&stream.bytes, at)?, PageClass::P2m);
    }
    Ok(all
        .into_iter()
        .map(|page| {
            let class = match page.class & 7 {
                level @ 1..=4 => PageClass::Table(level),
                _ => special.get(&page.pfn).copied().unwrap_or(PageClass::Private),
            };
            (class, page)
        })
        .collect())
}

/// Where an address leads to in page tables that hold PFNs.
fn walk(root: u64, address: u64, entry: impl Fn(u64, u64) -> Option<u64>) -> Option<u64> {
    [39, 30, 21, 12].into_iter().try_fold(root, |pfn, shift| {
        let entry = entry(pfn, address >> shift & 511)?;
        (entry & 1 != 0).then_some(entry >> 12 & ((1 << 40) - 1))
    })
}

fn record(bytes: &[u8], at: usize, class: &str) -> Result<Part> {
    let length = word(bytes, at + 4)? as usize;
    Ok(Part {
        class: class.into(),
        whole: at..at + 8 + length.next_multiple_of(8),
        body: at + 8..at + 8 + length,
        record: true,
    })
}

pub(crate) fn long(bytes: &[u8], at: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + 8).context("the image ends early")?;
    Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..at + 4).context("the image ends early")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
