//! Reader of save images and recorded migration streams.
//!
//! Formats: Xen's `docs/specs/libxl-migration-stream.pandoc` (revision 2), `libxc-migration-stream.pandoc`
//! (revision 3), and the header that `tools/xl/xl.h` puts in front. The reader streams: it holds one byte for
//! each page of the guest and one small record at a time, whatever the file claims about itself.

use std::io::{self, Read};

use serde::Serialize;
use vmcrypt_core::Refusal;
use vmcrypt_core::record::{self, Header};

use crate::content::{Content, PAGE};
use crate::map::{Dot, MemoryMap};
use crate::needle::{Needles, Search, Tally};
use crate::pv::{self, le64};

/// Reads an image to its end.
///
/// A damaged image is no error: what was understood is reported together with the [`Defect`], and the needles are
/// searched for in the whole file all the same. Only the reader's own errors are returned.
pub fn inspect(source: impl Read, needles: &Needles) -> io::Result<Report> {
    let mut reader = Reader::new(source, needles);
    let end = reader.image();
    let mut report = std::mem::take(&mut reader.report);
    match end {
        Ok(()) => report.trailing_bytes = reader.rest()?,
        Err(Stop::Io(error)) => return Err(error),
        Err(Stop::Defect(defect)) => {
            reader.rest()?;
            report.defect = Some(defect);
        }
    }
    report.bytes = reader.offset;
    report.needles = reader.search.tally();
    (report.pages, report.map) = reader.memory.judge();
    Ok(report)
}

/// What an image holds.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What the file begins with.
    pub kind: Option<Kind>,
    /// Size of the file.
    pub bytes: u64,
    /// Bytes of the guest configuration in xl's header.
    pub config_bytes: Option<u32>,
    /// Guest and hypervisor.
    pub domain: Option<Domain>,
    /// vCPUs with a context record.
    pub vcpus: u32,
    /// VMCrypt's sealed record, if there is one.
    pub sealed_record: Option<SealedRecord>,
    /// Runs of equal records.
    pub records: Vec<RecordRun>,
    /// Records that did not fit in `records`.
    pub records_unlisted: u64,
    /// Page contents in the stream; a live migration sends some pages more than once.
    pub pages_sent: u64,
    /// Pages by class, each as it was sent last.
    pub pages: Pages,
    /// What was searched for, and found.
    pub needles: Tally,
    /// Occurrences that end outside of any page: in headers, registers, padding.
    pub occurrences_outside_pages: u64,
    /// First pages with a needle.
    pub first_pfns: Vec<u64>,
    /// Bytes after the end of the stream.
    pub trailing_bytes: u64,
    /// Why reading stopped before the end.
    pub defect: Option<Defect>,
    /// The picture.
    #[serde(serialize_with = "as_runs")]
    pub map: MemoryMap,
}

fn as_runs<S: serde::Serializer>(map: &MemoryMap, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&map.to_runs())
}

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `xl save` and `xl migrate` both begin with this header.
    XlSaved,
    /// A receiver's banner, then the stream.
    XlReceiver,
    /// A libxl stream without xl's header.
    Libxl,
    /// A libxc stream without libxl's.
    Libxc,
}

/// The domain header of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// PV, or fully virtualised.
    pub pv: bool,
    /// Bytes of a guest word: 8, or 4 for a 32-bit PV guest. Zero if unknown.
    pub word: u8,
    /// Xen's major version.
    pub xen_major: u32,
    /// Xen's minor version.
    pub xen_minor: u32,
}

/// What the sealed record says in clear. Nothing of it is authenticated here: only the hypervisor can do that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SealedRecord {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes from there to the end of the XSAVE record.
    pub bytes: u64,
    /// Version of its layout.
    pub version: u32,
    /// Number of the ciphers it is for; means nothing in version 1.
    pub cipher: u32,
    /// Key it was sealed under, the host's or an owner's.
    pub key_id: String,
    /// Epoch of the owner's key.
    pub epoch: u32,
    /// Session whose pages it belongs to.
    pub session: String,
    /// Number within its session.
    pub sequence: u64,
    /// Why a hypervisor would refuse it at first sight.
    pub refusal: Option<&'static str>,
}

/// Successive records of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordRun {
    /// Offset of the first one's header.
    pub offset: u64,
    /// Layer and type, as the specifications call them.
    pub name: &'static str,
    /// How many.
    pub count: u64,
    /// Bytes of all bodies.
    pub bytes: u64,
}

