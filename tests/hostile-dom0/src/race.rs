//! Threads of dom0 that disturb each other around one guest after the other: maps while it is started, paused, saved,
//! destroyed, and mappers that die.

use crate::attacks::Scene;
use crate::calls::control;
use crate::frames::typed_frames;
use crate::prey::Prey;
use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use vmcrypt_guest::secret;
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::needle::{Needles, Search};
use vmcrypt_tools::xen::{self, Frame};

/// What the threads did and saw.
#[derive(Default)]
struct Seen {
    maps: AtomicU64,
    needles: AtomicU64,
    pauses: AtomicU64,
    starts_refused: AtomicU64,
    stop: AtomicBool,
}

/// Races until the time is over, or something was seen that must not be.
pub fn race(xen: &Privcmd, seconds: u64, seed: u64) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut rng = Rng::with_seed(seed);
    let seen = Seen::default();
    let (mut rounds, mut saves, mut failed, mut killed) = (0, 0, 0, 0);
    let mut damage = None;
    while Instant::now() < deadline && damage.is_none() {
        rounds += 1;
        let mut prey = Prey::build(xen)?;
        start(xen, &mut prey, &seen, &mut rng)?;
        damage = prey.intact(xen);
        while damage.is_none() && rng.u8(..) < 128 && Instant::now() < deadline {
            match live(xen, &prey, &seen, &mut rng)? {
                true => saves += 1,
                false => failed += 1,
            }
            damage = prey.intact(xen);
        }
        killed += end(xen, prey, &seen, &mut rng)?;
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    Ok(json!({
        "seed": seed, "rounds": rounds, "maps": count(&seen.maps), "needles": count(&seen.needles),
        "pauses": count(&seen.pauses), "starts_refused": count(&seen.starts_refused), "saves": saves,
        "saves_failed": failed, "mappers_killed": killed, "damage": damage,
    }))
}

/// Maps come and go while it is started for the first time.
fn start(xen: &Privcmd, prey: &mut Prey, seen: &Seen, rng: &mut Rng) -> Result<()> {
    let frames: Vec<Frame> = typed_frames(xen, prey.domain.id)?
        .into_iter()
        .map(|(frame, _)| frame)
        .collect();
    let id = prey.domain.id;
    with_mappers(xen, prey, &frames, seen, rng, true, || {
        while let Err(error) = control(xen, id, UNPAUSEDOMAIN, &[]) {
            error.errno().context("an unpause cannot be made")?;
            seen.starts_refused.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(1));
        }
        // Some time for the guest to fill its memory, under the eyes of the mappers.
        sleep(Duration::from_millis(1500));
        Ok(())
    })?;
    prey.await_start(xen)
}

/// Maps come and go, and another thread pauses it, while it is saved and goes on. Whether that could be done.
fn live(xen: &Privcmd, prey: &Prey, seen: &Seen, rng: &mut Rng) -> Result<bool> {
    const IMAGE: &str = "/tmp/race.img";
    let frames: Vec<Frame> = prey.pages(xen)?.into_iter().map(|(_, frame, _)| frame).collect();
    let id = prey.domain.id;
    let saved = with_mappers(xen, prey, &frames, seen, rng, false, || {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    if control(xen, id, PAUSEDOMAIN, &[]).is_ok() {
                        seen.pauses.fetch_add(1, Ordering::SeqCst);
                        sleep(Duration::from_millis(2));
                        while control(xen, id, UNPAUSEDOMAIN, &[]).is_err() {
                            sleep(Duration::from_millis(1));
                        }
                    }
                    sleep(Duration::from_millis(20));
                }
            });
            let mut save = Command::new("xl");
            let save = save.args(["save", "-c", &prey.name, IMAGE]).stdout(Stdio::null());
            let status = save.stderr(Stdio::null()).status();
            over.store(true, Ordering::SeqCst);
            Ok(status?.success())
        })
    })?;
    if let Ok(image) = fs::read(IMAGE) {
        search(&image, seen)?;
        fs::remove_file(IMAGE)?;
    }
    Ok(saved)
}

/// Maps come and go, and a process that holds all of them is killed, while it is destroyed. How many died.
fn end(xen: &Privcmd, prey: Prey, seen: &Seen, rng: &mut Rng) -> Result<u64> {
    let frames: Vec<Frame> = prey.pages(xen)?.into_iter().map(|(_, frame, _)| frame).collect();
    let mut mapper = crate::attacks::counting::holder(&Scene { xen, prey: &prey })?;
    let wait = Duration::from_millis(rng.u64(..30));
    with_mappers(xen, &prey, &frames, seen, rng, false, || {
        thread::scope(|scope| {
            let killer = scope.spawn(|| {
                sleep(wait);
                mapper.kill().and_then(|()| mapper.wait())
            });
            let destroyed = prey.destroy();
            killer.join().expect("the killer does not panic")?;
            destroyed
        })
    })?;
    // Nobody maps it any more: it must be gone.
    let deadline = Instant::now() + Duration::from_secs(20);
    while xen::domains(xen)?
        .iter()
        .any(|domain| domain.id == prey.domain.id)
    {
        anyhow::ensure!(Instant::now() < deadline, "a destroyed domain does not go away");
        sleep(Duration::from_millis(20));
    }
    Ok(1)
}

/// Does something while two threads map, read and unmap frames.
fn with_mappers<T>(
    xen: &Privcmd,
    prey: &Prey,
    frames: &[Frame],
    seen: &Seen,
    rng: &mut Rng,
    writable: bool,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    seen.stop.store(false, Ordering::SeqCst);
    let id = prey.domain.id;
    thread::scope(|scope| {
        let mappers: Vec<_> = (0..2)
            .map(|_| {
                let mut rng = rng.fork();
                scope.spawn(move || -> Result<()> {
                    while !seen.stop.load(Ordering::SeqCst) {
                        let some: Vec<Frame> = (0..rng.usize(1..32))
                            .map(|_| frames[rng.usize(..frames.len())])
                            .collect();
                        // Of a domain that is gone the whole batch is refused.
                        if let Ok(map) = xen.map_foreign(id, &some, writable && rng.bool()) {
                            sleep(Duration::from_micros(rng.u64(..3000)));
                            for page in (0..some.len()).filter_map(|i| map.page(i)) {
                                seen.maps.fetch_add(1, Ordering::SeqCst);
                                search(&page, seen)?;
                            }
                        }
                        sleep(Duration::from_micros(rng.u64(..10_000)));
                    }
                    Ok(())
                })
            })
            .collect();
        let done = act();
        seen.stop.store(true, Ordering::SeqCst);
        for mapper in mappers {
            mapper.join().expect("a mapper does not panic")?;
        }
        done
    })
}

fn search(bytes: &[u8], seen: &Seen) -> Result<()> {
    let needles = Needles::new([secret::needle().into_bytes()])?;
    seen.needles
        .fetch_add(Search::new(&needles).feed(bytes), Ordering::SeqCst);
    Ok(())
}

const PAUSEDOMAIN: u32 = 3;
const UNPAUSEDOMAIN: u32 = 4;
