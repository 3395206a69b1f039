//! Save images taken apart, so that a case can change exactly what it means to change.
//!
//! Layout: Xen's `docs/specs/libxc-migration-stream.pandoc` and `libxl-migration-stream.pandoc`, and the header that
//! `xl` writes before them.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::ops::Range;

/// Record types of the libxc stream.
pub mod kind {
    /// End of the stream.
    pub const END: u32 = 0;
    /// Pages.
    pub const PAGE_DATA: u32 = 1;
    /// Where the P2M is.
    pub const P2M_FRAMES: u32 = 3;
    /// A vCPU's registers.
    pub const VCPU_BASIC: u32 = 4;
    /// A vCPU's XSAVE state, and in the first one VMCrypt's sealed record.
    pub const VCPU_XSAVE: u32 = 6;
}

/// A record of the libxc stream.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its type.
    pub kind: u32,
    /// Header, body and padding.
    pub whole: Range<usize>,
    /// Body alone.
    pub body: Range<usize>,
}

/// A page in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The guest's number for it.
    pub pfn: u64,
    /// Type bits: 0 for data, 1 to 4 for page tables, 9 to 12 for pinned ones.
    pub class: u8,
    /// Where its PFN and type stand, in eight bytes.
    pub entry: usize,
    /// Where its 4,096 bytes begin.
    pub at: usize,
}

/// PFNs that a vCPU's register record names.
#[derive(Clone, Copy, Debug)]
pub struct VcpuFrames {
    /// `start_info`, in vCPU 0 alone.
    pub start_info: u64,
    /// First page of the GDT.
    pub gdt_frame: u64,
}

/// An image in memory.
#[derive(Clone)]
pub struct Stream {
    /// The file.
    pub bytes: Vec<u8>,
    /// Records of its libxc part.
    pub records: Vec<Record>,
}

const PAGE: usize = 4096;

impl Stream {
    /// Takes an image apart.
    pub fn parse(bytes: Vec<u8>) -> Result<Stream> {
        const MARKER: [u8; 12] = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, b'X', b'E', b'N', b'F',
        ];
        ensure!(
            bytes.starts_with(b"Xen saved domain, xl format"),
            "not an image of xl's"
        );
        // xl's and libxl's headers come first; their text cannot hold the marker.
        let head = &bytes[..bytes.len().min(1 << 20)];
        let start = head
            .windows(12)
            .position(|w| w == MARKER)
            .context("no libxc stream in the image")?;
        let mut at = start + 24 + 16;
        let mut records = Vec::new();
        loop {
            let (kind, length) = (word(&bytes, at)?, word(&bytes, at + 4)? as usize);
            let body = at + 8..at + 8 + length;
            let whole = at..at + 8 + length.next_multiple_of(8);
            ensure!(whole.end <= bytes.len(), "a record reaches beyond the end");
            at = whole.end;
            records.push(Record { kind, whole, body });
            if kind == kind::END {
                return Ok(Stream { bytes, records });
            }
        }
    }

    /// Records of one type.
    pub fn of_kind(&self, kind: u32) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.kind == kind)
    }

    /// The first record of a type.
    pub fn first(&self, kind: u32) -> Result<Record> {
        self.of_kind(kind)
            .next()
            .cloned()
            .with_context(|| format!("no record of type {kind}"))
    }

    /// All pages with content.
    pub fn pages(&self) -> Result<Vec<Page>> {
        let mut pages = Vec::new();
        for record in self.of_kind(kind::PAGE_DATA) {
            let count = word(&self.bytes, record.body.start)? as usize;
            let mut at = record.body.start + 8 + 8 * count;
            for i in 0..count {
                let place = record.body.start + 8 + 8 * i;
                let entry = long(&self.bytes, place)?;
                let class = (entry >> 60) as u8;
                if class >= 13 {
                    continue;
                }
                pages.push(Page {
                    pfn: entry & ((1 << 52) - 1),
                    class,
                    entry: place,
                    at,
                });
                at += PAGE;
            }
            if at != record.body.end {
                bail!("a batch of pages has another length than it says");
            }
        }
        Ok(pages)
    }

    /// What vCPU `id`'s register record names.
    pub fn vcpu_context(&self, id: u32) -> Result<VcpuFrames> {
        // Header of the record, then `struct vcpu_guest_context` of public/arch-x86/xen.h.
        const RDX: usize = 8 + 520 + 12 * 8;
        const GDT_FRAMES: usize = 8 + 4832;
        let record = self
            .of_kind(kind::VCPU_BASIC)
            .find(|record| word(&self.bytes, record.body.start).ok() == Some(id))
            .with_context(|| format!("no registers of vCPU {id} in the image"))?;
        Ok(VcpuFrames {
            start_info: long(&self.bytes, record.body.start + RDX)?,
            gdt_frame: long(&self.bytes, record.body.start + GDT_FRAMES)?,
        })
    }

    /// The content of a page.
    pub fn content(&self, page: Page) -> &[u8] {
        &self.bytes[page.at..page.at + PAGE]
    }

    /// The same image with one bit changed.
    pub fn with_flipped_bit(&self, at: usize, bit: u8) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at] ^= 1 << bit;
        bytes
    }

    /// The same image with another type for a page.
    pub fn with_class(&self, page: Page, class: u8) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let entry = page.pfn | u64::from(class) << 60;
        bytes[page.entry..page.entry + 8].copy_from_slice(&entry.to_le_bytes());
        bytes
    }

    /// The same image with a record replaced by other bytes, which may be none.
    pub fn with_replaced(&self, record: &Record, by: &[u8]) -> Vec<u8> {
        [
            &self.bytes[..record.whole.start],
            by,
            &self.bytes[record.whole.end..],
        ]
        .concat()
    }

    /// A record as it stands in the file.
    pub fn raw(&self, record: &Record) -> &[u8] {
        &self.bytes[record.whole.clone()]
    }

    /// A record's type and another body, as it would stand in a file.
    pub fn encode(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

/// Of the pages that both images hold: how many are equal, and how many there are.
pub fn equal_pages(a: &Stream, b: &Stream) -> Result<(usize, usize)> {
    let in_a: HashMap<u64, Page> = a.pages()?.into_iter().map(|page| (page.pfn, page)).collect();
    let mut both = 0;
    let mut equal = 0;
    for page in b.pages()? {
        // Page tables are in clear, and may well be equal.
        let Some(other) = in_a
            .get(&page.pfn)
            .filter(|other| other.class == 0 && page.class == 0)
        else {
            continue;
        };
        both += 1;
        equal += usize::from(a.content(*other) == b.content(page));
    }
    Ok((equal, both))
}

fn long(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from(word(bytes, at)?) | u64::from(word(bytes, at + 4)?) << 32)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes
        .get(at..at + 4)
        .context("the image ends in the middle of a record")?;
    Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
