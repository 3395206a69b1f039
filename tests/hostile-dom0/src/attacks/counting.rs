//! Traps in counting maps: what dom0 holds in a way that Xen might lose sight of.
//!
//! A guest that was built and did not run yet is open to dom0. Whatever dom0 keeps of it would be a view of its secrets
//! later, so that it must not start as long as anything is kept.

use super::{Attack, Came, Data, Scene, after, secret_in};
use crate::building::{self, Pages};
use crate::calls::{address, control, entry, foreign, map_at, mmu_update, mmuext, unmap_at, update};
use crate::prey::Prey;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;
use vmcrypt_guest::secret;
use vmcrypt_tools::hypercall::{ForeignMap, map_grant};
use vmcrypt_tools::xen::{self, Frame, PageType};

pub const ATTACKS: &[Attack] = &[
    Attack::new("keep-map", "T1, R9", "keep a writable map of a new guest's page while it starts", |scene| {
        over_start(scene, Pages::Data, |answer| answer["lines"] != 0)
    })
    .on_new(),
    Attack::new("keep-all-maps", "T1, R9", "keep maps of all pages of a new guest while it starts", |scene| {
        over_start(scene, Pages::AllData, |answer| answer["lines"] != 0)
    })
    .on_new(),
    Attack::new("keep-table-map", "T1, R1", "keep a map of a new guest's page table while it starts", |scene| {
        over_start(scene, Pages::PageTable, |_| true)
    })
    .on_new(),
    Attack::new("keep-shared-info", "T1, R9", "keep a writable map of a new guest's shared_info while it starts", |scene| {
        over_start(scene, Pages::SharedInfo, |_| true)
    })
    .on_new(),
    Attack::new(
        "hide-map-behind-grant",
        "T1",
        "map a page by its frame and by a grant, clear the grant's entry, give the grant back, start the guest",
        |scene| {
            let (data, granted) = grant(scene)?;
            let held = scene.map(data, false)?;
            unmap_at(scene.xen, granted.address())?;
            drop(granted);
            kept(scene, &held)
        },
    )
    .on_release_builds("Xen notices that a grant's entry is cleared as if it were another one, and gives dom0's kernel a fault for it")
    .on_new(),
    Attack::new(
        "hide-grant-behind-map",
        "T1",
        "the same, but keep the grant and let go of the map by its frame",
        |scene| {
            let (data, granted) = grant(scene)?;
            let held = scene.map(data, false)?;
            let other = scene.map(data, false)?;
            drop(held);
            unmap_at(scene.xen, other.address())?;
            drop(other);
            kept(scene, &granted)
        },
    )
    .on_new(),
    Attack::new(
        "alias-over-start",
        "T1, T3",
        "make a map of a new guest's page uncached, and keep it while the guest starts",
        |scene| {
            let data = building::free_page(scene.xen, scene.id())?;
            let held = scene.map(data, true)?;
            let flags = entry::WRITABLE | entry::PCD | entry::PWT;
            map_at(scene.xen, held.address(), scene.id(), data, flags)?;
            kept(scene, &held)
        },
    )
    .on_new(),
    Attack::new(
        "map-into-third",
        "T1, T3",
        "have a third domain's page table name one of its pages",
        map_into_third,
    ),
    Attack::new(
        "stale-translation",
        "T2",
        "read through a translation on another CPU after its entry was replaced without a flush",
        stale_translation,
    ),
    Attack::new(
        "write-remembered-table",
        "T2",
        "write through a translation on another CPU, after its entry was replaced without a flush and the page became a new guest's page table",
        write_remembered_table,
    )
    .on_new(),
    Attack::new(
        "destroyed-while-mapped",
        "T3",
        "hold maps of all its pages while it is destroyed, and read them",
        |scene| {
            let frames: Vec<Frame> = scene.prey.pages(scene.xen)?.iter().map(|(_, frame, _)| *frame).collect();
            let maps = maps(scene, &frames)?;
            control(scene.xen, scene.id(), DESTROYDOMAIN, &[]).map(drop).or_else(|error| match error.errno() {
                // It is not gone as long as it is mapped.
                Some(EAGAIN | ERESTART) => Ok(()),
                _ => Err(error),
            })?;
            secret_in(&contents(&maps), "pages of a destroyed guest")
        },
    )
    .fatal(),
    Attack::new(
        "mapper-killed",
        "T3",
        "have a process that holds maps of a new guest die while that starts; read it from another one",
        |scene| {
            let mut mapper = holder(scene)?;
            let killer = thread::spawn(move || {
                sleep(Duration::from_millis(20));
                let _ = mapper.kill();
                mapper.wait()
            });
            let data = building::free_page(scene.xen, scene.id())?;
            let held = scene.map(data, false)?;
            let came = kept(scene, &held);
            killer.join().expect("the thread does not panic")?;
            came
        },
    )
    .on_new(),
];

