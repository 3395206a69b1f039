//! What dom0 could prepare in a guest that it has built and not yet unpaused, to profit from later.

use crate::calls::{self, errno};
use crate::frames::{find, typed_frames};
use crate::registers::{get_context, set_context};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, sleep};
use std::time::Duration;
use vmcrypt_guest::secret;
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::hypercall::{Error, ForeignMap, Privcmd, map_grant};
use vmcrypt_tools::needle::{Needles, Search};
use vmcrypt_tools::pv;
use vmcrypt_tools::xen::{self, DomId, Frame, HYPERVISOR_DOMCTL, PageType, domctl};

/// Pages to keep mapped.
#[derive(Clone, Copy, ValueEnum)]
pub enum Pages {
    /// One free page, writable
    Data,
    /// All data pages, read-only
    AllData,
    /// A page table, read-only
    PageTable,
    /// shared_info, writable
    SharedInfo,
}

/// Rings that `start_info` names.
#[derive(Clone, Copy, ValueEnum)]
pub enum Ring {
    /// The console's
    Console,
    /// xenstore's
    Store,
}

/// Has Xen refuse a context that says that vCPU 0 is in user mode, and unpauses. `context` and `errno` are those of the two
/// calls. The context is right again at the end.
pub fn vcpu_mode(xen: &Privcmd, domain: DomId) -> Result<Value> {
    // Behind the 512 bytes of FPU state: VGCF_in_kernel.
    const FLAGS: usize = 512;
    const IN_KERNEL: u64 = 1 << 2;
    let mut context = get_context(xen, domain)?;
    let flags: u64 = context.get(FLAGS);
    context.put(FLAGS, flags & !IN_KERNEL);
    let refused = errno(set_context(xen, domain, &context))?;
    let mut answer = unpause(xen, domain)?;
    answer["context"] = refused["errno"].clone();
    context.put(FLAGS, flags | IN_KERNEL);
    set_context(xen, domain, &context)?;
    Ok(answer)
}

/// The pages stay mapped until the end. `errno` is that of the unpause, `lines` how often the secret stands in them
/// after it, `changed` how many of them have another content than before.
pub fn maps_over_unpause(xen: &Privcmd, domain: DomId, what: Pages, wait: Duration) -> Result<Value> {
    let (frames, writable) = match what {
        Pages::Data => (vec![free_page(xen, domain)?], true),
        Pages::AllData => (frames_of(xen, domain, |kind| kind == PageType::Data)?, false),
        Pages::PageTable => {
            let tables = frames_of(xen, domain, |kind| matches!(kind, PageType::PageTable(_)))?;
            (tables[..1].to_vec(), false)
        }
        Pages::SharedInfo => (vec![find(xen, domain)?.shared_info], true),
    };
    let maps = frames
        .chunks(xen::BATCH)
        .map(|batch| xen.map_foreign(domain, batch, writable))
        .collect::<Result<Vec<_>, _>>()?;
    let before: Vec<_> = contents(&maps).map(|page| sample(&page)).collect();
    ensure!(
        before.len() == frames.len(),
        "only {} of {} pages of a guest that is being built could be mapped",
        before.len(),
        frames.len()
    );
    let mut answer = unpause(xen, domain)?;
    if answer["errno"] == 0 {
        sleep(wait);
    }
    let needles = Needles::new([secret::needle().into_bytes()])?;
    let mut search = Search::new(&needles);
    let (mut lines, mut changed) = (0, 0);
    for (page, before) in contents(&maps).zip(before) {
        search.cut();
        lines += search.feed(&page);
        changed += usize::from(sample(&page) != before);
    }
    answer["mapped"] = json!(frames.len());
    answer["lines"] = json!(lines);
    answer["changed"] = json!(changed);
    Ok(answer)
}

/// An unpause that is refused finds the entry gone at the next try. `kept` says whether the entry outlived the unpause.
pub fn forge_grant(xen: &Privcmd, domain: DomId, wait: Duration) -> Result<Value> {
    let data = free_page(xen, domain)?;
    let table = grant_frame(xen, domain)?;
    let forged = u64::from(GTF_PERMIT_ACCESS) | data.0 << 32;
    write(xen, domain, table, ENTRY, forged)?;
    let mut answer = unpause(xen, domain)?;
    if answer["errno"] == 0 {
        sleep(wait);
        let page = xen.map_foreign(domain, &[table], false)?.page(0);
        let page = page.context("the grant table cannot be read any more")?;
        answer["kept"] = json!(page[ENTRY..] == forged.to_le_bytes());
    } else {
        write(xen, domain, table, ENTRY, 0)?;
    }
    Ok(answer)
}

