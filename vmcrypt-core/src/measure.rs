//! Launch measurement: one value for everything that dom0 loaded into a new domain.
//!
//! SHA-256 over a label and then sections, each with its number and length before it, so that no two
//! launches give one message. What stands in the sections is for the caller; `docs/MEASUREMENT.md` says what Xen
//! puts there, and why that is all there is.

use sha2::{Digest, Sha256};

use crate::Pfn;

/// Stands before everything else, and changes with the meaning of anything that follows.
const LABEL: [u8; 32] = *b"VMCrypt launch measurement 1\0\0\0\0";

/// What a section holds. The numbers are part of the measurement.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Number of pages, largest number of vCPUs.
    Sizes = 1,
    /// The memory map that the guest can ask Xen for.
    MemoryMap = 2,
    /// `vcpu_guest_context` of vCPU 0.
    Vcpu = 3,
    /// PFN, kind and content of a page.
    Page = 4,
    /// Number of pages that were measured.
    End = 5,
}

impl Section {
    /// The section with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Sizes,
            2 => Self::MemoryMap,
            3 => Self::Vcpu,
            4 => Self::Page,
            5 => Self::End,
            _ => return None,
        })
    }
}

/// What a page is to Xen at the first unpause. The numbers are part of the measurement.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchKind {
    /// Anything else.
    Data = 0,
    /// Page table of the lowest level.
    L1 = 1,
    /// Page table of the second level.
    L2 = 2,
    /// Page table of the third level.
    L3 = 3,
    /// Page table of the highest level.
    L4 = 4,
    /// GDT or LDT.
    Descriptors = 5,
    /// The `start_info` page.
    StartInfo = 6,
    /// Part of the P2M.
    P2m = 7,
}

impl LaunchKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Data,
            1 => Self::L1,
            2 => Self::L2,
            3 => Self::L3,
            4 => Self::L4,
            5 => Self::Descriptors,
            6 => Self::StartInfo,
            7 => Self::P2m,
            _ => return None,
        })
    }
}

/// A launch measurement under way: [`begin`](Self::begin), then sections, pages in ascending order,
/// [`finish`](Self::finish). Nothing in it is secret: dom0 knows all that it loaded.
#[derive(Default)]
pub struct Measurement {
    hash: Option<Sha256>,
    pages: u64,
}

impl Measurement {
    /// Nothing begun yet.
    pub const fn new() -> Self {
        Self { hash: None, pages: 0 }
    }

    /// Starts over, for a domain of `pages` pages, PFNs from 0 on, and up to `vcpus` vCPUs.
    pub fn begin(&mut self, pages: u64, vcpus: u64) {
        self.hash = Some(Sha256::new_with_prefix(LABEL));
        self.pages = 0;
        self.section(Section::Sizes, &[&pages.to_le_bytes(), &vcpus.to_le_bytes()]);
    }

    /// Takes in a section as a whole.
    pub fn add(&mut self, section: Section, content: &[u8]) {
        self.section(section, &[content]);
    }

    /// Takes in a page; ordinary ones that hold nothing but zeros are for the caller to leave out.
    pub fn page(&mut self, pfn: Pfn, kind: LaunchKind, content: &[u8; 4096]) {
        self.pages = self.pages.wrapping_add(1);
        let kind = kind as u64;
        self.section(
            Section::Page,
            &[&pfn.0.to_le_bytes(), &kind.to_le_bytes(), content],
        );
    }

    /// The value. All zeros if nothing was begun, which no launch has.
    pub fn finish(&mut self) -> [u8; 32] {
        self.section(Section::End, &[&self.pages.to_le_bytes()]);
        self.hash.take().map_or([0; 32], |hash| hash.finalize().into())
    }

    fn section(&mut self, section: Section, parts: &[&[u8]]) {
        let Some(hash) = &mut self.hash else { return };
        let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
        hash.update((section as u64).to_le_bytes());
        hash.update(length.to_le_bytes());
        for part in parts {
            hash.update(part);
        }
    }
}