/// Pages by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pages {
    /// Look random.
    pub random: u64,
    /// Page tables by level, L1 first.
    pub page_tables: [u64; 4],
    /// Page tables that are pinned.
    pub pinned: u64,
    /// Listed as P2M, in clear.
    pub p2m: u64,
    /// GDT frames of a vCPU, in clear.
    pub descriptor: u64,
    /// `start_info`, in clear.
    pub start_info: u64,
    /// Console and xenstore ring, in clear.
    pub ring: u64,
    /// Zero bytes alone.
    pub zero: u64,
    /// Anything else in clear.
    pub other: u64,
    /// Announced without content: invalid, broken or only allocated.
    pub without_content: u64,
    /// Hold a needle, whatever their class.
    pub with_needle: u64,
}

impl Pages {
    /// Pages with content.
    pub fn total(&self) -> u64 {
        self.random + self.in_clear()
    }

    /// Pages with content that does not look random.
    pub fn in_clear(&self) -> u64 {
        self.page_tables.iter().sum::<u64>() + self.explained() + self.zero + self.other
    }

    /// Pages in clear that are neither page tables nor data.
    pub const fn explained(&self) -> u64 {
        self.p2m + self.descriptor + self.start_info + self.ring
    }
}

/// Why an image cannot be read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// It is something else.
    #[error(
        "not a save image: it begins with neither xl's header nor that of a libxl or libxc stream; was it written by `xl save`?"
    )]
    Foreign,
    /// The file ends too early.
    #[error(
        "truncated: the file ends at offset {at}, {missing} bytes short of {what}; the save or the copy was cut off"
    )]
    Truncated {
        /// Size of the file.
        at: u64,
        /// Bytes that are missing of the part being read.
        missing: u64,
        /// The part.
        what: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("damaged at offset {at}: {what}")]
    Damaged {
        /// End of the offending field or header.
        at: u64,
        /// What is wrong.
        what: String,
    },
}

/// Reads the sealed record that stands where a stock hypervisor writes the XSAVE state of vCPU 0.
pub fn sealed_record(context: &[u8], offset: u64) -> Option<SealedRecord> {
    let (version, cipher) = record::numbers(context)?;
    let header = Header::read(context);
    let known = header.ok();
    Some(SealedRecord {
        offset,
        bytes: context.len() as u64,
        version,
        cipher,
        epoch: known.map_or(0, |header| header.epoch),
        key_id: known.map(|header| hex::encode(header.key.0)).unwrap_or_default(),
        session: known
            .map(|header| hex::encode(header.session.0))
            .unwrap_or_default(),
        sequence: known.map_or(0, |header| header.sequence),
        refusal: header.err().map(Refusal::text),
    })
}

enum Stop {
    Io(io::Error),
    Defect(Defect),
}

type Parse<T> = Result<T, Stop>;

struct Reader<'n, R> {
    source: R,
    offset: u64,
    search: Search<'n>,
    memory: Memory,
    report: Report,
}

impl<'n, R: Read> Reader<'n, R> {
    fn new(source: R, needles: &'n Needles) -> Self {
        let memory = Memory::default();
        Self {
            source,
            offset: 0,
            search: Search::new(needles),
            memory,
            report: Report::default(),
        }
    }

    fn image(&mut self) -> Parse<()> {
        let mut magic = self.array::<8>("the first magic number")?;
        if magic == xl::BANNER[..8] {
            self.report.kind = Some(Kind::XlReceiver);
            self.expect(&xl::BANNER[8..], "the receiver's banner")?;
            magic = self.array("xl's header")?;
        }
        if magic == xl::MAGIC[..8] {
            self.report.kind.get_or_insert(Kind::XlSaved);
            self.expect(&xl::MAGIC[8..], "xl's header")?;
            self.xl_header()?;
            magic = self.array("the libxl header")?;
        }
        if magic == *libxl::MAGIC {
            self.report.kind.get_or_insert(Kind::Libxl);
            return self.libxl_stream();
        }
        if magic == libxc::MARKER && self.report.kind.is_none() {
            self.report.kind = Some(Kind::Libxc);
            self.libxc_headers()?;
            return self.libxc_records().map(drop);
        }
        match self.report.kind {
            None => Err(Stop::Defect(Defect::Foreign)),
            Some(_) => {
                self.damaged("no libxl stream follows; only stream version 2 (Xen 4.6 and later) can be read")
            }
        }
    }

