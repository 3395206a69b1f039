//! The frames behind dom0's maps of a guest, looked for under every name that an owner of memory has.

use crate::frames::{find, typed_frames};
use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use vmcrypt_guest::secret;
use vmcrypt_tools::content::{Content, PAGE};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::needle::{Needles, Search};
use vmcrypt_tools::xen::{self, DomId, Frame, PageType};

/// Owners other than the guest: dom0 by its number and as itself, those that Xen's `public/xen.h` names (IO, XEN,
/// COW), and the one that VMCrypt gave its replicas.
const OWNERS: [u16; 6] = [0, 0x7ff0, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff8];

/// Holds maps of a guest's data pages and meanwhile maps every frame of the machine as each owner's. For each of them:
/// frames `mapped`, how many show `content` that looks random and that the held maps show too, and how many hold a
/// line of the `secret`.
pub fn seek(xen: &Privcmd, domain: DomId) -> Result<Value> {
    let limit = xen::frame_limit(xen, &find(xen, domain)?)?;
    let data: Vec<Frame> = typed_frames(xen, domain)?
        .into_iter()
        .filter(|(_, kind)| *kind == PageType::Data)
        .map(|(frame, _)| frame)
        .collect();
    let held = &data[data.len().saturating_sub(xen::BATCH)..];
    let maps = xen.map_foreign(domain, held, false)?;
    let state = RandomState::new();
    // Hashes alone, so that this process itself holds no copy.
    let contents: HashSet<u64> = (0..held.len())
        .filter_map(|i| noise(&state, &maps.page(i)?))
        .collect();

    let needles = Needles::new([secret::needle().into_bytes()])?;
    let all: Vec<Frame> = (0..limit).map(Frame).collect();
    let mut answers = Map::new();
    for owner in OWNERS.into_iter().chain([domain.0]) {
        let (mut mapped, mut content, mut lines) = (0, 0, 0);
        let mut search = Search::new(&needles);
        for batch in all.chunks(xen::BATCH) {
            // Of an owner that does not exist the whole batch is refused.
            let Ok(map) = xen.map_foreign(DomId(owner), batch, false) else {
                continue;
            };
            for page in (0..batch.len()).filter_map(|i| map.page(i)) {
                mapped += 1;
                content += u64::from(noise(&state, &page).is_some_and(|hash| contents.contains(&hash)));
                search.cut();
                lines += search.feed(&page);
            }
        }
        let answer = json!({ "mapped": mapped, "content": content, "secret": lines });
        let name = if owner == domain.0 {
            "guest".to_owned()
        } else {
            format!("{owner:#x}")
        };
        answers.insert(name, answer);
    }
    let still = (0..held.len()).filter(|&i| maps.page(i).is_some()).count();
    ensure!(
        still == held.len(),
        "only {still} of {} maps were held",
        held.len()
    );
    Ok(json!({ "frames": limit, "held": held.len(), "random": contents.len(), "owners": answers }))
}

/// A page's hash, if it looks random: only then is an equal page the same one.
fn noise(state: &RandomState, page: &[u8; PAGE]) -> Option<u64> {
    (Content::of(page) == Content::Random).then(|| state.hash_one(page))
}
