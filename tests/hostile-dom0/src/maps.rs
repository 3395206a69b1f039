//! Maps of a guest's frames, by the thousand.

use crate::frames::owned_frames;
use anyhow::Result;
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
