//! An evil (or clumsy) dom0: bare hypercalls that no toolstack makes. Prints what Xen answered, as JSON, and judges
//! nothing; that is for the case that runs it.

mod attacks;
mod building;
mod calls;
mod export;
mod fuzz;
mod launch;
mod lent;
mod prey;
mod race;
mod replicas;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_guest::pattern;
use vmcrypt_tools::hypercall::{Buffer, Error, Privcmd};
use vmcrypt_tools::xen::{self, DomId, Domain, Frame, HYPERVISOR_DOMCTL, PageType, domctl};

/// What an evil dom0 would try.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    attack: Attack,
}

#[derive(Subcommand)]
enum Attack {
    /// Read the registers of a running guest again and again, hunting for the test guest's pattern
    Registers { domid: u16, reads: u32 },
    /// Map a guest's frames one by one, so many times all over, with a pattern in dom0's own vector registers
    OwnRegisters { domid: u16, rounds: u32 },
    /// Map frames by number and say what became of each
    Map {
        domid: u16,
        #[arg(required = true)]
        frames: Vec<u64>,
        #[arg(long)]
        writable: bool,
    },
    /// Map every frame of a guest writable
    MapWritable { domid: u16 },
    /// Map and unmap every frame of a guest until it is gone or the time is over
    MapStorm { domid: u16, seconds: u64 },
    /// Map this many frames of a guest and hold them
    Hold { domid: u16, frames: u64, seconds: u64 },
    /// Give a vCPU its own XSAVE record back with this many bytes more or less
    XsaveSize {
        domid: u16,
        #[arg(allow_hyphen_values = true)]
        difference: i64,
    },
    /// Stop a guest as if it had asked to be suspended
    RemoteSuspend { domid: u16 },
    /// Set a running guest's registers to what was just read of them
    SetRegisters { domid: u16 },
    /// Map pages of a paused, new guest, unpause it all the same, and look at them some seconds later
    MapsOverUnpause {
        domid: u16,
        what: building::Pages,
        seconds: u64,
    },
    /// Write an entry into the grant table of a paused, new guest that opens a data page to dom0, and unpause it
    ForgeGrant { domid: u16, seconds: u64 },
    /// Use such a grant as a device would, without a map, take the entry away, and unpause
    UseGrant { domid: u16, seconds: u64 },
    /// Make the start_info of a paused, new guest name a data page as a ring, and unpause it
    ForgeRing { domid: u16, ring: building::Ring },
    /// Number, kind and SHA-256 of each page of a paused, new guest, as a launch measurement takes them in
    LaunchPages { domid: u16 },
    /// Change one byte of a paused, new guest
    LaunchEdit { domid: u16, what: launch::Edit },
    /// Save a guest that writes, and leave out what it wrote last
    StaleExport { domid: u16, seconds: u64 },
    /// Let a suspended guest go on
    Resume { domid: u16 },
    /// Hold maps of a guest and look for the frames behind them under every owner's name
    SeekReplicas { domid: u16 },
    /// Have threads start, map, pause, save and destroy guests at the same time
    Race {
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Make random calls on a tiny guest
    Fuzz {
        #[arg(long, default_value_t = 1_000_000)]
        operations: u64,
        #[arg(long, default_value_t = 3600)]
        seconds: u64,
        /// Makes the same choices again
        #[arg(long)]
        seed: Option<u64>,
        /// Say which calls are left out, and why
        #[arg(long)]
        left_out: bool,
    },
    /// Make the attacks of the registry, all if none is named, each on a tiny guest of its own
    Attacks {
        names: Vec<String>,
        /// Name them and make none
        #[arg(long)]
        list: bool,
        /// Where a line of JSON for each goes
        #[arg(long, default_value = "/dev/stdout")]
        report: PathBuf,
    },
}

fn main() -> Result<()> {
    let xen = Privcmd::open()?;
    let answer = match Cli::parse().attack {
        Attack::Registers { domid, reads } => registers(&xen, DomId(domid), reads)?,
        Attack::OwnRegisters { domid, rounds } => {
            let frames = owned_frames(&xen, DomId(domid))?;
            lent::over_maps(DomId(domid), &frames[..frames.len().min(xen::BATCH)], rounds)?
        }
        Attack::Map {
            domid,
            frames,
            writable,
        } => map(&xen, DomId(domid), &frames, writable)?,
        Attack::MapWritable { domid } => map_writable(&xen, DomId(domid))?,
        Attack::MapStorm { domid, seconds } => map_storm(&xen, DomId(domid), Duration::from_secs(seconds))?,
        Attack::Hold {
            domid,
            frames,
            seconds,
        } => hold(&xen, DomId(domid), frames, Duration::from_secs(seconds))?,
        Attack::XsaveSize { domid, difference } => xsave_size(&xen, DomId(domid), difference)?,
        Attack::RemoteSuspend { domid } => errno(remote_suspend(&xen, DomId(domid)))?,
        Attack::SetRegisters { domid } => errno(set_registers(&xen, DomId(domid)))?,
        Attack::MapsOverUnpause { domid, what, seconds } => {
            building::maps_over_unpause(&xen, DomId(domid), what, Duration::from_secs(seconds))?
        }
        Attack::ForgeGrant { domid, seconds } => {
            building::forge_grant(&xen, DomId(domid), Duration::from_secs(seconds))?
        }
        Attack::UseGrant { domid, seconds } => {
            building::use_grant(&xen, DomId(domid), Duration::from_secs(seconds))?
        }
        Attack::ForgeRing { domid, ring } => building::forge_ring(&xen, DomId(domid), ring)?,
        Attack::LaunchPages { domid } => return launch::pages(&xen, DomId(domid)),
        Attack::LaunchEdit { domid, what } => launch::edit(&xen, DomId(domid), what)?,
        Attack::StaleExport { domid, seconds } => {
            export::stale(&xen, DomId(domid), Duration::from_secs(seconds))?
        }
        Attack::Resume { domid } => errno(export::resume(&xen, DomId(domid)))?,
        Attack::SeekReplicas { domid } => replicas::seek(&xen, DomId(domid))?,
        Attack::Race { seconds, seed } => race::race(&xen, seconds, seed)?,
        Attack::Fuzz { left_out: true, .. } => json!(fuzz::LEFT_OUT),
        Attack::Fuzz {
            operations,
            seconds,
            seed,
            ..
        } => fuzz::fuzz(
            &xen,
            operations,
            seconds,
            seed.unwrap_or_else(|| fastrand::u64(..)),
        )?,
        Attack::Attacks { list: true, .. } => attacks::list(),
        Attack::Attacks { names, report, .. } => {
            attacks::make(&xen, &names, &mut File::create(report)?)?;
            return Ok(());
        }
    };
    println!("{answer}");
    Ok(())
}

fn registers(xen: &Privcmd, domain: DomId, reads: u32) -> Result<Value> {
    let (mut general, mut vector, mut refused) = (0, 0, 0);
    for _ in 0..reads {
        match get_context(xen, domain) {
            Ok(context) => general += u32::from(pattern::count(&context.bytes(0, CONTEXT_BYTES)) > 0),
            Err(Error::Refused { .. }) => refused += 1,
            Err(other) => return Err(other.into()),
        }
        match get_xsave(xen, domain) {
            Ok(state) => vector += u32::from(pattern::count(&state) > 0),
            Err(Error::Refused { .. }) => refused += 1,
            Err(other) => return Err(other.into()),
        }
        sleep(Duration::from_millis(2));
    }
    Ok(json!({ "reads": reads, "general": general, "vector": vector, "refused": refused }))
}

fn map(xen: &Privcmd, domain: DomId, frames: &[u64], writable: bool) -> Result<Value> {
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

fn map_writable(xen: &Privcmd, domain: DomId) -> Result<Value> {
    let mut outcomes = Outcomes::default();
    for batch in owned_frames(xen, domain)?.chunks(xen::BATCH) {
        outcomes.add(xen, domain, batch, true);
    }
    Ok(outcomes.json())
}

fn map_storm(xen: &Privcmd, domain: DomId, limit: Duration) -> Result<Value> {
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

fn hold(xen: &Privcmd, domain: DomId, count: u64, time: Duration) -> Result<Value> {
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

/// The frames that a domain owns.
fn owned_frames(xen: &Privcmd, domain: DomId) -> Result<Vec<Frame>> {
    Ok(typed_frames(xen, domain)?
        .into_iter()
        .map(|(frame, _)| frame)
        .collect())
}

/// The frames that a domain owns and what they are, found as an attacker would: by asking about every frame there is.
fn typed_frames(xen: &Privcmd, domain: DomId) -> Result<Vec<(Frame, PageType)>> {
    let target = find(xen, domain)?;
    let all: Vec<Frame> = (0..xen::frame_limit(xen, &target)?).map(Frame).collect();
    let mut owned = Vec::new();
    for batch in all.chunks(xen::BATCH) {
        let types = xen::page_types(xen, domain, batch)?;
        let all = batch.iter().copied().zip(types);
        owned.extend(all.filter(|(_, kind)| *kind != PageType::Invalid));
    }
    Ok(owned)
}

fn find(xen: &Privcmd, domain: DomId) -> Result<Domain> {
    let domains = xen::domains(xen)?;
    let found = domains.into_iter().find(|one| one.id == domain);
    found.with_context(|| format!("there is no domain {domain}"))
}

fn xsave_size(xen: &Privcmd, domain: DomId, difference: i64) -> Result<Value> {
    // A protected guest that runs gives none out: then any bytes will do.
    let state = get_xsave(xen, domain).unwrap_or_else(|_| vec![0; 4096]);
    let size = state.len().saturating_add_signed(difference as isize);
    let mut buffer = xen.buffer(size)?;
    for (i, byte) in state.iter().take(size).enumerate() {
        buffer.put(i, *byte);
    }
    let mut call = domctl(xen, SETVCPUEXTSTATE, domain)?;
    call.put(domctl::BODY + 8, 0u64);
    call.put(domctl::BODY + 16, size as u64);
    call.put(domctl::BODY + 24, buffer.address());
    let result = xen.call(
        "an XSAVE record of the wrong size",
        HYPERVISOR_DOMCTL,
        &[call.address()],
    );
    let mut answer = errno(result.map(drop))?;
    answer["own_size"] = json!(state.len());
    Ok(answer)
}

fn remote_suspend(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    let mut call = xen.buffer(8)?;
    call.put(0, domain.0);
    call.put(4, SHUTDOWN_SUSPEND);
    xen.call(
        "a suspend by remote",
        HYPERVISOR_SCHED_OP,
        &[SCHEDOP_REMOTE_SHUTDOWN, call.address()],
    )
    .map(drop)
}

fn set_registers(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    let context = get_context(xen, domain)?;
    let mut call = domctl(xen, SETVCPUCONTEXT, domain)?;
    call.put(domctl::BODY + 8, context.address());
    xen.call("new registers", HYPERVISOR_DOMCTL, &[call.address()])
        .map(drop)
}

/// vCPU 0's `vcpu_guest_context_t`.
fn get_context(xen: &Privcmd, domain: DomId) -> Result<Buffer, Error> {
    let context = xen.buffer(CONTEXT_BYTES)?;
    let mut call = domctl(xen, GETVCPUCONTEXT, domain)?;
    call.put(domctl::BODY + 8, context.address());
    xen.call("a vCPU's registers", HYPERVISOR_DOMCTL, &[call.address()])?;
    Ok(context)
}

/// vCPU 0's XSAVE record: its size is asked for first, as libxc does.
fn get_xsave(xen: &Privcmd, domain: DomId) -> Result<Vec<u8>, Error> {
    let mut call = domctl(xen, GETVCPUEXTSTATE, domain)?;
    xen.call(
        "the size of a vCPU's XSAVE record",
        HYPERVISOR_DOMCTL,
        &[call.address()],
    )?;
    let size = call.get::<u64>(domctl::BODY + 16) as usize;
    let buffer = xen.buffer(size)?;
    call.put(domctl::BODY + 24, buffer.address());
    xen.call("a vCPU's XSAVE record", HYPERVISOR_DOMCTL, &[call.address()])?;
    Ok(buffer.bytes(0, size))
}

/// A refusal is a result here, not a failure.
fn errno(result: Result<(), Error>) -> Result<Value> {
    match result {
        Ok(()) => Ok(json!({ "errno": 0 })),
        Err(error) => match error.errno() {
            Some(errno) => Ok(json!({ "errno": errno })),
            None => Err(error.into()),
        },
    }
}

// `xen/include/public/domctl.h`, `sched.h` and `arch-x86/xen.h` of Xen 4.20.
const SETVCPUCONTEXT: u32 = 12;
const GETVCPUCONTEXT: u32 = 13;
const SETVCPUEXTSTATE: u32 = 62;
const GETVCPUEXTSTATE: u32 = 63;
const HYPERVISOR_SCHED_OP: u64 = 29;
const SCHEDOP_REMOTE_SHUTDOWN: u64 = 4;
const SHUTDOWN_SUSPEND: u32 = 2;
/// `sizeof(vcpu_guest_context_t)` on x86-64.
const CONTEXT_BYTES: usize = 5168;
