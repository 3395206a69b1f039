//! Maps of a guest's frames, by the thousand.

use crate::frames::owned_frames;
use crate::prey::Prey;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::xen::{self, DomId, Frame};

pub fn map(xen: &Privcmd, domain: DomId, frames: &[u64], writable: bool) -> Result<Value> {
    let frames: Vec<Frame> = frames.iter().copied().map(Frame).collect();
    let answers: BTreeMap<String, Value> = match xen.map_foreign(domain, &frames, writable) {
        Ok(map) => frames
            .iter()
            .enumerate()
            .map(|(i, frame)| (format!("{:#x}", frame.0), json!(map.refusal(i).unwrap_or(0))))
            .collect(),
        Err(error) => BTreeMap::from([("all".to_owned(), json!(error.errno()))]),
    };
    Ok(json!(answers))
}

/// The outcome of mapping many frames: how often which errno, 0 being success.
#[derive(Default)]
struct Outcomes(BTreeMap<i32, u64>);

impl Outcomes {
    fn add(&mut self, xen: &Privcmd, domain: DomId, frames: &[Frame], writable: bool) {
        match xen.map_foreign(domain, frames, writable) {
            Ok(map) => {
                (0..frames.len()).for_each(|i| *self.0.entry(map.refusal(i).unwrap_or(0)).or_default() += 1)
            }
            Err(error) => *self.0.entry(error.errno().unwrap_or(-1)).or_default() += frames.len() as u64,
        }
    }

    fn json(&self) -> Value {
        self.0
            .iter()
            .map(|(errno, count)| (errno.to_string(), json!(count)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

pub fn map_writable(xen: &Privcmd, domain: DomId) -> Result<Value> {
    let mut outcomes = Outcomes::default();
    for batch in owned_frames(xen, domain)?.chunks(xen::BATCH) {
        outcomes.add(xen, domain, batch, true);
    }
    Ok(outcomes.json())
}

pub fn map_storm(xen: &Privcmd, domain: DomId, limit: Duration) -> Result<Value> {
    let (start, mut outcomes, mut rounds) = (Instant::now(), Outcomes::default(), 0u64);
    let frames = owned_frames(xen, domain)?;
    // Whoever waits to disturb the storm sees that it has begun.
    println!("{}", json!("storm"));
    while start.elapsed() < limit && xen::domains(xen)?.iter().any(|one| one.id == domain) {
        for batch in frames.chunks(xen::BATCH) {
            outcomes.add(xen, domain, batch, false);
        }
        rounds += 1;
    }
    Ok(json!({ "rounds": rounds, "errnos": outcomes.json() }))
}

/// Maps a guest's pages again and again, some of them all the time, to see for ever which of them change: until Xen maps no
/// more, as long as any is held, and then does again.
pub fn wear_out(xen: &Privcmd) -> Result<Value> {
    /// No limit is as high.
    const ROUNDS: usize = 1000;
    const HELD: usize = 64;
    let prey = Prey::start(xen)?;
    let domain = prey.domain.id;
    let frames = owned_frames(xen, domain)?;
    ensure!(frames.len() > HELD, "the guest has {} pages", frames.len());
    let mut outcomes = Outcomes::default();
    let held = xen.map_foreign(domain, &frames[..HELD], false)?;
    for _ in 0..ROUNDS {
        outcomes.add(xen, domain, &frames[HELD..], false);
        if outcomes.0.keys().any(|errno| *errno != 0) {
            break;
        }
    }
    let mut while_held = Outcomes::default();
    while_held.add(xen, domain, &frames[HELD..], false);
    drop(held);
    let mut after = Outcomes::default();
    after.add(xen, domain, &frames, false);
    let damage = prey.intact(xen);
    prey.destroy()?;
    Ok(json!({
        "pages": frames.len(), "errnos": outcomes.json(), "while_held": while_held.json(), "after": after.json(),
        "damage": damage,
    }))
}

pub fn hold(xen: &Privcmd, domain: DomId, count: u64, time: Duration) -> Result<Value> {
    let frames = owned_frames(xen, domain)?;
    let frames = &frames[..frames.len().min(count as usize)];
    let mut errnos: BTreeMap<i32, u64> = BTreeMap::new();
    let mut held = Vec::new();
    for batch in frames.chunks(xen::BATCH) {
        let map = xen.map_foreign(domain, batch, false)?;
        for i in 0..batch.len() {
            *errnos.entry(map.refusal(i).unwrap_or(0)).or_default() += 1;
        }
        held.push(map);
    }
    let errnos: serde_json::Map<String, Value> = errnos
        .into_iter()
        .map(|(errno, count)| (errno.to_string(), json!(count)))
        .collect();
    println!("{}", json!(errnos));
    sleep(time);
    drop(held);
    Ok(json!("released"))
}