/// Uses a forged grant without any map, as a device would, and takes its entry away before the unpause. `kept` says
/// whether Xen goes on taking it for granted after that. An unpause that is refused finds no such use at the next try.
pub fn use_grant(xen: &Privcmd, domain: DomId, wait: Duration) -> Result<Value> {
    let data = free_page(xen, domain)?;
    let table = grant_frame(xen, domain)?;
    write(
        xen,
        domain,
        table,
        ENTRY,
        u64::from(GTF_PERMIT_ACCESS) | data.0 << 32,
    )?;
    let begun = begin_use(xen, domain)?;
    write(xen, domain, table, ENTRY, 0)?;
    let mut answer = unpause(xen, domain)?;
    if answer["errno"] == 0 {
        sleep(wait);
        let again = begin_use(xen, domain);
        answer["kept"] = json!(again.is_ok());
        again.map(|again| end_use(xen, again)).unwrap_or(Ok(()))?;
    }
    end_use(xen, begun)?;
    Ok(answer)
}

/// Has a grant of the grant table itself in use, so that Xen writes other grants there; at which moment of the unpause is
/// found by trying: neither before Xen has looked at the table, nor so late that the use is seen. `kept` says whether such a grant can
/// be mapped while the guest runs.
pub fn grant_of_table(xen: &Privcmd, domain: DomId, wait: Duration) -> Result<Value> {
    const ROUNDS: usize = 40;
    /// No unpause takes as long.
    const LONGEST: Duration = Duration::from_secs(4);
    /// Behind all that the ring has.
    const PREPARED: usize = PAGE - GRANT_ENTRY;
    let data = free_page(xen, domain)?;
    let table = grant_frame(xen, domain)?;
    let [store, _] = pv::rings(&start_info(xen, domain)?.1);
    let granted = |frame: Frame| u64::from(GTF_PERMIT_ACCESS) | frame.0 << 32;
    write(xen, domain, Frame(store), PREPARED, granted(data))?;
    let (mut early, mut late) = (Duration::ZERO, LONGEST);
    let mut answer = json!({});
    for _ in 0..ROUNDS {
        write(xen, domain, table, ENTRY, granted(table))?;
        let used = begin_use(xen, domain)?;
        write(xen, domain, table, ENTRY, 0)?;
        let delay = (early + late) / 2;
        let copied = AtomicBool::new(false);
        let (unpaused, before) = thread::scope(|scope| -> Result<_> {
            let copier = scope.spawn(|| -> Result<()> {
                let xen = Privcmd::open()?;
                sleep(delay);
                copy_grant(&xen, domain, PREPARED)?;
                copied.store(true, SeqCst);
                Ok(end_use(&xen, used)?)
            });
            let unpaused = unpause(xen, domain)?;
            let before = copied.load(SeqCst);
            copier.join().expect("it does not panic")?;
            Ok((unpaused, before))
        })?;
        answer = unpaused;
        if answer["errno"] == 0 {
            sleep(wait);
            answer["kept"] = json!(map_grant(domain, FORGED, false).is_ok_and(|map| map.page(0).is_some()));
            break;
        }
        if before {
            early = delay;
        } else {
            late = delay;
        }
        write(xen, domain, table, FORGED as usize * GRANT_ENTRY, 0)?;
    }
    Ok(answer)
}

/// Has Xen copy an entry from the ring, which is granted, to the place of another one in the page that is in use.
fn copy_grant(xen: &Privcmd, domain: DomId, from: usize) -> Result<(), Error> {
    const GNTTABOP_COPY: u64 = 5;
    /// Source and destination are grants.
    const BOTH: u64 = 1 | 1 << 1;
    /// `GNTTAB_RESERVED_XENSTORE`
    const STORE: u64 = 1;
    let half = |reference: u64, offset: usize| [reference, u64::from(domain.0) | (offset as u64) << 16];
    let used = (ENTRY / GRANT_ENTRY) as u64;
    let [[source, at], [destination, to]] = [half(STORE, from), half(used, FORGED as usize * GRANT_ENTRY)];
    let call = [source, at, destination, to, GRANT_ENTRY as u64 | BOTH << 16];
    calls::grant(xen, GNTTABOP_COPY, &call, 36).map(drop)
}

/// A grant in use: its handle, and the address that a device would have.
fn begin_use(xen: &Privcmd, domain: DomId) -> Result<[u64; 2], Error> {
    let reference = (ENTRY / GRANT_ENTRY) as u32;
    let map = [0, calls::pair(GNTMAP_DEVICE_MAP, reference), domain.0.into(), 0];
    let answer = calls::grant(xen, GNTTABOP_MAP_GRANT_REF, &map, 18)?;
    Ok([u64::from(answer.get::<u32>(20)), answer.get(24)])
}

fn end_use(xen: &Privcmd, [handle, address]: [u64; 2]) -> Result<(), Error> {
    calls::grant(xen, GNTTABOP_UNMAP_GRANT_REF, &[0, address, handle], 20).map(drop)
}

