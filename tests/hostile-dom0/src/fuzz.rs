//! Random calls, legal and illegal, with arguments that are half right, against one guest.
//!
//! All that comes of them is looked through for the guest's secret: each page that could be mapped, each buffer that Xen
//! wrote to, each image that `xl save` made. The guest itself says whether it is still what it was. The same seed makes
//! the same choices; frames and domain numbers are the machine's.

use crate::building;
use crate::calls::{
    self, DM_OP, EVENT_CHANNEL_OP, GRANT_TABLE_OP, HVM_OP, MMU_UPDATE, MMUEXT_OP, MULTICALL, SCHED_OP, SELF,
    UPDATE_VA_MAPPING_OTHERDOMAIN, address, control, entry, pair, update,
};
use crate::prey::Prey;
use anyhow::{Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_core::abi;
use vmcrypt_guest::secret;
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::hypercall::{Buffer, ForeignMap, Privcmd};
use vmcrypt_tools::needle::{Needles, Search};
use vmcrypt_tools::xen::{self, Frame, HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP, HYPERVISOR_SYSCTL, domctl};

/// Calls that are left out, since they end dom0, the machine, or, as is dom0's right, the guest.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("domctl createdomain", "makes domains without an end"),
    (
        "domctl destroydomain, remote shutdown other than suspend",
        "dom0 may end a guest",
    ),
    ("domctl settimeoffset, settscinfo", "dom0 may set a guest's clock"),
    (
        "domctl scheduler_op, setvcpuaffinity",
        "dom0 may give a guest no time",
    ),
    ("domctl sendtrigger", "dom0 may send a guest an NMI"),
    (
        "domctl vm_event_op",
        "stock Xen panics: vm_event_domctl() takes every domain for one with a p2m",
    ),
    ("domctl set_virq_handler", "takes dom0's own events away"),
    (
        "event channels but status",
        "close the guest's or dom0's connections",
    ),
    ("memory_op on dom0, claims", "takes dom0's memory"),
    (
        "mmu_update and mmuext_op on dom0's own frames",
        "destroys dom0's page tables",
    ),
    (
        "set_trap_table, set_gdt, stack_switch, callbacks, vcpu_op, iret",
        "change dom0's kernel",
    ),
    (
        "maps of grants by number",
        "put entries into page tables of dom0 that Linux does not know of",
    ),
    (
        "sysctl and platform_op that change the host, kexec, mca, physdev, hypfs",
        "end the machine: see the attacks",
    ),
    ("console_io, debug keys", "fill the log: see case `consoles`"),
];

const LEFT_OUT_DOMCTLS: &[u32] = &[1, 2, 9, 16, 24, 28, 56, 60, 66];

/// Calls in one multicall.
const BATCH: usize = 256;
/// Room for one call's arguments, also for what Xen writes over them: zeros in the next call's would name dom0.
const ROOM: usize = 256;
/// Where calls have Xen write more. Some write as much as they are told to, up to the first page that is not there,
/// which is the one behind a [`Buffer`].
const SCRATCH: usize = 16 * PAGE;
/// How far into it [`Fuzzer::pointer`] leads.
const POINTERS: usize = PAGE;

const _: () = assert!(
    size_of::<abi::DomainInfo>() <= SCRATCH - POINTERS && size_of::<abi::KeyLoad>() <= SCRATCH - POINTERS
);
/// Pages mapped after each multicall.
const MAPS: usize = 96;
/// A guest that was paused for longer than it has patience complains of its other vCPU when it goes on. Until that is in the
/// log.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two saves.
const SAVE: u64 = 1000;

/// What was done and seen.
#[derive(Default)]
struct Seen {
    operations: u64,
    needles: u64,
    damage: Option<String>,
    saves: u64,
    saves_failed: u64,
    maps: u64,
    /// Of each kind, how many were made and how many Xen did.
    kinds: BTreeMap<String, (u64, u64)>,
    /// Of each kind, how many Xen did since the guest was last found intact.
    suspects: BTreeMap<String, u64>,
}

/// How long and how the fuzzer works.
#[derive(clap::Args)]
pub struct Options {
    /// Calls and maps to make
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Multicalls between two looks at the guest: few, to find out what broke it
    #[arg(long, default_value_t = 100)]
    look: u64,
    /// Kinds of calls, as in the report; any other one is not made
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Makes the same choices again
    #[arg(long)]
    seed: Option<u64>,
}