fn over_start(scene: &Scene<'_>, pages: Pages, harm: impl Fn(&Value) -> bool) -> Result<Came> {
    let answer = building::maps_over_unpause(scene.xen, scene.id(), pages, STARTED)?;
    judge_start(&answer, harm)
}

/// What came of a guest's start that should have been refused.
pub fn judge_start(answer: &Value, harm: impl Fn(&Value) -> bool) -> Result<Came> {
    let errno = answer["errno"].as_i64().context("no errno")?;
    Ok(match errno {
        0 if harm(answer) => Came::Through(answer.to_string()),
        0 => Came::Nothing(format!("it starts: {answer}")),
        errno => Came::Refused(errno as i32),
    })
}

/// Starts the guest, and looks whether a map shows its secret then.
fn kept(scene: &Scene<'_>, held: &ForeignMap) -> Result<Came> {
    after(control(scene.xen, scene.id(), UNPAUSEDOMAIN, &[]), |_| {
        sleep(STARTED);
        secret_in(
            &held.page(0).context("the map is gone")?,
            "a page that was kept mapped",
        )
    })
}

/// A free page of a new guest, and a map of it by a grant that dom0 wrote itself, and took back.
fn grant(scene: &Scene<'_>) -> Result<(Frame, ForeignMap)> {
    const REFERENCE: u32 = 100;
    let data = building::free_page(scene.xen, scene.id())?;
    let table = building::grant_frame(scene.xen, scene.id())?;
    let at = REFERENCE as usize * 8;
    building::write(scene.xen, scene.id(), table, at, 1 | data.0 << 32)?;
    let map = map_grant(scene.id(), REFERENCE, false)?;
    // Xen notes in the flags that it is in use; dom0 has written all of it, and does again.
    building::write(scene.xen, scene.id(), table, at, 0)?;
    Ok((data, map))
}

/// Whatever Xen answers: what counts is which frame stands in the third domain's table.
fn map_into_third(scene: &Scene<'_>) -> Result<Came> {
    let [data, _] = scene.data()?;
    let third = Prey::build(scene.xen)?;
    let spy = Scene {
        xen: scene.xen,
        prey: &third,
    };
    let tables = crate::frames::typed_frames(scene.xen, spy.id())?;
    // The last entry of a table; it may name a page of the third's, which has no need of it yet.
    let mut tables = tables.iter().rev();
    let table = tables.find(|(_, kind)| *kind == PageType::PageTable(1));
    let (table, place) = (table.context("a new guest has no page table")?.0, 511);
    let at = (address(table) + 8 * place as u64) | update::PAGE_TABLE;
    let made = mmu_update(
        scene.xen,
        foreign(scene.number(), Some(spy.number())),
        at,
        address(data.frame) | entry::PRESENT | entry::USER | entry::ACCESSED,
    );
    let came = after(made, |()| {
        let page = spy.read(table)?.context("the table cannot be read any more")?;
        let found = u64::from_le_bytes(page.as_chunks::<8>().0[place]);
        Ok(match (found & entry::FRAME) >> 12 {
            frame if frame == data.frame.0 => Came::Through("the table names the page itself".to_owned()),
            _ => Came::Nothing("the table names a replica".to_owned()),
        })
    });
    third.destroy()?;
    came
}

/// A thread looks at a page without a pause; meanwhile another one has the address mean another page.
fn stale_translation(scene: &Scene<'_>) -> Result<Came> {
    let [a, b] = scene.data()?;
    let needle = u64::from_le_bytes(
        *secret::needle()
            .as_bytes()
            .first_chunk()
            .expect("a needle is longer"),
    );
    // `NEEDLE_AT` of the kernel, in bytes.
    let at = 8 * vmcrypt_kernel::NEEDLE_AT;
    let (mut seen, mut stale) = (0u64, 0u64);
    for _ in 0..50 {
        let held = scene.map(a.frame, false)?;
        let before: u64 = held.get(0, 0);
        let (go, replaced) = (AtomicBool::new(false), AtomicBool::new(false));
        let (found, old) = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut found, mut old) = (0, 0);
                go.store(true, Ordering::SeqCst);
                for _ in 0..200_000 {
                    let late = replaced.load(Ordering::SeqCst);
                    let word: u64 = held.get(0, 0);
                    found += u64::from(held.get::<u64>(0, at) == needle);
                    old += u64::from(late && word == before);
                }
                (found, old)
            });
            while !go.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            sleep(Duration::from_millis(1));
            const NO_FLUSH: u64 = 0;
            let arguments = [
                held.address(),
                address(b.frame) | entry::DOM0,
                NO_FLUSH,
                scene.number(),
            ];
            let made = scene.xen.call(
                "another page",
                crate::calls::UPDATE_VA_MAPPING_OTHERDOMAIN,
                &arguments,
            );
            replaced.store(true, Ordering::SeqCst);
            let counts = reader.join().expect("the reader does not panic");
            made.map(|_| counts)
        })?;
        seen += found;
        stale += old;
    }
    let what = format!("{stale} reads by a stale translation");
    Ok(match seen {
        0 => Came::Nothing(format!("{what}, no secret in any")),
        _ => Came::Through(format!("{what}; secret read {seen} times")),
    })
}

