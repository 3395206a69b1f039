//! Grants, and the frames in which they stand.

use super::{Attack, Came, after, let_through, secret_in};
use crate::building::{self, Ring};
use crate::calls::{grant, memory, pair};
use std::time::Duration;
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::hypercall::{Error, map_grant};
use vmcrypt_tools::xen::Frame;

pub const ATTACKS: &[Attack] = &[
    Attack::new(
        "acquire-grant-table",
        "9",
        "get the frames of its grant table by XENMEM_acquire_resource",
        |scene| {
            let list = scene.xen.buffer(8)?;
            let call = [scene.number() | GRANT_TABLE << 16, 1, 0, list.address()];
            let_through(memory(scene.xen, ACQUIRE_RESOURCE, &call))
        },
    ),
    Attack::new(
        "map-grant-table-writable",
        "9",
        "map its grant table writable",
        |scene| {
            after(building::grant_frame(scene.xen, scene.id()), |frame| {
                let_through(scene.map(frame, true))
            })
        },
    ),
    Attack::new(
        "status-frames",
        "9",
        "get the frames of its grants' states",
        |scene| {
            let list = scene.xen.buffer(8)?;
            let call = [pair(1, scene.id().0.into()), list.address()];
            let_through(grant(scene.xen, GET_STATUS_FRAMES, &call, 6))
        },
    )
    .argued("only a grant table of version 2 has them, and the guest chooses the version"),
    Attack::new(
        "forge-grant",
        "9, 10",
        "write a grant of a data page into its table, and map that",
        |scene| {
            let [data, _] = scene.data()?;
            let table = building::grant_frame(scene.xen, scene.id());
            let opened = table.and_then(|frame| scene.map(frame, true));
            after(opened, |mut table| {
                table.put(
                    0,
                    LAST as usize * 8,
                    u64::from(PERMIT_ACCESS) | data.frame.0 << 32,
                );
                after(map_grant(scene.id(), LAST, false), |map| {
                    let page = map.page(0).unwrap_or([0; PAGE]);
                    secret_in(&page, "a page that was never granted")
                })
            })
        },
    ),
    Attack::new(
        "grant-never-given",
        "10",
        "map a grant that the guest did not give",
        |scene| let_through(map_grant(scene.id(), 100, false)),
    )
    .argued("Xen looks into the guest's table"),
    Attack::new(
        "copy-from-frame",
        "10",
        "copy a data page by its number with GNTTABOP_copy",
        |scene| {
            let [a, b] = scene.data()?;
            // To another page of the guest's: where it goes does not matter.
            let half = |frame: Frame| [frame.0, scene.number()];
            let call = [half(a.frame).as_slice(), &half(b.frame), &[PAGE as u64]].concat();
            let_through(grant(scene.xen, COPY, &call, 36))
        },
    )
    .argued("Xen copies by number between the caller's own pages alone"),
    Attack::new(
        "grant-before-start",
        "10, R9",
        "write a grant into the table of a new guest, and start that",
        |scene| {
            let answer = building::forge_grant(scene.xen, scene.id(), Duration::from_secs(2))?;
            super::counting::judge_start(&answer, |answer| answer["kept"] == true)
        },
    )
    .on_new(),
    Attack::new(
        "grant-in-use",
        "10, R9",
        "use a forged grant of a new guest as a device does, without a map, take the entry away, and start that",
        |scene| {
            let answer = building::use_grant(scene.xen, scene.id(), Duration::from_secs(2))?;
            super::counting::judge_start(&answer, |answer| answer["kept"] == true)
        },
    )
    .on_new(),
    Attack::new(
        "grant-of-table",
        "10, R9",
        "have a grant of a new guest's grant table in use, start the guest, and have Xen write other grants there in between",
        |scene| {
            let wait = Duration::from_secs(2);
            building::grant_of_table(scene.xen, scene.id(), wait).map_or_else(
                |error| match error.downcast_ref::<Error>().and_then(Error::errno) {
                    Some(errno) => Ok(Came::Refused(errno)),
                    None => Err(error),
                },
                |answer| super::counting::judge_start(&answer, |answer| answer["kept"] == true),
            )
        },
    )
    .on_new(),
    Attack::new(
        "ring-on-data",
        "10, R12",
        "have a new guest's start_info name a data page as xenstore's ring",
        |scene| {
            let answer = building::forge_ring(scene.xen, scene.id(), Ring::Store)?;
            super::counting::judge_start(&answer, |_| true)
        },
    )
    .on_new(),
];

const COPY: u64 = 5;
const GET_STATUS_FRAMES: u64 = 9;
const ACQUIRE_RESOURCE: u64 = 28;
/// Kind of resource.
const GRANT_TABLE: u64 = 1;
const PERMIT_ACCESS: u16 = 1;
/// The last entry of the first page: no guest gets that far.
const LAST: u32 = PAGE as u32 / 8 - 1;