/// Until so many operations were made, the time is over, or something was seen that must not be.
pub fn fuzz(xen: &Privcmd, options: Options) -> Result<Value> {
    let Options {
        operations,
        seconds,
        look,
        only,
        seed,
    } = options;
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    // Whoever finds the machine dead needs it.
    eprintln!("seed {seed}");
    let start = Instant::now();
    let mut fuzzer = Fuzzer::new(xen, seed, only)?;
    let mut rounds = 0;
    while fuzzer.seen.operations < operations
        && start.elapsed() < Duration::from_secs(seconds)
        && fuzzer.seen.damage.is_none()
        && fuzzer.seen.needles == 0
    {
        fuzzer.calls()?;
        fuzzer.maps()?;
        rounds += 1;
        if rounds % look.max(1) == 0 {
            fuzzer.look()?;
        }
        if rounds % SAVE == 0 {
            fuzzer.save()?;
        }
    }
    fuzzer.look()?;
    let Fuzzer { seen, prey, .. } = fuzzer;
    // Whoever looks into it finds a damaged guest as it is.
    if seen.damage.is_none() {
        prey.destroy()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "seed": seed, "operations": seen.operations, "seconds": seconds, "maps": seen.maps, "needles": seen.needles,
        "damage": seen.damage, "saves": seen.saves, "saves_failed": seen.saves_failed, "kinds": seen.kinds,
        "suspects": seen.suspects,
    }))
}

struct Fuzzer<'a> {
    xen: &'a Privcmd,
    rng: Rng,
    /// Kinds of calls to make; empty: all.
    only: Vec<String>,
    prey: Prey,
    /// The guest's frames, with tables and those that Xen shares with it.
    frames: Vec<Frame>,
    frames_of_machine: u64,
    needles: Needles,
    calls: Buffer,
    arguments: Buffer,
    scratch: Buffer,
    /// Pages of this process whose entries are changed.
    view: ForeignMap,
    seen: Seen,
}