    fn xl_header(&mut self) -> Parse<()> {
        let header: [u8; 16] = self.array("xl's header")?;
        if le32(&header, 0) != Some(xl::BYTE_ORDER) {
            return self.damaged("xl's header has another byte order");
        }
        let optional = le32(&header, 12).unwrap_or(0);
        self.report.config_bytes = Some(optional.saturating_sub(4));
        self.skip(optional.into(), "the guest configuration in xl's header")
    }

    fn libxl_stream(&mut self) -> Parse<()> {
        let header: [u8; 8] = self.array("the libxl header")?;
        let (version, options) = (be32(&header, 0), be32(&header, 4));
        if version != Some(libxl::VERSION) || options != Some(0) {
            return self.damaged(format!(
                "libxl stream version {version:?}, options {options:?}: only 2 and 0 are known"
            ));
        }
        loop {
            let (kind, length) = self.record_header("a libxl record header")?;
            let name = match kind {
                libxl::END => "libxl END",
                libxl::LIBXC_CONTEXT => "libxl LIBXC_CONTEXT",
                libxl::EMULATOR_XENSTORE_DATA => "libxl EMULATOR_XENSTORE_DATA",
                libxl::EMULATOR_CONTEXT => "libxl EMULATOR_CONTEXT",
                libxl::CHECKPOINT_END => "libxl CHECKPOINT_END",
                libxl::CHECKPOINT_STATE => "libxl CHECKPOINT_STATE",
                OPTIONAL.. => "libxl optional record",
                _ => return self.damaged(format!("libxl record of unknown type {kind:#x}")),
            };
            self.list(name, length);
            self.skip(length.into(), name)?;
            self.pad(length)?;
            match kind {
                libxl::END => return Ok(()),
                libxl::LIBXC_CONTEXT => {
                    self.expect(&libxc::MARKER, "the libxc header")?;
                    self.libxc_headers()?;
                    self.libxc_records()?;
                }
                libxl::CHECKPOINT_END => self.libxc_records()?,
                _ => {}
            }
        }
    }

    fn libxc_headers(&mut self) -> Parse<()> {
        let image: [u8; 16] = self.array("the libxc image header")?;
        let version = be32(&image, 4);
        if be32(&image, 0) != Some(libxc::ID) || !matches!(version, Some(2 | 3)) {
            return self.damaged("the libxc image header has a wrong id or version");
        }
        if image[9] & 1 != 0 {
            return self.damaged("big-endian streams are not supported");
        }
        let domain: [u8; 16] = self.array("the libxc domain header")?;
        let pv = match le32(&domain, 0) {
            Some(1) => true,
            Some(2) => false,
            other => return self.damaged(format!("domain type {other:?} is unknown")),
        };
        if domain[4..6] != [12, 0] {
            return self.damaged("the page size is not 4,096 bytes");
        }
        let version = |at| le32(&domain, at).unwrap_or(0);
        self.report.domain = Some(Domain {
            pv,
            word: 0,
            xen_major: version(8),
            xen_minor: version(12),
        });
        Ok(())
    }

    /// Reads records up to the end of the libxc stream or of one checkpoint in it.
    fn libxc_records(&mut self) -> Parse<()> {
        loop {
            let (kind, length) = self.record_header("a libxc record header")?;
            if length > libxc::LONGEST {
                return self.damaged(format!("record of {length} bytes, more than 128 MiB"));
            }
            let name = match libxc::NAMES.get(kind as usize) {
                Some(name) => name,
                None if kind >= OPTIONAL => "optional record",
                None => return self.damaged(format!("libxc record of unknown type {kind:#x}")),
            };
            self.list(name, length);
            match kind {
                libxc::PAGE_DATA => self.page_data(length)?,
                libxc::X86_PV_INFO => {
                    let body = self.body(length, name)?;
                    let word = *body.first().unwrap_or(&0);
                    if length < 8 || !matches!(word, 4 | 8) {
                        return self.damaged(format!(
                            "X86_PV_INFO of {length} bytes names words of {word} bytes"
                        ));
                    }
                    self.report
                        .domain
                        .iter_mut()
                        .for_each(|domain| domain.word = word);
                }
                libxc::X86_PV_P2M_FRAMES => self.p2m_frames(length)?,
                libxc::X86_PV_VCPU_BASIC => {
                    let body = self.body(length, name)?;
                    self.vcpu_basic(&body);
                }
                libxc::X86_PV_VCPU_XSAVE => {
                    let start = self.offset;
                    let body = self.body(length, name)?;
                    if let (Some(0), Some(context)) = (le32(&body, 0), body.get(8..)) {
                        let record = sealed_record(context, start + 8);
                        self.report.sealed_record = record.or(self.report.sealed_record.take());
                    }
                }
                _ => self.skip(length.into(), name)?,
            }
            self.pad(length)?;
            if matches!(kind, libxc::END | libxc::CHECKPOINT) {
                return Ok(());
            }
        }
    }

