//! Pages that come, go, and are replaced.

use super::{Attack, Came, Data, Scene, after, let_through, secret_in};
use crate::calls::{control, foreign, memory, mmu_update, pair, refused};
use crate::prey::Prey;
use anyhow::{Context, Result};
use vmcrypt_tools::hypercall::{Buffer, Error, Privcmd};
use vmcrypt_tools::xen::{DomId, Frame};

pub const ATTACKS: &[Attack] = &[
    Attack::new("take-page-away", "6", "free a data page", |scene| {
        let [data, _] = scene.data()?;
        let_through(reserve(scene.xen, DECREASE, scene.id(), data.frame.0, 1))
    }),
    Attack::new(
        "free-and-read",
        "6",
        "free a page, drop the guest's own entry for it, get it for another domain, read it",
        |scene| {
            let [data, _] = scene.data()?;
            let (place, _) = scene.entry_of(data)?;
            // Built before, or the page goes into what it is built of.
            let heir = Prey::build(scene.xen)?;
            let came = after(reserve(scene.xen, DECREASE, scene.id(), data.frame.0, 1), |_| {
                // The guest's own entry was the last to hold it.
                let own = foreign(scene.number(), Some(scene.number()));
                after(mmu_update(scene.xen, own, place, 0), |()| {
                    inherit(scene.xen, &heir, data.frame)
                })
            });
            heir.destroy()?;
            came
        },
    ),
    Attack::new(
        "exchange",
        "7",
        "have a page replaced by another frame",
        |scene| {
            let [data, _] = scene.data()?;
            if let Err(error) = drop_entry(scene, data) {
                return after(Err::<(), _>(error.downcast::<Error>()?), |()| unreachable!());
            }
            exchange(scene, data)
        },
    ),
    Attack::new(
        "exchange-mapped",
        "7",
        "the same with a page that its page tables name",
        |scene| {
            let [data, _] = scene.data()?;
            exchange(scene, data)
        },
    )
    .argued("Xen replaces only a page that nothing names"),
    Attack::new(
        "populate",
        "8, R7",
        "give the guest a fresh page under a PFN that it has",
        |scene| {
            let [data, _] = scene.data()?;
            let_through(reserve(scene.xen, POPULATE, scene.id(), data.pfn, 1))
        },
    ),
    Attack::new("increase", "8, R7", "give the guest a fresh page", |scene| {
        let_through(reserve(scene.xen, INCREASE, scene.id(), 0, 1))
    }),
    Attack::new(
        "set-memory-map",
        "8",
        "give the guest another memory map than the one that was measured",
        |scene| {
            // One `struct e820entry`: RAM as large as the domain is.
            let mut entry = scene.xen.buffer(20)?;
            entry.put(8, scene.domain().pages * 4096);
            entry.put(16, 1u32);
            let_through(memory(
                scene.xen,
                SET_MEMORY_MAP,
                &[pair(scene.id().0.into(), 1), 0, entry.address()],
            ))
        },
    ),
    Attack::new(
        "add-to-physmap",
        "8",
        "place a frame of it at another PFN",
        |scene| {
            let [a, b] = scene.data()?;
            // Space 2: the domain's own frames.
            let_through(memory(
                scene.xen,
                ADD_TO_PHYSMAP,
                &[scene.number(), 2, a.frame.0, b.pfn],
            ))
        },
    )
    .argued("a PV guest has no such map of Xen's"),
];

/// A reservation of pages. These calls return how many they handled, so that too few is a refusal without a reason.
pub fn reserve(xen: &Privcmd, command: u64, domain: DomId, page: u64, count: u64) -> Result<Buffer, Error> {
    let mut extents = xen.buffer(count as usize * 8)?;
    extents.put(0, page);
    match memory(xen, command, &[extents.address(), count, 0, domain.0.into()])? {
        (0, _) => Err(refused("a change of the reservation", EPERM)),
        _ => Ok(extents),
    }
}

fn drop_entry(scene: &Scene<'_>, data: Data) -> Result<()> {
    let (place, _) = scene.entry_of(data)?;
    let own = foreign(scene.number(), Some(scene.number()));
    Ok(mmu_update(scene.xen, own, place, 0)?)
}

/// Has another domain, which dom0 may do anything with, take memory until the frame is its own.
fn inherit(xen: &Privcmd, heir: &Prey, frame: Frame) -> Result<Came> {
    const MOST: u64 = 4096;
    control(xen, heir.domain.id, MAX_MEM, &[u64::from(u32::MAX)])?;
    let mut came = Came::Nothing("the frame did not come up again".to_owned());
    for _ in 0..MOST {
        let got = reserve(xen, INCREASE, heir.domain.id, 0, 1)?;
        if got.get::<u64>(0) == frame.0 {
            let page = xen.map_foreign(heir.domain.id, &[frame], false)?.page(0);
            came = secret_in(&page.context("the frame cannot be read")?, "the freed page")?;
            break;
        }
    }
    Ok(came)
}

fn exchange(scene: &Scene<'_>, data: Data) -> Result<Came> {
    let (mut given, mut taken) = (scene.xen.buffer(8)?, scene.xen.buffer(8)?);
    given.put(0, data.frame.0);
    taken.put(0, data.pfn);
    let half = |extents: &Buffer| [extents.address(), 1, 0, scene.number()];
    let both = [half(&given).as_slice(), &half(&taken), &[0]].concat();
    after(memory(scene.xen, EXCHANGE, &both), |_| {
        Ok(Came::Through(format!(
            "{:#x} became {:#x}",
            data.frame.0,
            taken.get::<u64>(0)
        )))
    })
}

const INCREASE: u64 = 0;
const DECREASE: u64 = 1;
const POPULATE: u64 = 6;
const ADD_TO_PHYSMAP: u64 = 7;
const EXCHANGE: u64 = 11;
const SET_MEMORY_MAP: u64 = 13;
const MAX_MEM: u32 = 11;
const EPERM: i32 = 1;