impl<'a> Fuzzer<'a> {
    fn new(xen: &'a Privcmd, seed: u64, only: Vec<String>) -> Result<Fuzzer<'a>> {
        let prey = Prey::start(xen)?;
        let mut frames: Vec<Frame> = prey.pages(xen)?.into_iter().map(|(_, frame, _)| frame).collect();
        let view = xen.map_foreign(prey.domain.id, &frames[frames.len() - 16..], false)?;
        ensure!(
            (0..view.len()).all(|i| view.refusal(i).is_none()),
            "a page could not be mapped"
        );
        frames.push(prey.domain.shared_info);
        frames.extend(building::grant_frame(xen, prey.domain.id));
        Ok(Fuzzer {
            xen,
            rng: Rng::with_seed(seed),
            only,
            frames_of_machine: xen::frame_limit(xen, &prey.domain)?,
            prey,
            frames,
            needles: Needles::new([secret::needle().into_bytes()])?,
            calls: xen.buffer(BATCH * 64)?,
            arguments: xen.buffer(BATCH * ROOM)?,
            scratch: xen.buffer(SCRATCH)?,
            view,
            seen: Seen::default(),
        })
    }

    /// One multicall; Xen goes on after a call that it refuses.
    fn calls(&mut self) -> Result<()> {
        let mut names = Vec::with_capacity(BATCH);
        for slot in 0..BATCH {
            let (name, op, arguments) = self.wanted(slot * ROOM);
            // Its continuation is another hypercall, which a multicall of stock Xen does not make: it calls the first once
            // more, is refused, and leaves the domain paused for good (hypercall_create_continuation()).
            if name == format!("domctl {SHADOW_OP}") {
                let done = self.xen.call("log-dirty", op, &arguments).is_ok();
                self.note(name, done);
                continue;
            }
            let i = names.len();
            let mut call = [0; 8];
            call[0] = op;
            call[2..2 + arguments.len()].copy_from_slice(&arguments);
            for (word, value) in call.iter().enumerate() {
                self.calls.put(i * 64 + word * 8, *value);
            }
            names.push(name);
        }
        self.xen.call(
            "many calls",
            MULTICALL,
            &[self.calls.address(), names.len() as u64],
        )?;
        for (i, name) in names.into_iter().enumerate() {
            let result = self.calls.get::<u64>(i * 64 + 8).cast_signed();
            self.note(name, result >= 0);
        }
        let found = [&self.arguments, &self.scratch].map(|buffer| buffer.bytes(0, buffer.len()));
        found.iter().for_each(|bytes| self.search(bytes));
        for i in 0..self.view.len() {
            let page = self.view.page(i);
            page.iter().for_each(|page| self.search(page));
        }
        Ok(())
    }

    /// Counts a call.
    fn note(&mut self, name: String, done: bool) {
        if done {
            *self.seen.suspects.entry(name.clone()).or_default() += 1;
        }
        let kind = self.seen.kinds.entry(name).or_default();
        kind.0 += 1;
        kind.1 += u64::from(done);
        self.seen.operations += 1;
    }

    /// One batch of maps.
    fn maps(&mut self) -> Result<()> {
        let frames: Vec<Frame> = (0..MAPS).map(|_| self.frame()).collect();
        let writable = self.rng.u8(..8) == 0;
        let name = if writable { "map writable" } else { "map" };
        // A batch of which nothing could be mapped is refused as a whole.
        let map = self.xen.map_foreign(self.prey.domain.id, &frames, writable);
        let pages = map
            .iter()
            .flat_map(|map| (0..map.len()).filter_map(|i| map.page(i)));
        let pages: Vec<_> = pages.collect();
        let kind = self.seen.kinds.entry(name.to_owned()).or_default();
        kind.0 += MAPS as u64;
        kind.1 += pages.len() as u64;
        self.seen.maps += pages.len() as u64;
        self.seen.operations += MAPS as u64;
        pages.iter().for_each(|page| self.search(page));
        Ok(())
    }

    /// Whether the guest is what it was. dom0 may have paused it, many times over, and have it run on shadows of its page
    /// tables, for which there may be hardly any memory.
    fn look(&mut self) -> Result<()> {
        const OFF: u64 = 0;
        let id = self.prey.domain.id;
        _ = control(self.xen, id, SHADOW_OP, &[OFF]);
        for _ in 0..10_000 {
            let domains = xen::domains(self.xen)?;
            match domains
                .iter()
                .find(|domain| domain.id == id)
                .map(|domain| domain.state)
            {
                Some("paused") => _ = control(self.xen, id, UNPAUSEDOMAIN, &[]),
                _ => break,
            }
        }
        sleep(SETTLE);
        self.seen.damage = self.prey.intact(self.xen);
        if self.seen.damage.is_none() {
            self.seen.suspects.clear();
        }
        Ok(())
    }

    /// Saves it, and has it go on. Log-dirty may be in the way, or a limit that was set.
    fn save(&mut self) -> Result<()> {
        const IMAGE: &str = "/tmp/fuzz.img";
        self.look()?;
        let mut save = Command::new("xl");
        let save = save
            .args(["save", "-c", &self.prey.name, IMAGE])
            .stdout(Stdio::null());
        match save.stderr(Stdio::null()).status()?.success() {
            true => self.seen.saves += 1,
            false => self.seen.saves_failed += 1,
        }
        if let Ok(image) = fs::read(IMAGE) {
            self.search(&image);
            fs::remove_file(IMAGE)?;
        }
        Ok(())
    }

    fn search(&mut self, bytes: &[u8]) {
        self.seen.needles += Search::new(&self.needles).feed(bytes);
    }

    fn wanted(&mut self, at: usize) -> (String, u64, Vec<u64>) {
        loop {
            let drawn = self.operation(at);
            if self.only.is_empty() || self.only.contains(&drawn.0) {
                return drawn;
            }
        }
    }

    /// Draws a call, and puts its arguments where it will look for them.
    fn operation(&mut self, at: usize) -> (String, u64, Vec<u64>) {
        let id = u64::from(self.prey.domain.id.0);
        let place = self.arguments.address() + at as u64;
        let kind = self.rng.u8(..100);
        match kind {
            0..25 => {
                let (what, foreign) = match self.rng.u8(..10) {
                    0..6 => ("mmu_update", calls::foreign(id, Some(id))),
                    6 => ("mmu_update of dom0's frames", calls::foreign(SELF, Some(id))),
                    7 => ("mmu_update of Xen's frames", calls::foreign(XEN, Some(id))),
                    _ => ("mmu_update of its frames", id),
                };
                let command = self.rng.u64(update::PAGE_TABLE..=update::NO_TRANSLATE + 1);
                let target = (address(self.frame()) + 8 * self.rng.u64(..512)) | command;
                let value = self.entry();
                self.fill(at, &[target, value]);
                (what.to_owned(), MMU_UPDATE, vec![place, 1, 0, foreign])
            }
            25..43 => {
                let command = self.rng.u32(..23);
                let (first, second) = (self.frame().0, self.frame().0);
                self.fill(at, &[command.into(), first, second]);
                (format!("mmuext_op {command}"), MMUEXT_OP, vec![place, 1, 0, id])
            }
            43..55 => self.memory(at, place, id),
            55..78 => {
                let known = self.rng.u8(..50) != 0;
                let command = match known {
                    true => self.rng.u32(1..=89),
                    false => self.rng.u32(1000..1004),
                };
                if LEFT_OUT_DOMCTLS.contains(&command) {
                    return self.operation(at);
                }
                let mut words = vec![pair(command, domctl::VERSION), id];
                words.extend((0..self.rng.usize(..12)).map(|_| self.word()));
                self.fill(at, &words);
                (format!("domctl {command}"), HYPERVISOR_DOMCTL, vec![place])
            }
            78..86 => {
                let command = [2, 5, 6, 9, 10][self.rng.usize(..5)];
                let words = match command {
                    2 => vec![pair(id as u32, self.rng.u32(..4)), 0, self.pointer()],
                    // From and to grants of the guest's.
                    5 => {
                        let half = [self.rng.u64(..600), id | self.rng.u64(..4096) << 16];
                        let flags = 3;
                        [half.as_slice(), &half, &[self.rng.u64(..4097) | flags << 16]].concat()
                    }
                    9 => vec![pair(self.rng.u32(..4), id as u32), self.pointer()],
                    _ => vec![id],
                };
                self.fill(at, &words);
                (
                    format!("grant_table_op {command}"),
                    GRANT_TABLE_OP,
                    vec![command, place, 1],
                )
            }
            86..90 => {
                let view = self.view.address() + PAGE as u64 * self.rng.u64(..self.view.len() as u64);
                let flags = [entry::WRITABLE, entry::PWT, entry::PCD, entry::PAT];
                let flags = flags
                    .into_iter()
                    .filter(|_| self.rng.bool())
                    .fold(0, |all, flag| all | flag);
                let value = address(self.frame()) | entry::DOM0 | flags;
                let flush = self.rng.u64(..6);
                (
                    "update_va_mapping".to_owned(),
                    UPDATE_VA_MAPPING_OTHERDOMAIN,
                    vec![view, value, flush, id],
                )
            }
            90..92 => {
                const REMOTE_SHUTDOWN: u64 = 4;
                const SUSPEND: u32 = 2;
                self.fill(at, &[pair(id as u32, SUSPEND)]);
                (
                    "remote suspend".to_owned(),
                    SCHED_OP,
                    vec![REMOTE_SHUTDOWN, place],
                )
            }
            92..94 => {
                const STATUS: u64 = 5;
                let port = self.rng.u32(..8);
                self.fill(at, &[pair(id as u32, port)]);
                ("evtchn status".to_owned(), EVENT_CHANNEL_OP, vec![STATUS, place])
            }
            94..96 => {
                // Of Xen's log, of domains, and of pages; none of them changes anything.
                let (command, body) = match self.rng.u8(..3) {
                    0 => (1, vec![1 << 8, self.pointer(), (SCRATCH - POINTERS) as u64]),
                    1 => (6, vec![pair(id as u32, 4), self.pointer()]),
                    _ => {
                        let frame = self.frame().0 as u32;
                        (14, vec![pair(3, frame), frame.into(), self.pointer()])
                    }
                };
                self.fill(at, &[&[pair(command, 0x15)], body.as_slice()].concat());
                (format!("sysctl {command}"), HYPERVISOR_SYSCTL, vec![place])
            }
            96..98 => {
                let command = self.rng.u64(..26);
                let words = [pair(id as u32, self.rng.u32(..40)), self.rng.u64(..)];
                self.fill(at, &words);
                match self.rng.bool() {
                    true => (format!("hvm_op {command}"), HVM_OP, vec![command, place]),
                    false => {
                        let buffer = [place, ROOM as u64];
                        self.fill(at + 64, &buffer);
                        ("dm_op".to_owned(), DM_OP, vec![id, 1, place + 64])
                    }
                }
            }
            _ => {
                let command = self.rng.u64(..8);
                let (pointer, words) = (self.pointer(), (0..16).map(|_| self.word()).collect::<Vec<_>>());
                let at = (pointer - self.scratch.address()) as usize;
                for (i, word) in words.into_iter().enumerate() {
                    self.scratch.put(at + 8 * i, word);
                }
                (
                    format!("vmcrypt {command}"),
                    abi::HYPERCALL.into(),
                    vec![command, pointer],
                )
            }
        }
    }

    fn memory(&mut self, at: usize, place: u64, id: u64) -> (String, u64, Vec<u64>) {
        // Of a domain that is named: reservations, physmap, exchange, maps of memory, pods, resources.
        const RESERVATIONS: [u64; 3] = [0, 1, 6];
        const OTHERS: [u64; 11] = [3, 4, 7, 11, 13, 14, 15, 16, 17, 21, 28];
        let command = match self.rng.bool() {
            true => RESERVATIONS[self.rng.usize(..3)],
            false => OTHERS[self.rng.usize(..OTHERS.len())],
        };
        let page = match command {
            6 => self.rng.u64(..1536),
            _ => self.frame().0,
        };
        let extents = [page, self.frame().0];
        self.fill(at + 128, &extents);
        let (list, count) = (place + 128, self.rng.u64(1..3));
        let words = match command {
            0 | 1 | 6 => vec![list, count, self.rng.u64(..2), id],
            11 => vec![list, 1, 0, id, list + 8, 1, 0, id, 0],
            28 => vec![
                id | self.rng.u64(..3) << 16,
                self.rng.u64(..2) << 32 | 1,
                0,
                self.pointer(),
            ],
            13 => vec![pair(id as u32, self.rng.u32(..3)), self.pointer()],
            16 | 17 => vec![self.word(), 0, 0, 0, id],
            21 => vec![
                pair((id as u32) << 16 | self.rng.u32(..16), 1),
                self.frame().0,
                self.pointer(),
            ],
            _ => vec![id, self.word(), self.word(), self.word()],
        };
        self.fill(at, &words);
        (
            format!("memory_op {command}"),
            HYPERVISOR_MEMORY_OP,
            vec![command, place],
        )
    }

    fn fill(&mut self, at: usize, words: &[u64]) {
        for (i, word) in words.iter().enumerate() {
            self.arguments.put(at + 8 * i, *word);
        }
    }

    /// Mostly one of the guest's.
    fn frame(&mut self) -> Frame {
        match self.rng.u8(..40) {
            0 => Frame(self.frames_of_machine + self.rng.u64(..1 << 20)),
            // Too large for any machine, or for an entry.
            1 => Frame(u64::MAX >> self.rng.u32(12..40)),
            _ => self.frames[self.rng.usize(..self.frames.len())],
        }
    }

    fn entry(&mut self) -> u64 {
        match self.rng.u8(..8) {
            0 => 0,
            1 => self.rng.u64(..),
            2 => self.rng.u64(..1536),
            _ => address(self.frame()) | self.rng.u64(..1 << 9),
        }
    }

    fn pointer(&mut self) -> u64 {
        self.scratch.address() + 8 * self.rng.u64(..POINTERS as u64 / 8)
    }

    /// What may stand in a structure.
    fn word(&mut self) -> u64 {
        match self.rng.u8(..8) {
            0 => 0,
            1 => self.rng.u64(..4),
            2 => self.frame().0,
            3 => self.rng.u64(..1536),
            4 => pair(self.rng.u32(..4), self.rng.u32(..64)),
            5 => self.rng.u64(..),
            _ => self.pointer(),
        }
    }
}

const SHADOW_OP: u32 = 10;
const XEN: u64 = 0x7ff2;
const UNPAUSEDOMAIN: u32 = 4;