    fn page_data(&mut self, length: u32) -> Parse<()> {
        if length < 16 {
            return self.damaged(format!("PAGE_DATA of {length} bytes names no page"));
        }
        let head: [u8; 8] = self.array("a PAGE_DATA header")?;
        let count = le32(&head, 0).unwrap_or(0);
        if count == 0 || u64::from(count) * 8 + 8 > u64::from(length) {
            return self.damaged(format!("PAGE_DATA of {length} bytes cannot list {count} pages"));
        }
        let list = self.body(count * 8, "the page list of PAGE_DATA")?;
        // Type in the uppermost four bits; the eight reserved bits below it make a page number that is refused.
        let pages: Vec<(u64, u8)> = list
            .chunks_exact(8)
            .filter_map(|entry| le64(entry, 0))
            .map(|entry| (entry & (u64::MAX >> 4), (entry >> 60) as u8))
            .collect();
        let limit = match self.report.domain {
            Some(Domain { pv: true, .. }) => self.memory.p2m_end.min(Memory::LIMIT),
            _ => Memory::LIMIT,
        };
        let mut with_content = 0u64;
        for &(pfn, kind) in &pages {
            if pfn >= limit {
                return self.damaged(format!("page {pfn:#x} lies outside of the guest's {limit} pages"));
            }
            match kind {
                0..=4 | 9..=12 => with_content += 1,
                13..=15 => {}
                _ => return self.damaged(format!("page {pfn:#x} is of unknown type {kind:#x}")),
            }
        }
        if 8 + 8 * u64::from(count) + with_content * PAGE as u64 != u64::from(length) {
            return self.damaged(format!(
                "PAGE_DATA of {length} bytes lists {count} pages, {with_content} with content: the sizes disagree"
            ));
        }
        for (pfn, kind) in pages {
            if matches!(kind, 13..=15) {
                self.memory.sent(pfn, kind, None, false);
                continue;
            }
            let mut page = [0; PAGE];
            let hits = self.fill(&mut page, "the content of a page")?;
            self.report.pages_sent += 1;
            self.report.occurrences_outside_pages -= hits;
            if hits > 0 && self.report.first_pfns.len() < FIRST && !self.report.first_pfns.contains(&pfn) {
                self.report.first_pfns.push(pfn);
            }
            self.memory.sent(pfn, kind, Some(Content::of(&page)), hits > 0);
            self.memory.note_start_info(pfn, &page);
        }
        Ok(())
    }

    fn p2m_frames(&mut self, length: u32) -> Parse<()> {
        let body = self.body(length, "X86_PV_P2M_FRAMES")?;
        let (Some(start), Some(end), Some(frames)) = (le32(&body, 0), le32(&body, 4), body.get(8..)) else {
            return self.damaged("X86_PV_P2M_FRAMES is too short");
        };
        let word = self.report.domain.map_or(8, |domain| domain.word);
        let per_frame = PAGE as u32 / u32::from(if word == 4 { 4u8 } else { 8 });
        let expected = u64::from(end / per_frame)
            .checked_sub((start / per_frame).into())
            .map(|n| n + 1);
        if expected != Some(frames.len() as u64 / 8) || frames.len() % 8 != 0 {
            return self.damaged(format!(
                "X86_PV_P2M_FRAMES of {length} bytes claims pages {start} to {end}"
            ));
        }
        self.memory.p2m_end = self.memory.p2m_end.max(u64::from(end) + 1);
        self.memory
            .p2m
            .extend(frames.chunks_exact(8).filter_map(|entry| le64(entry, 0)));
        Ok(())
    }

    /// Takes the frame numbers that libxc itself reads from a 64-bit PV guest's context.
    fn vcpu_basic(&mut self, body: &[u8]) {
        self.report.vcpus += 1;
        if self.report.domain.is_none_or(|domain| domain.word != 8) {
            return;
        }
        let Some(context) = body.get(8..) else { return };
        if le32(body, 0) == Some(0) {
            self.memory.start_info = le64(context, pv::RDX);
        }
        self.memory.descriptors.extend(pv::gdt_frames(context));
    }