/// An unpause that is refused finds the right ring at the next try.
pub fn forge_ring(xen: &Privcmd, domain: DomId, ring: Ring) -> Result<Value> {
    let data = free_page(xen, domain)?;
    let (start_info, page) = start_info(xen, domain)?;
    let [store, console] = pv::rings(&page);
    let (at, right) = match ring {
        Ring::Console => (pv::CONSOLE_MFN, console),
        Ring::Store => (pv::STORE_MFN, store),
    };
    write(xen, domain, start_info, at, data.0)?;
    let answer = unpause(xen, domain)?;
    if answer["errno"] != 0 {
        write(xen, domain, start_info, at, right)?;
    }
    Ok(answer)
}

fn unpause(xen: &Privcmd, domain: DomId) -> Result<Value> {
    let call = domctl(xen, UNPAUSEDOMAIN, domain)?;
    errno(
        xen.call("an unpause", HYPERVISOR_DOMCTL, &[call.address()])
            .map(drop),
    )
}

pub fn write(xen: &Privcmd, domain: DomId, frame: Frame, offset: usize, value: u64) -> Result<()> {
    let mut map = xen.map_foreign(domain, &[frame], true)?;
    ensure!(
        map.refusal(0).is_none(),
        "{frame:?} of a guest that is being built could not be mapped writable: errno {:?}",
        map.refusal(0)
    );
    map.put(0, offset, value);
    Ok(())
}

fn frames_of(xen: &Privcmd, domain: DomId, wanted: impl Fn(PageType) -> bool) -> Result<Vec<Frame>> {
    let all = typed_frames(xen, domain)?.into_iter();
    let frames: Vec<Frame> = all
        .filter(|(_, kind)| wanted(*kind))
        .map(|(frame, _)| frame)
        .collect();
    ensure!(!frames.is_empty(), "the guest has no such page");
    Ok(frames)
}

/// A page that the builder left empty, and that the guest will use for whatever it likes.
pub fn free_page(xen: &Privcmd, domain: DomId) -> Result<Frame> {
    free_page_but(xen, domain, &[])
}

/// One that is none of these.
pub fn free_page_but(xen: &Privcmd, domain: DomId, not: &[Frame]) -> Result<Frame> {
    let rings = pv::rings(&start_info(xen, domain)?.1);
    seek(xen, domain, |frame, page| {
        *page == [0; PAGE] && !rings.contains(&frame.0) && !not.contains(&frame)
    })
    .map(|(frame, _)| frame)
    .context("looking for an empty page")
}

pub fn start_info(xen: &Privcmd, domain: DomId) -> Result<(Frame, [u8; PAGE])> {
    seek(xen, domain, |_, page| pv::is_start_info(page)).context("looking for start_info")
}

/// The last data page like this, in the order of the machine.
pub fn seek(
    xen: &Privcmd,
    domain: DomId,
    wanted: impl Fn(Frame, &[u8; PAGE]) -> bool,
) -> Result<(Frame, [u8; PAGE])> {
    for batch in frames_of(xen, domain, |kind| kind == PageType::Data)?.rchunks(xen::BATCH) {
        let map = xen.map_foreign(domain, batch, false)?;
        let pages = (0..batch.len()).filter_map(|i| Some((batch[i], map.page(i)?)));
        if let Some(found) = pages.filter(|(frame, page)| wanted(*frame, page)).last() {
            return Ok(found);
        }
    }
    anyhow::bail!("the guest has no such page")
}

/// The first frame of a domain's grant table; dom0 may ask for it.
pub fn grant_frame(xen: &Privcmd, domain: DomId) -> Result<Frame, Error> {
    const SETUP_TABLE: u64 = 2;
    let list = xen.buffer(8)?;
    let call = [calls::pair(domain.0.into(), 1), 0, list.address()];
    calls::grant(xen, SETUP_TABLE, &call, 8)?;
    Ok(Frame(list.get(0)))
}

fn contents(maps: &[ForeignMap]) -> impl Iterator<Item = [u8; PAGE]> {
    maps.iter()
        .flat_map(|map| (0..map.len()).filter_map(|i| map.page(i)))
}

/// Enough to see that a page changed, and small enough to keep for each of a guest's pages.
fn sample(page: &[u8; PAGE]) -> u64 {
    let words = page.as_chunks::<8>().0.iter().zip(1..);
    words.fold(0, |sum, (word, place)| {
        sum.wrapping_add(u64::from_le_bytes(*word).wrapping_mul(2 * place + 1))
    })
}

// `xen/include/public/domctl.h`, `grant_table.h` and `xen.h` of Xen 4.20.
const UNPAUSEDOMAIN: u32 = 4;

/// `sizeof(struct grant_entry_v1)`: flags, domain (0 is dom0), frame.
const GRANT_ENTRY: usize = 8;
/// A grant that no guest gets as far as to give.
const FORGED: u32 = 400;
const GTF_PERMIT_ACCESS: u16 = 1;
const GNTTABOP_MAP_GRANT_REF: u64 = 0;
const GNTTABOP_UNMAP_GRANT_REF: u64 = 1;
const GNTMAP_DEVICE_MAP: u32 = 1;
/// Where the last entry of the first page is: no guest gets that far.
const ENTRY: usize = PAGE - GRANT_ENTRY;