/// A thread writes to a page without a pause; meanwhile another one has the address mean another page, and makes the first
/// one a page table. What is written then is no entry that the CPU would follow, but Xen did not look at it either.
fn write_remembered_table(scene: &Scene<'_>) -> Result<Came> {
    const PIN_L1_TABLE: u32 = 0;
    const UNPIN_TABLE: u32 = 4;
    const NO_FLUSH: u64 = 0;
    const ABSENT: u64 = 0x5afe << 12;
    let table = building::free_page(scene.xen, scene.id())?;
    let other = building::free_page_but(scene.xen, scene.id(), &[table])?;
    // The builder has all of a new guest's pages in its page tables, writable.
    let (own, _) = scene.entry_of(Data { frame: table, pfn: 0 })?;
    let number = scene.number();
    mmu_update(
        scene.xen,
        foreign(number, Some(number)),
        own | update::PAGE_TABLE,
        0,
    )?;
    let mut written = 0;
    const ROUNDS: usize = 50;
    for _ in 0..ROUNDS {
        let mut held = scene.map(table, true)?;
        held.put(0, 0, 0u64);
        let at = held.address();
        let (go, pinned) = (AtomicBool::new(false), AtomicBool::new(false));
        let made = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                go.store(true, Ordering::SeqCst);
                for _ in 0..200_000 {
                    let value = if pinned.load(Ordering::SeqCst) { ABSENT } else { 0 };
                    held.put(0, 0, value);
                }
            });
            while !go.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            sleep(Duration::from_millis(1));
            let flags = entry::DOM0 | entry::WRITABLE;
            let arguments = [at, address(other) | flags, NO_FLUSH, scene.number()];
            let made = scene
                .xen
                .call(
                    "another page",
                    crate::calls::UPDATE_VA_MAPPING_OTHERDOMAIN,
                    &arguments,
                )
                .and_then(|_| mmuext(scene.xen, scene.id(), PIN_L1_TABLE, table.0, 0));
            pinned.store(true, Ordering::SeqCst);
            writer.join().expect("the writer does not panic");
            made
        });
        drop(held);
        if let Err(error) = made {
            return Ok(Came::Refused(error.errno().context("the call was not made")?));
        }
        let page = scene.read(table)?.context("the table cannot be read")?;
        written += usize::from(page[..8] == ABSENT.to_le_bytes());
        mmuext(scene.xen, scene.id(), UNPIN_TABLE, table.0, 0)?;
    }
    Ok(match written {
        0 => Came::Nothing(format!("no write reached the table in {ROUNDS} tries")),
        _ => Came::Through(format!("{written} of {ROUNDS} writes reached the table")),
    })
}

/// Another process of this program that holds all pages.
pub fn holder(scene: &Scene<'_>) -> Result<std::process::Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["hold", &scene.number().to_string(), "1000000", "1000"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut line)?;
    ensure!(line.contains("\"0\""), "the other process mapped nothing: {line}");
    Ok(child)
}

fn maps(scene: &Scene<'_>, frames: &[Frame]) -> Result<Vec<ForeignMap>> {
    let maps = frames.chunks(xen::BATCH);
    Ok(maps
        .map(|batch| scene.xen.map_foreign(scene.id(), batch, false))
        .collect::<Result<_, _>>()?)
}

fn contents(maps: &[ForeignMap]) -> Vec<u8> {
    let pages = maps
        .iter()
        .flat_map(|map| (0..map.len()).filter_map(|i| map.page(i)));
    pages.flatten().collect()
}

/// The tiny kernel boots within this time.
const STARTED: Duration = Duration::from_secs(3);
const DESTROYDOMAIN: u32 = 2;
const UNPAUSEDOMAIN: u32 = 4;
const EAGAIN: i32 = 11;
const ERESTART: i32 = 85;
