//! A guest between its build and its first unpause: what there is to measure, and edits that a measurement must show.

use crate::building::{free_page, seek, start_info, write};
use crate::frames::{find, typed_frames};
use crate::registers::get_context;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::pv;
use vmcrypt_tools::xen::{self, DomId, Frame, PageType};

/// What to change.
#[derive(Clone, Copy, ValueEnum)]
pub enum Edit {
    /// A byte of a page that the domain builder left empty
    FreePage,
    /// A byte of the kernel, or of the initrd
    Loaded,
    /// A byte behind the command line
    CommandLine,
    /// An entry of the P2M
    P2m,
    /// A byte of shared_info that the domain builder leaves zero
    SharedInfo,
}

/// Makes the change.
pub fn edit(xen: &Privcmd, domain: DomId, what: Edit) -> Result<Value> {
    let (frame, at) = match what {
        Edit::FreePage => (free_page(xen, domain)?, PAGE - 8),
        Edit::Loaded => {
            let full = |page: &[u8; PAGE]| {
                page.as_chunks::<8>()
                    .0
                    .iter()
                    .filter(|word| **word != [0; 8])
                    .count()
            };
            (
                seek(xen, domain, |_, page| full(page) > 400 && !like_p2m(page))?.0,
                0,
            )
        }
        Edit::CommandLine => (start_info(xen, domain)?.0, 1000),
        Edit::P2m => (seek(xen, domain, |_, page| like_p2m(page))?.0, 8),
        Edit::SharedInfo => (find(xen, domain)?.shared_info, PAGE - 8),
    };
    let old = xen
        .map_foreign(domain, &[frame], false)?
        .page(0)
        .context("the page cannot be read")?;
    let word = u64::from_le_bytes(*old[at..].first_chunk().context("a word")?);
    write(xen, domain, frame, at, word ^ 1)?;
    Ok(json!({ "frame": frame.0 }))
}

/// Most entries differ from the one before by one: a domain gets its memory in large pieces.
fn like_p2m(page: &[u8; PAGE]) -> bool {
    let entries: Vec<u64> = page
        .as_chunks()
        .0
        .iter()
        .map(|entry| u64::from_le_bytes(*entry))
        .collect();
    entries
        .windows(2)
        .filter(|pair| pair[1].wrapping_sub(pair[0]) == 1)
        .count()
        > 500
}

/// As `vmcrypt measure --pages` prints them, to find out where the two differ.
pub fn pages(xen: &Privcmd, domain: DomId) -> Result<()> {
    let kinds: HashMap<Frame, PageType> = typed_frames(xen, domain)?.into_iter().collect();
    let read = |frame: u64| xen.map_foreign(domain, &[Frame(frame)], false).ok()?.page(0);
    let context = get_context(xen, domain)?.bytes(0, pv::CONTEXT_BYTES);
    let (start_info, info) = start_info(xen, domain)?;
    let rings = pv::rings(&info);
    let word = |at: usize| info[at..at + 8].to_vec();

    // The same walk as through shared_info, which the guest has not filled in yet.
    let mut shared_info = [0; PAGE];
    let root = pv::root(&context).context("no page table")?;
    let place = 32 * 64 + 2 * 512 + 16;
    shared_info[place..place + 8].copy_from_slice(&word(32));
    shared_info[place + 24..place + 32].copy_from_slice(&(root << 12).to_le_bytes());
    shared_info[place + 32..place + 40].copy_from_slice(&word(104));
    let frames = pv::p2m(&shared_info, read).context("no P2M")?;
    let pfns: HashMap<u64, u64> = frames.iter().copied().zip(0..).collect();

    let mut lines = BTreeMap::new();
    for batch in frames.chunks(xen::BATCH) {
        let batch: Vec<Frame> = batch.iter().copied().map(Frame).collect();
        let map = xen.map_foreign(domain, &batch, false)?;
        for (i, frame) in batch.iter().enumerate() {
            let mut page = map.page(i).context("a page cannot be read")?;
            if rings.contains(&frame.0) {
                continue;
            }
            let kind = match kinds.get(frame) {
                Some(PageType::PageTable(level)) => {
                    table(&mut page, *level, &pfns);
                    u32::from(*level)
                }
                _ if *frame == start_info => {
                    normalise_start_info(&mut page, &pfns);
                    6
                }
                _ if p2m(&mut page, &pfns) => 7,
                _ if page == [0; PAGE] => continue,
                _ => 0,
            };
            lines.insert(
                pfns[&frame.0],
                format!("{kind} {:x}", HexOf(Sha256::digest(page).into())),
            );
        }
    }
    for (pfn, line) in lines {
        println!("{pfn:#x} {line}");
    }
    for (at, word) in context
        .as_chunks::<8>()
        .0
        .iter()
        .enumerate()
        .filter(|(_, word)| **word != [0; 8])
    {
        println!("context {:#x} {:#x}", 8 * at, u64::from_le_bytes(*word));
    }
    Ok(())
}

struct HexOf([u8; 32]);

impl std::fmt::LowerHex for HexOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn table(page: &mut [u8; PAGE], level: u8, pfns: &HashMap<u64, u64>) {
    const FRAME: u64 = ((1 << 52) - 1) & !(PAGE as u64 - 1);
    for (slot, i) in page.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
        let entry = u64::from_le_bytes(*slot);
        let entry = match pfns.get(&((entry & FRAME) >> 12)) {
            _ if level == 4 && (256..=271).contains(&i) => 0,
            Some(pfn) if entry & 1 != 0 => (entry & !FRAME) | pfn << 12,
            _ => entry,
        };
        *slot = entry.to_le_bytes();
    }
}

fn normalise_start_info(page: &mut [u8; PAGE], pfns: &HashMap<u64, u64>) {
    let rings = pv::rings(page).map(|ring| pfns.get(&ring).copied().unwrap_or(u64::MAX));
    page[40..48].fill(0);
    page[pv::STORE_MFN..pv::STORE_MFN + 8].copy_from_slice(&rings[0].to_le_bytes());
    page[pv::CONSOLE_MFN..pv::CONSOLE_MFN + 8].copy_from_slice(&rings[1].to_le_bytes());
}

/// Whether the page is part of the P2M; then its entries become PFNs.
fn p2m(page: &mut [u8; PAGE], pfns: &HashMap<u64, u64>) -> bool {
    let entries = page
        .as_chunks::<8>()
        .0
        .iter()
        .map(|entry| u64::from_le_bytes(*entry));
    let found: Vec<u64> = entries.map_while(|entry| pfns.get(&entry).copied()).collect();
    let sequence = found.first().is_some_and(|first| {
        first % 512 == 0 && found.iter().zip(*first..).all(|(pfn, wanted)| *pfn == wanted)
    });
    if !sequence || (found.len() < 512 && page[8 * found.len()..].iter().any(|byte| *byte != 0)) {
        return false;
    }
    for (slot, pfn) in page.as_chunks_mut::<8>().0.iter_mut().zip(found) {
        *slot = pfn.to_le_bytes();
    }
    true
}