    fn list(&mut self, name: &'static str, length: u32) {
        let records = &mut self.report.records;
        if let Some(run) = records.last_mut().filter(|run| run.name == name) {
            run.count += 1;
            run.bytes += u64::from(length);
        } else if records.len() < LISTED {
            records.push(RecordRun {
                offset: self.offset - 8,
                name,
                count: 1,
                bytes: length.into(),
            });
        } else {
            self.report.records_unlisted += 1;
        }
    }

    fn record_header(&mut self, what: &'static str) -> Parse<(u32, u32)> {
        let header: [u8; 8] = self.array(what)?;
        Ok((le32(&header, 0).unwrap_or(0), le32(&header, 4).unwrap_or(0)))
    }

    fn pad(&mut self, length: u32) -> Parse<()> {
        let over = u64::from(length % 8);
        self.skip(if over == 0 { 0 } else { 8 - over }, "the padding of a record")
    }

    fn expect(&mut self, bytes: &[u8], what: &'static str) -> Parse<()> {
        if self.body(bytes.len() as u32, what)? == bytes {
            return Ok(());
        }
        self.damaged(format!("{what} is not what it should be"))
    }

    /// Reads a body. Memory grows with what the file holds, not with what it claims.
    fn body(&mut self, length: u32, what: &'static str) -> Parse<Vec<u8>> {
        let mut body = Vec::new();
        let mut left = length as usize;
        while left > 0 {
            let step = left.min(1 << 16);
            let start = body.len();
            body.resize(start + step, 0);
            self.fill(&mut body[start..], what)?;
            left -= step;
        }
        Ok(body)
    }

