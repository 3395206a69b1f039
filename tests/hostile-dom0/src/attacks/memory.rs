//! Maps, page tables, the machine-to-physical table, and operations on whole pages.

use super::{Attack, Came, Scene, after, let_through, secret_in};
use crate::calls::{address, entry, foreign, map_at, mmu_update, mmuext, update};
use anyhow::{Context, Result};
use vmcrypt_tools::xen::{self, Frame};

pub const ATTACKS: &[Attack] = &[
    Attack::new("map-all", "1", "map and read every page", |scene| {
        let pages = scene.prey.pages(scene.xen)?;
        let frames: Vec<Frame> = pages.iter().map(|(_, frame, _)| *frame).collect();
        let mut seen = Vec::new();
        for batch in frames.chunks(xen::BATCH) {
            let map = scene.xen.map_foreign(scene.id(), batch, false)?;
            (0..batch.len())
                .filter_map(|i| map.page(i))
                .for_each(|page| seen.extend(page));
        }
        secret_in(&seen, &format!("{} pages", seen.len() / 4096))
    }),
    Attack::new(
        "map-nonexistent",
        "1",
        "map a frame beyond the machine's memory",
        |scene| {
            let limit = xen::frame_limit(scene.xen, scene.domain())?;
            let_through(scene.map(Frame(limit + 0x1000), false))
        },
    )
    .argued("there is nothing to map, on any Xen"),
    Attack::new("map-writable", "1", "map a data page writable", |scene| {
        let_through(scene.map(scene.data()?[0].frame, true))
    }),
    Attack::new(
        "map-shared-info-writable",
        "1",
        "map shared_info writable",
        |scene| let_through(scene.map(scene.domain().shared_info, true)),
    ),
    Attack::new(
        "remap-writable",
        "1",
        "make a read-only map of a data page writable",
        |scene| with_flags(scene, entry::WRITABLE),
    ),
    Attack::new(
        "map-uncached",
        "1, T3",
        "map a data page uncached: an alias that is not coherent",
        |scene| with_flags(scene, entry::PCD | entry::PWT),
    ),
    Attack::new(
        "map-write-combining",
        "1, T3",
        "map a data page through the PAT's entry for write-combining",
        |scene| with_flags(scene, entry::PAT),
    ),
    Attack::new(
        "write-by-mmu-update",
        "2",
        "write eight bytes into a data page",
        |scene| write_word(scene, update::PAGE_TABLE),
    ),
    Attack::new(
        "write-preserving-bits",
        "2",
        "the same by MMU_PT_UPDATE_PRESERVE_AD",
        |scene| write_word(scene, update::PRESERVE_AD),
    ),
    Attack::new(
        "write-untranslated",
        "2",
        "the same by MMU_PT_UPDATE_NO_TRANSLATE",
        |scene| write_word(scene, update::NO_TRANSLATE),
    ),
    Attack::new(
        "redirect-page",
        "2",
        "have an entry of its page tables name another page",
        |scene| redirect(scene, update::PAGE_TABLE),
    ),
    Attack::new(
        "redirect-preserving-bits",
        "2",
        "the same by MMU_PT_UPDATE_PRESERVE_AD",
        |scene| redirect(scene, update::PRESERVE_AD),
    ),
    Attack::new(
        "edit-upper-table",
        "2",
        "write an empty entry of a table of level 2",
        |scene| {
            let table = scene.table(2)?;
            let page = scene.read(table)?.context("a page table cannot be read")?;
            let place = page.as_chunks::<8>().0.iter().position(|entry| *entry == [0; 8]);
            let place = address(table) + 8 * place.context("the table is full")? as u64;
            let_through(mmu_update(scene.xen, own(scene), place, 0))
        },
    ),
    Attack::new(
        "rewrite-m2p",
        "3, R7",
        "write its entry of the machine-to-physical table as it is",
        |scene| {
            let [data, _] = scene.data()?;
            let place = address(data.frame) | update::M2P;
            let_through(mmu_update(scene.xen, scene.number(), place, data.pfn))
        },
    ),
    Attack::new(
        "forge-m2p",
        "3, R7",
        "give two pages one PFN in the machine-to-physical table",
        |scene| {
            let [a, b] = scene.data()?;
            let place = address(a.frame) | update::M2P;
            let_through(mmu_update(scene.xen, scene.number(), place, b.pfn))
        },
    ),
    Attack::new("copy-page", "4", "copy a data page over another one", |scene| {
        let [a, b] = scene.data()?;
        let_through(mmuext(scene.xen, scene.id(), COPY_PAGE, a.frame.0, b.frame.0))
    }),
    Attack::new(
        "copy-page-to-ring",
        "4, R1",
        "copy a data page over the console ring, and read that",
        |scene| {
            let ring = console_ring(scene)?;
            let [data, _] = scene.data()?;
            after(
                mmuext(scene.xen, scene.id(), COPY_PAGE, ring.0, data.frame.0),
                |()| secret_in(&scene.read(ring)?.context("the ring cannot be read")?, "the ring"),
            )
        },
    ),
    Attack::new("clear-page", "4", "zero a data page", |scene| {
        let [data, _] = scene.data()?;
        let_through(mmuext(scene.xen, scene.id(), CLEAR_PAGE, data.frame.0, 0))
    }),
    Attack::new(
        "pin-page-table",
        "5",
        "pin a page table that is in use",
        |scene| {
            let table = scene.table(1)?;
            let_through(mmuext(scene.xen, scene.id(), PIN_L1, table.0, 0))
        },
    ),
    Attack::new(
        "unpin-root",
        "5",
        "take the pin off the page table in use",
        |scene| {
            let root = scene.root()?;
            let_through(mmuext(scene.xen, scene.id(), UNPIN, root.0, 0))
        },
    ),
    Attack::new("new-root", "5", "set another root of page tables", |scene| {
        let root = scene.root()?;
        let_through(mmuext(scene.xen, scene.id(), NEW_BASEPTR, root.0, 0))
    })
    .argued("acts on the caller's own root, and Xen takes no other domain for it"),
];

/// In another domain's tables, frames of the same.
fn own(scene: &Scene<'_>) -> u64 {
    foreign(scene.number(), Some(scene.number()))
}

fn write_word(scene: &Scene<'_>, how: u64) -> Result<Came> {
    let [data, _] = scene.data()?;
    let_through(mmu_update(scene.xen, own(scene), address(data.frame) | how, 0))
}

fn redirect(scene: &Scene<'_>, how: u64) -> Result<Came> {
    let [a, b] = scene.data()?;
    let (place, old) = scene.entry_of(a)?;
    let new = old & !entry::FRAME | address(b.frame);
    let_through(mmu_update(scene.xen, own(scene), place | how, new))
}

/// Maps a data page as any tool does, then writes the entry of that map anew with more flags.
fn with_flags(scene: &Scene<'_>, flags: u64) -> Result<Came> {
    let [data, _] = scene.data()?;
    let held = scene.map(data.frame, false)?;
    let_through(map_at(scene.xen, held.address(), scene.id(), data.frame, flags))
}

fn console_ring(scene: &Scene<'_>) -> Result<Frame> {
    let [_, console] = xen::rings(scene.id())[..] else {
        anyhow::bail!("the store does not say where the rings are");
    };
    Ok(console)
}

const PIN_L1: u32 = 0;
const UNPIN: u32 = 4;
const NEW_BASEPTR: u32 = 5;
const CLEAR_PAGE: u32 = 16;
const COPY_PAGE: u32 = 17;
