//! The command line.

use crate::calls::{errno, remote_crash, remote_suspend};
use crate::frames::owned_frames;
use crate::{answer, attacks, building, export, fuzz, launch, lent, maps, race, registers, replicas};
use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use vmcrypt_tools::hypercall::{Ports, Privcmd};
use vmcrypt_tools::xen::{BATCH, DomId};

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
    /// Map pages of a tiny guest again and again, until Xen maps no more
    WearOut,
    /// Ask Xen in a guest's name for what it tells a guest about itself
    Ask { domid: u16 },
    /// Give a vCPU its own XSAVE record back with this many bytes more or less
    XsaveSize {
        domid: u16,
        #[arg(allow_hyphen_values = true)]
        difference: i64,
    },
    /// Ask for a guest's record with too little memory for it
    ShortRecord { domid: u16 },
    /// Export a suspended guest once more and write its record into a file
    Record { domid: u16, file: PathBuf },
    /// Stop a guest as if it had asked to be suspended
    RemoteSuspend { domid: u16 },
    /// Stop a guest as if it had crashed
    RemoteCrash { domid: u16 },
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
    /// Write to frames that no domain owns, and say what became of it
    WriteUnowned {
        #[arg(required = true)]
        frames: Vec<u64>,
    },
    /// Write 16 bits to an I/O port
    Port { port: u16, value: u16 },
    /// Leave vCPU 0 of a paused, new guest in a mode without page tables, and unpause it
    VcpuMode { domid: u16 },
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
        #[command(flatten)]
        options: fuzz::Options,
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
        /// Leave out those that a debug build of Xen stops
        #[arg(long)]
        debug_build: bool,
        /// Where a line of JSON for each goes
        #[arg(long, default_value = "/dev/stdout")]
        report: PathBuf,
    },
}

/// Does what the command line says.
pub fn run() -> Result<()> {
    let xen = Privcmd::open()?;
    let answer = match Cli::parse().attack {
        Attack::Registers { domid, reads } => registers::watch(&xen, DomId(domid), reads)?,
        Attack::OwnRegisters { domid, rounds } => {
            let frames = owned_frames(&xen, DomId(domid))?;
            lent::over_maps(DomId(domid), &frames[..frames.len().min(BATCH)], rounds)?
        }
        Attack::Map {
            domid,
            frames,
            writable,
        } => maps::map(&xen, DomId(domid), &frames, writable)?,
        Attack::MapWritable { domid } => maps::map_writable(&xen, DomId(domid))?,
        Attack::MapStorm { domid, seconds } => {
            maps::map_storm(&xen, DomId(domid), Duration::from_secs(seconds))?
        }
        Attack::Hold {
            domid,
            frames,
            seconds,
        } => maps::hold(&xen, DomId(domid), frames, Duration::from_secs(seconds))?,
        Attack::Ask { domid } => answer::ask(&xen, DomId(domid))?,
        Attack::WriteUnowned { frames } => attacks::deputy::write_unowned(&xen, &frames)?,
        Attack::WearOut => maps::wear_out(&xen)?,
        Attack::XsaveSize { domid, difference } => registers::xsave_size(&xen, DomId(domid), difference)?,
        Attack::Record { domid, file } => export::another_record(&xen, DomId(domid), &file)?,
        Attack::ShortRecord { domid } => errno(registers::short_record(&xen, DomId(domid)))?,
        Attack::RemoteSuspend { domid } => errno(remote_suspend(&xen, DomId(domid)))?,
        Attack::RemoteCrash { domid } => errno(remote_crash(&xen, DomId(domid)))?,
        Attack::SetRegisters { domid } => errno(registers::set_registers(&xen, DomId(domid)))?,
        Attack::MapsOverUnpause { domid, what, seconds } => {
            building::maps_over_unpause(&xen, DomId(domid), what, Duration::from_secs(seconds))?
        }
        Attack::ForgeGrant { domid, seconds } => {
            building::forge_grant(&xen, DomId(domid), Duration::from_secs(seconds))?
        }
        Attack::UseGrant { domid, seconds } => {
            building::use_grant(&xen, DomId(domid), Duration::from_secs(seconds))?
        }
        Attack::Port { port, value } => {
            Ports::open()?.write16(port, value);
            json!({ "errno": 0 })
        }
        Attack::VcpuMode { domid } => building::vcpu_mode(&xen, DomId(domid))?,
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
        Attack::Fuzz { options, .. } => fuzz::fuzz(&xen, options)?,
        Attack::Attacks { list: true, .. } => attacks::list(),
        Attack::Attacks {
            names,
            debug_build,
            report,
            ..
        } => {
            attacks::make(&xen, &names, debug_build, &mut File::create(report)?)?;
            return Ok(());
        }
    };
    println!("{answer}");
    Ok(())
}