    fn skip(&mut self, mut length: u64, what: &'static str) -> Parse<()> {
        let mut waste = [0; PAGE];
        while length > 0 {
            let step = length.min(PAGE as u64);
            self.fill(&mut waste[..step as usize], what)?;
            length -= step;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Parse<[u8; N]> {
        let mut array = [0; N];
        self.fill(&mut array, what)?;
        Ok(array)
    }

    /// The one place where bytes come in: all of them are searched. Returns the hits that end here.
    fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Parse<u64> {
        let mut have = 0;
        while have < buffer.len() {
            match self.source.read(&mut buffer[have..]) {
                Ok(0) => {
                    self.took(&buffer[..have]);
                    let missing = (buffer.len() - have) as u64;
                    return Err(Stop::Defect(Defect::Truncated {
                        at: self.offset,
                        missing,
                        what,
                    }));
                }
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Io(error)),
            }
        }
        Ok(self.took(buffer))
    }

    fn took(&mut self, bytes: &[u8]) -> u64 {
        self.offset += bytes.len() as u64;
        let hits = self.search.feed(bytes);
        self.report.occurrences_outside_pages += hits;
        hits
    }

    /// Searches what follows the stream or the defect; returns its size.
    fn rest(&mut self) -> io::Result<u64> {
        let start = self.offset;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.source.read(&mut buffer) {
                Ok(0) => return Ok(self.offset - start),
                Ok(n) => {
                    self.took(&buffer[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn damaged<T>(&self, what: impl Into<String>) -> Parse<T> {
        Err(Stop::Defect(Defect::Damaged {
            at: self.offset,
            what: what.into(),
        }))
    }
}

/// What is known about the guest's pages: one byte each.
#[derive(Default)]
struct Memory {
    seen: Vec<Seen>,
    p2m_end: u64,
    p2m: Vec<u64>,
    descriptors: Vec<u64>,
    start_info: Option<u64>,
    start_info_pages: Vec<(u64, [u64; 2])>,
}

/// Bits 0 to 3: page type as in the stream; 4 and 5: content, 0 for none; 6: a needle was in it; 7: announced.
#[derive(Clone, Copy, Default)]
struct Seen(u8);

impl Memory {
    /// No guest of more than 512 GiB: bounds what a damaged page number can make us allocate.
    const LIMIT: u64 = 1 << 27;

    fn sent(&mut self, pfn: u64, kind: u8, content: Option<Content>, hit: bool) {
        let at = pfn as usize;
        if at >= self.seen.len() {
            self.seen.resize(at + 1, Seen::default());
        }
        let content = match content {
            None => 0,
            Some(Content::Zero) => 1,
            Some(Content::Random) => 2,
            Some(Content::Plain) => 3,
        };
        // A needle that went over the wire stays seen, even if the page is sent again without it.
        let hit = u8::from(hit) << 6 | self.seen[at].0 & 1 << 6;
        self.seen[at] = Seen(1 << 7 | hit | content << 4 | kind);
    }

    /// Remembers the rings of every page that looks like `start_info`; which page is it, vCPU 0 tells at the end.
    fn note_start_info(&mut self, pfn: u64, page: &[u8; PAGE]) {
        if pv::is_start_info(page) && self.start_info_pages.len() < 64 {
            self.start_info_pages.push((pfn, pv::rings(page)));
        }
    }

    fn judge(mut self) -> (Pages, MemoryMap) {
        self.p2m.sort_unstable();
        self.descriptors.sort_unstable();
        let rings = self
            .start_info_pages
            .iter()
            .rev()
            .find(|(pfn, _)| Some(*pfn) == self.start_info);
        let rings = rings.map_or([u64::MAX; 2], |(_, rings)| *rings);

        let mut pages = Pages::default();
        let dots = self.seen.iter().zip(0u64..).map(|(&Seen(seen), pfn)| {
            let (kind, content, hit) = (seen & 15, seen >> 4 & 3, seen & 1 << 6 != 0);
            let (counter, dot) = match (content, kind) {
                (0, _) if seen == 0 => return Dot::Absent,
                (0, _) => (&mut pages.without_content, Dot::Absent),
                (_, 1..=4 | 9..=12) => {
                    pages.pinned += u64::from(kind > 8);
                    (
                        &mut pages.page_tables[usize::from((kind & 7) - 1)],
                        Dot::PageTable,
                    )
                }
                (2, _) => (&mut pages.random, Dot::Private),
                _ if self.start_info == Some(pfn) => (&mut pages.start_info, Dot::Known),
                _ if rings.contains(&pfn) => (&mut pages.ring, Dot::Known),
                _ if self.p2m.binary_search(&pfn).is_ok() => (&mut pages.p2m, Dot::Known),
                _ if self.descriptors.binary_search(&pfn).is_ok() => (&mut pages.descriptor, Dot::Known),
                (1, _) => (&mut pages.zero, Dot::Zero),
                _ => (&mut pages.other, Dot::Plain),
            };
            *counter += 1;
            if hit {
                pages.with_needle += 1;
                return Dot::Needle;
            }
            dot
        });
        let map = MemoryMap(dots.collect());
        (pages, map)
    }
}

/// Runs of records that are listed one by one.
const LISTED: usize = 10_000;
/// Pages with hits that are named one by one.
const FIRST: usize = 16;
/// Records of this type and above may be skipped.
const OPTIONAL: u32 = 1 << 31;

/// `tools/xl/xl.h`.
mod xl {
    pub const MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
    pub const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";
    pub const BYTE_ORDER: u32 = 0x0102_0304;
}

mod libxl {
    pub const MAGIC: &[u8; 8] = b"LibxlFmt";
    pub const VERSION: u32 = 2;
    pub const END: u32 = 0;
    pub const LIBXC_CONTEXT: u32 = 1;
    pub const EMULATOR_XENSTORE_DATA: u32 = 2;
    pub const EMULATOR_CONTEXT: u32 = 3;
    pub const CHECKPOINT_END: u32 = 4;
    pub const CHECKPOINT_STATE: u32 = 5;
}

mod libxc {
    pub const MARKER: [u8; 8] = [0xff; 8];
    pub const ID: u32 = 0x5845_4e46;
    pub const LONGEST: u32 = 128 << 20;
    pub const END: u32 = 0;
    pub const PAGE_DATA: u32 = 1;
    pub const X86_PV_INFO: u32 = 2;
    pub const X86_PV_P2M_FRAMES: u32 = 3;
    pub const X86_PV_VCPU_BASIC: u32 = 4;
    pub const X86_PV_VCPU_XSAVE: u32 = 6;
    pub const CHECKPOINT: u32 = 14;
    /// By number.
    pub const NAMES: [&str; 19] = [
        "END",
        "PAGE_DATA",
        "X86_PV_INFO",
        "X86_PV_P2M_FRAMES",
        "X86_PV_VCPU_BASIC",
        "X86_PV_VCPU_EXTENDED",
        "X86_PV_VCPU_XSAVE",
        "SHARED_INFO",
        "X86_TSC_INFO",
        "HVM_CONTEXT",
        "HVM_PARAMS",
        "TOOLSTACK",
        "X86_PV_VCPU_MSRS",
        "VERIFY",
        "CHECKPOINT",
        "CHECKPOINT_DIRTY_PFN_LIST",
        "STATIC_DATA_END",
        "X86_CPUID_POLICY",
        "X86_MSR_POLICY",
    ];
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
