//! What a page costs on its way to dom0 and back, stage by stage: `cargo xtask bench stages`.
//!
//! The Rust part is the real one, called in the order of the C bodies. What surrounds it in Xen is a model
//! ([`crate::model`]), so the figures say how the parts compare and not what Xen takes.

use std::{hint::black_box, path::Path};

use anyhow::{Context, Result, ensure};
use vmcrypt_core::{State, ids::SessionId};

use crate::{
    backend::{self, AESNI as NI, AVX2, AVX512, Kind, PORTABLE},
    figure::{self, Figure, Place, Report},
    guest::{Cpu, Guest, PRIVATE, View, boot, host_denies},
    machine::{self, on_cpu as timed},
    model::{Frame, Mapped, Registers, copy_page, fetch_page, resident},
    picture::{self, Bars, Row},
    rounds::{by_round, interleaved},
};

/// Names that others refer to.
const COPY: &str = "copy a page";
const MAP: &str = "map and unmap a private page";
const APART: &str = "copy a page, then encrypt it";
const FUSED: &str = "copy and encrypt a page at once";
const ENCRYPT: &str = "encrypt alone";
const BY_BATCH: &str = "map a private page, registers saved by the batch";
const JUDGE: &str = "judge and M2P look-up, in order";
const CLASSIFICATION: &str = "= classification";
const BEYOND: &str = "= map-encrypt-unmap beyond the cipher, cached";

/// One thing whose cost is measured.
struct Measure {
    /// Short; unique together with unit and backend.
    name: &'static str,
    /// What one unit of it is.
    unit: Unit,
    /// Page cipher, if there is one in it.
    backend: Option<Kind>,
    /// Nanoseconds that one unit took on the CPU.
    run: fn(&mut World) -> Result<f64>,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Nanoseconds for a page whose 4,096 bytes are worked on, in this place.
    Page(Place),
    /// Nanoseconds for a page whose content is not looked at.
    Event,
    /// Nanoseconds for one whole record.
    Record,
}

/// How much there is to work on.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// PFNs of the guest.
    pub pfns: u64,
    /// Frames that hold its content; more than the last cache level.
    pub frames: usize,
    /// Pages of one sample.
    pub batch: usize,
    /// PFNs of a small and of a large guest, for the record.
    pub records: [u64; 2],
}

impl Size {
    /// A guest of 64 GiB, 256 MiB of which are there.
    pub const FULL: Self = Self {
        pfns: 16 << 20,
        frames: 64 << 10,
        batch: 512,
        records: [256 << 10, 16 << 20],
    };
}

/// Frames in use while hot.
const HOT: usize = 8;
/// The portable cipher is some thirty times slower; a short sample will do.
const PORTABLE_SHARE: usize = 16;
/// Events take nanoseconds.
const EVENTS: usize = 8;
/// Samples until a page table is used again.
const TABLES: usize = 8;
/// Numbers of `xen/include/public/xen.h`.
const SYSCTL: u32 = 35;
const DOMCTL: u32 = 36;
/// One page of so many is plain when a record is sealed.
const PLAIN_SHARE: u64 = 256;

/// Every measure that this CPU can do, baselines first.
#[rustfmt::skip] // a table
fn all() -> Vec<Measure> {
    use Order::{Ascending, Shuffled};
    use Place::{Cached, Random, Sequential};
    use Unit::{Event, Page, Record};

    type Row = (Unit, &'static str, Option<Kind>, fn(&mut World) -> Result<f64>);
    let (ni, avx2, avx512, portable) = (Some(NI), Some(AVX2), Some(AVX512), Some(PORTABLE));
    let list: [Row; 56] = [
        (Page(Cached), COPY, None, |w| w.copy(Cached)),
        (Page(Sequential), COPY, None, |w| w.copy(Sequential)),
        (Page(Random), COPY, None, |w| w.copy(Random)),
        (Page(Sequential), "map a table, entries in a row", ni, |w| w.map_table(Ascending)),
        (Page(Sequential), "map a table, entries at random", ni, |w| w.map_table(Shuffled)),
        (Page(Sequential), "map a private page", ni, |w| w.map(NI, in_row, false)),
        (Page(Sequential), "map a private page, the next one fetched ahead", ni, |w| w.map(NI, in_row, true)),
        (Page(Random), "map a private page", ni, |w| w.map(NI, scattered, false)),
        (Page(Random), "map a private page, the next one fetched ahead", ni, |w| w.map(NI, scattered, true)),
        (Page(Sequential), "map a private page", avx2, |w| w.map(AVX2, in_row, false)),
        (Page(Sequential), "map a private page", avx512, |w| w.map(AVX512, in_row, false)),
        (Page(Cached), MAP, ni, |w| w.map_hot(NI)),
        (Page(Cached), MAP, avx2, |w| w.map_hot(AVX2)),
        (Page(Cached), MAP, avx512, |w| w.map_hot(AVX512)),
        (Page(Sequential), BY_BATCH, ni, |w| w.map_batch(NI)),
        (Page(Sequential), BY_BATCH, avx2, |w| w.map_batch(AVX2)),
        (Page(Sequential), BY_BATCH, avx512, |w| w.map_batch(AVX512)),
        (Page(Cached), ENCRYPT, ni, |w| w.encrypt(NI, Cached)),
        (Page(Sequential), ENCRYPT, ni, |w| w.encrypt(NI, Sequential)),
        (Page(Cached), ENCRYPT, avx2, |w| w.encrypt(AVX2, Cached)),
        (Page(Sequential), ENCRYPT, avx2, |w| w.encrypt(AVX2, Sequential)),
        (Page(Cached), ENCRYPT, avx512, |w| w.encrypt(AVX512, Cached)),
        (Page(Sequential), ENCRYPT, avx512, |w| w.encrypt(AVX512, Sequential)),
        (Page(Cached), APART, ni, |w| w.encrypt_copy(NI, Cached, true)),
        (Page(Cached), FUSED, ni, |w| w.encrypt_copy(NI, Cached, false)),
        (Page(Sequential), APART, ni, |w| w.encrypt_copy(NI, Sequential, true)),
        (Page(Sequential), FUSED, ni, |w| w.encrypt_copy(NI, Sequential, false)),
        (Page(Cached), APART, avx2, |w| w.encrypt_copy(AVX2, Cached, true)),
        (Page(Cached), FUSED, avx2, |w| w.encrypt_copy(AVX2, Cached, false)),
        (Page(Sequential), APART, avx2, |w| w.encrypt_copy(AVX2, Sequential, true)),
        (Page(Sequential), FUSED, avx2, |w| w.encrypt_copy(AVX2, Sequential, false)),
        (Page(Cached), APART, avx512, |w| w.encrypt_copy(AVX512, Cached, true)),
        (Page(Cached), FUSED, avx512, |w| w.encrypt_copy(AVX512, Cached, false)),
        (Page(Sequential), APART, avx512, |w| w.encrypt_copy(AVX512, Sequential, true)),
        (Page(Sequential), FUSED, avx512, |w| w.encrypt_copy(AVX512, Sequential, false)),
        (Page(Cached), "restore a page", ni, |w| w.restore(NI, Cached)),
        (Page(Sequential), "restore a page", ni, |w| w.restore(NI, Sequential)),
        (Event, "map and unmap one page of a running guest", ni, World::map_running),
        (Page(Sequential), "map a private page", portable, |w| w.map(PORTABLE, in_row, false)),
        (Page(Cached), ENCRYPT, portable, |w| w.encrypt(PORTABLE, Cached)),
        (Page(Sequential), ENCRYPT, portable, |w| w.encrypt(PORTABLE, Sequential)),
        (Page(Cached), "restore a page", portable, |w| w.restore(PORTABLE, Cached)),
        (Page(Sequential), "restore a page", portable, |w| w.restore(PORTABLE, Sequential)),
        (Event, "unmap a replica", None, World::unmap),
        (Event, "judge, in order", None, |w| w.judge(Ascending, false)),
        (Event, "judge, at random", None, |w| w.judge(Shuffled, false)),
        (Event, JUDGE, None, |w| w.judge(Ascending, true)),
        (Event, "judge and M2P look-up, at random", None, |w| w.judge(Shuffled, true)),
        (Event, "judge a hypercall on a domain", None, World::door),
        (Event, "judge a hypercall on the machine", None, World::host_door),
        (Event, "page becomes plain and private again, in order", None, |w| w.hooks(Ascending)),
        (Event, "page becomes plain and private again, at random", None, |w| w.hooks(Shuffled)),
        (Record, "seal the record of a small guest", None, |w| w.record(0, Step::Seal)),
        (Record, "open the record of a small guest", None, |w| w.record(0, Step::Open)),
        (Record, "seal the record of a large guest", None, |w| w.record(1, Step::Seal)),
        (Record, "open the record of a large guest", None, |w| w.record(1, Step::Open)),
    ];
    let there = backend::available();
    let possible = list.into_iter().filter(|(_, _, backend, _)| backend.is_none_or(|kind| there.contains(&kind)));
    // A CPU may have the registers without the instructions that a backend wants besides.
    let registers: [(Registers, Row); 4] = [
        (Registers::Xmm, (Event, "xmm registers saved and restored", None, |w| w.vectors(Registers::Xmm))),
        (Registers::Ymm, (Event, "ymm registers saved and restored", None, |w| w.vectors(Registers::Ymm))),
        (Registers::LowZmm, (Event, "lower half of the zmm registers saved and restored", None, |w| w.vectors(Registers::LowZmm))),
        (Registers::Zmm, (Event, "zmm registers saved and restored", None, |w| w.vectors(Registers::Zmm))),
    ];
    let registers = registers.into_iter().filter_map(|(registers, row)| registers.there().then_some(row));
    possible.chain(registers).map(|(unit, name, backend, run)| Measure { name, unit, backend, run }).collect()
}

/// Measures every stage. Before that, pages go from one guest to another by the very functions that are measured, and
/// must arrive.
pub fn measure(size: Size, rounds: usize) -> Result<Report> {
    for kind in backend::available() {
        check(kind, |_| ()).with_context(|| format!("backend {}", kind.name))?;
    }
    let list = all();
    let mut world = World::new(size)?;
    Report::measure("stages", || {
        let samples = machine::pinned(|| {
            interleaved(list.len(), 1, rounds, |index| {
                let measure = &list[index];
                (measure.run)(&mut world).context(measure.name)
            })
        })?;
        Ok(figures(&list, &samples))
    })
}

/// All that was measured; last, what follows from several: the classification of a page, and a map that is undone, both
/// copies included, without the cipher.
fn figures(list: &[Measure], samples: &[Vec<f64>]) -> Vec<Figure> {
    let find = |name: &str, unit, backend: Option<Kind>| {
        let fits = |m: &Measure| (m.name, m.unit, m.backend) == (name, unit, backend);
        list.iter().position(fits).and_then(|at| samples.get(at))
    };
    let mut figures: Vec<Figure> = list
        .iter()
        .zip(samples)
        .map(|(measure, samples)| {
            let figure = Figure {
                backend: measure.backend.map(|kind| kind.name.to_owned()),
                ..Figure::new(measure.name, figure::Unit::Nanoseconds, samples)
            };
            let (figure, base) = match measure.unit {
                Unit::Record => return figure,
                Unit::Event => (figure, Unit::Page(Place::Sequential)),
                Unit::Page(place) => (figure.of_pages(place), measure.unit),
            };
            match find(COPY, base, None) {
                Some(copy) => figure.against(samples, copy),
                None => figure,
            }
        })
        .collect();
    if let Some(judge) = find(JUDGE, Unit::Event, None) {
        figures.push(Figure::new(CLASSIFICATION, figure::Unit::Nanoseconds, judge));
    }
    for backend in [NI, AVX2, AVX512] {
        let hot = |name| find(name, Unit::Page(Place::Cached), Some(backend));
        if let (Some(map), Some(encrypt)) = (hot(MAP), hot(ENCRYPT)) {
            let beyond = by_round(map, encrypt, |map, encrypt| map - encrypt);
            figures.push(Figure {
                backend: Some(backend.name.to_owned()),
                ..Figure::new(BEYOND, figure::Unit::Nanoseconds, &beyond)
            });
        }
    }
    figures
}

/// Bars of pages from memory and, on a scale of their own, of events that touch no page.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let panel = |title: &str, wanted: fn(&Figure) -> bool| {
        let short = |figure: &&Figure| {
            // Bars so long that they would leave nothing to see of the others; the table has them.
            let long = figure.backend.as_deref() == Some(PORTABLE.name) || figure.median >= 20_000.0;
            !long && wanted(figure)
        };
        let rows = report.figures.iter().filter(short).map(|figure| Row {
            label: match &figure.backend {
                Some(backend) => format!("{}, {backend}", figure.name),
                None => figure.name.clone(),
            },
            middle: figure.median,
            spread: [figure.lower_quartile, figure.upper_quartile],
            ours: figure.name != COPY,
        });
        Bars {
            title: format!("{title}: nanoseconds for each"),
            rows: rows.collect(),
        }
    };
    let panels = [
        panel("Pages from memory, in order", |figure| {
            figure.place == Some(Place::Sequential)
        }),
        panel(
            "What reads no page's content, and what follows from it",
            |figure| figure.place.is_none(),
        ),
    ];
    picture::bars(&report.machine.cpu(), &panels, path)
}

#[derive(Clone, Copy)]
enum Order {
    Ascending,
    Shuffled,
}

#[derive(Clone, Copy)]
enum Step {
    Seal,
    Open,
}

/// Everything that is worked on.
struct World {
    size: Size,
    guest: Guest,
    cpu: Cpu,
    memory: Vec<Frame>,
    /// Page tables, the entries of which are in a row or at random.
    tables: [Vec<Frame>; 2],
    /// First page that no sample has touched for long.
    next: u64,
    random: Vec<u64>,
    records: Vec<Sealed>,
}

/// A suspended guest and its record.
struct Sealed {
    guest: Guest,
    receiver: Guest,
    buffer: Vec<u8>,
}

impl World {
    /// A suspended guest, and two more for their records.
    fn new(size: Size) -> Result<Self> {
        let sealed = |pfns| -> Result<Sealed> {
            let guest = Guest::new(pfns);
            for block in 0..pfns / PLAIN_SHARE {
                guest.gain(block * PLAIN_SHARE + fastrand::u64(2..PLAIN_SHARE));
            }
            guest.enter(&[State::Sealing, State::Running, State::Suspended])?;
            Ok(Sealed {
                buffer: guest.record_buffer(),
                receiver: Guest::new(1),
                guest,
            })
        };
        let tables = |mfn: &dyn Fn(u64) -> u64| {
            let mut tables = resident(TABLES * size.batch, Frame([0; 4096]), Mapped::Large);
            (0..)
                .zip(&mut tables)
                .for_each(|(i, frame)| table(frame, |entry| mfn(i * 512 + entry)));
            tables
        };
        let mut world = Self {
            size,
            guest: Guest::new(size.pfns),
            cpu: Cpu::new(2 * size.batch.max(HOT)),
            memory: resident(size.frames, Frame([0x5a; 4096]), Mapped::Large),
            tables: [
                tables(&|i| i % size.pfns),
                tables(&|_| fastrand::u64(..size.pfns)),
            ],
            next: 0,
            random: (0..1 << 20).map(|_| fastrand::u64(..size.pfns)).collect(),
            records: size.records.into_iter().map(sealed).collect::<Result<_>>()?,
        };
        boot(PORTABLE)?;
        world
            .guest
            .enter(&[State::Sealing, State::Running, State::Suspended])?;
        world.open_session()?;
        Ok(world)
    }

    /// Opening a session clears a set of pages, which belongs to no page in particular.
    fn open_session(&mut self) -> Result<()> {
        let mut ticket = self.guest.begin(0)?;
        self.guest
            .export_private(&mut self.cpu, frame_mut(&mut self.memory, 0), &mut ticket);
        Ok(())
    }

    /// PFNs of one sample.
    fn pfns(&mut self, place: Place, pages: usize) -> impl Iterator<Item = u64> + Clone + use<> {
        let all = self.size.pfns;
        let (start, wrap) = if place == Place::Cached {
            (0, HOT as u64)
        } else {
            let start = self.next;
            self.next += pages as u64;
            (start, u64::MAX)
        };
        (0..pages as u64).map(move |i| (start + i % wrap) % all)
    }

    fn events(&mut self, order: Order) -> Vec<u64> {
        let count = self.size.batch * EVENTS;
        match order {
            Order::Ascending => self.pfns(Place::Sequential, count).collect(),
            Order::Shuffled => {
                self.random.rotate_left(count % (1 << 20));
                self.random.iter().copied().take(count).collect()
            }
        }
    }

    /// Chooses a backend, and says how many pages make a sample of it.
    fn boot(&self, backend: Kind) -> Result<usize> {
        boot(backend)?;
        Ok(match backend {
            PORTABLE => (self.size.batch / PORTABLE_SHARE).max(1),
            _ => self.size.batch,
        })
    }

    fn copy(&mut self, place: Place) -> Result<f64> {
        let batch = self.size.batch;
        let pfns = self.pfns(place, batch);
        let (wrap, frame): (_, fn(u64) -> u64) = match place {
            Place::Cached => (HOT, in_row),
            Place::Sequential => (batch, in_row),
            Place::Random => (batch, scattered),
        };
        let Self { memory, cpu, .. } = self;
        let frames = memory.len() as u64;
        timed(batch, || {
            for (i, pfn) in pfns.enumerate() {
                let from = &memory[(frame(pfn) % frames) as usize];
                copy_page(&mut cpu.replicas[i % wrap], from);
            }
            Ok(())
        })
    }

    fn encrypt(&mut self, backend: Kind, place: Place) -> Result<f64> {
        let pages = self.boot(backend)?;
        let pfns = self.pfns(place, pages);
        let mut ticket = self.guest.begin(0)?;
        let Self { guest, memory, .. } = self;
        let time = timed(pages, || {
            pfns.for_each(|pfn| guest.encrypt(&mut ticket, PRIVATE, frame_mut(memory, pfn)));
            Ok(())
        });
        guest.end(&mut ticket);
        time
    }

    /// Encrypts copies, as Xen does in one walk, or as it would in two.
    fn encrypt_copy(&mut self, backend: Kind, place: Place, apart: bool) -> Result<f64> {
        let pages = self.boot(backend)?;
        let pfns = self.pfns(place, pages);
        let mut ticket = self.guest.begin(0)?;
        let Self {
            guest, cpu, memory, ..
        } = self;
        let time = timed(pages, || {
            for pfn in pfns {
                let page = frame_mut(memory, pfn);
                if apart {
                    copy_page(&mut cpu.scratch, page);
                    guest.encrypt(&mut ticket, PRIVATE, &mut cpu.scratch);
                } else {
                    guest.encrypt_from(&mut ticket, page, &mut cpu.scratch);
                }
            }
            Ok(())
        });
        guest.end(&mut ticket);
        time
    }

    /// What is decrypted here was never encrypted; that costs the same.
    fn restore(&mut self, backend: Kind, place: Place) -> Result<f64> {
        let pages = self.boot(backend)?;
        let pfns = self.pfns(place, pages);
        let session = SessionId([1; 16]);
        let Self {
            guest, cpu, memory, ..
        } = self;
        timed(pages, || {
            pfns.for_each(|pfn| guest.decrypt(cpu, &session, pfn, frame_mut(memory, pfn)));
            Ok(())
        })
    }

    /// Maps a batch, and unmaps it when the time was taken. `frame` says which frame is a page's.
    fn map(&mut self, backend: Kind, frame: fn(u64) -> u64, ahead: bool) -> Result<f64> {
        let pages = self.boot(backend)?;
        let pfns = self.pfns(Place::Sequential, pages);
        let mut replicas = Vec::with_capacity(pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        let frames = memory.len() as u64;
        let pages = pfns.map(|pfn| (pfn, &memory[(frame(pfn) % frames) as usize]));
        let time = map_all(guest, cpu, pages, ahead, &mut replicas);
        unmap_all(guest, cpu, replicas)?;
        time
    }

    fn map_batch(&mut self, backend: Kind) -> Result<f64> {
        self.boot(backend)?;
        self.cpu.saves = false;
        self.cpu.vectors.enter(Registers::borrowed());
        let time = self.map(backend, in_row, false);
        self.cpu.vectors.leave();
        self.cpu.saves = true;
        time
    }

    fn map_hot(&mut self, backend: Kind) -> Result<f64> {
        let pages = self.boot(backend)?;
        self.map_one_by_one(Place::Cached, pages)
    }

    /// Each of these maps opens a session of its own: the guest may run and dom0 has nothing else mapped.
    fn map_running(&mut self) -> Result<f64> {
        let pages = self.boot(NI)?.div_ceil(PORTABLE_SHARE);
        self.guest.enter(&[State::Running])?;
        let time = self.map_one_by_one(Place::Sequential, pages);
        self.guest.enter(&[State::Suspended])?;
        self.open_session()?;
        time
    }

    fn map_one_by_one(&mut self, place: Place, pages: usize) -> Result<f64> {
        let pfns = self.pfns(place, pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        timed(pages, || {
            for pfn in pfns {
                let replica = guest.map(cpu, pfn, frame_mut(memory, pfn))?;
                guest.unmap(cpu, replica)?;
            }
            Ok(())
        })
    }

    fn map_table(&mut self, order: Order) -> Result<f64> {
        let pages = self.boot(NI)?;
        let pfns = self.pfns(Place::Sequential, pages);
        pfns.clone().for_each(|pfn| self.guest.gain(pfn));
        let mut replicas = Vec::with_capacity(pages);
        let Self {
            guest, cpu, tables, ..
        } = self;
        let [row, random] = tables;
        let tables = match order {
            Order::Ascending => row,
            Order::Shuffled => random,
        };
        let pages = pfns
            .clone()
            .map(|pfn| (pfn, &tables[pfn as usize % tables.len()]));
        let time = map_all(guest, cpu, pages, false, &mut replicas);
        unmap_all(guest, cpu, replicas)?;
        pfns.for_each(|pfn| guest.lose(pfn));
        time
    }

    fn unmap(&mut self) -> Result<f64> {
        let pages = self.size.batch;
        let pfns = self.pfns(Place::Sequential, pages);
        let Self { guest, cpu, .. } = self;
        let replicas: Vec<usize> = pfns.map(|pfn| guest.replica(cpu, pfn)).collect::<Result<_>>()?;
        timed(pages, || unmap_all(guest, cpu, replicas))
    }

    /// What `vmcrypt_denies()` does of a domctl: the domain's state under the lock, then the table.
    fn door(&mut self) -> Result<f64> {
        let operations = self.operations();
        let guest = &self.guest;
        timed(operations.len(), || {
            let denied = operations.iter().filter(|number| guest.denies(DOMCTL, **number));
            ensure!(
                (1..operations.len()).contains(&black_box(denied.count())),
                "every domctl was denied, or none"
            );
            Ok(())
        })
    }

    /// What `vmcrypt_host_denies()` does of a sysctl.
    fn host_door(&mut self) -> Result<f64> {
        let operations = self.operations();
        timed(operations.len(), || {
            let denied = operations.iter().filter(|number| host_denies(SYSCTL, **number));
            ensure!(
                (1..operations.len()).contains(&black_box(denied.count())),
                "every sysctl was denied, or none"
            );
            Ok(())
        })
    }

    /// Operations in no order, as numbers that the table may know.
    fn operations(&self) -> Vec<u64> {
        let count = self.size.batch * EVENTS;
        self.random.iter().take(count).map(|number| number % 96).collect()
    }

    fn judge(&mut self, order: Order, look_up: bool) -> Result<f64> {
        let pfns = self.events(order);
        let guest = &self.guest;
        timed(pfns.len(), || {
            for &pfn in &pfns {
                let view = guest.judge(if look_up { guest.pfn(pfn) } else { pfn })?;
                ensure!(black_box(view) == View::Cipher, "a private page was judged plain");
            }
            Ok(())
        })
    }

    /// A session is open, so that each page that becomes plain is looked for among the exported ones.
    fn hooks(&mut self, order: Order) -> Result<f64> {
        let pfns = self.events(order);
        let guest = &self.guest;
        timed(pfns.len(), || {
            for &pfn in &pfns {
                guest.gain(pfn);
                guest.lose(pfn);
            }
            Ok(())
        })
    }

    fn vectors(&mut self, registers: Registers) -> Result<f64> {
        let times = self.size.batch * EVENTS;
        timed(times, || {
            for _ in 0..times {
                self.cpu.vectors.enter(registers);
                self.cpu.vectors.leave();
            }
            Ok(())
        })
    }

    fn record(&mut self, index: usize, step: Step) -> Result<f64> {
        let Self {
            records, cpu, memory, ..
        } = self;
        let sealed = records.get_mut(index).context("no such record")?;
        let Sealed {
            guest,
            receiver,
            buffer,
        } = sealed;
        // A session of this host key, with one page exported: the record says that there are no more.
        guest.enter(&[State::Running, State::Suspended])?;
        let mut ticket = guest.begin(1)?;
        guest.export_private(cpu, frame_mut(memory, 1), &mut ticket);
        let mut size = 0;
        let seal = timed(1, || {
            size = guest.seal(1, buffer)?;
            Ok(())
        })?;
        let record = buffer.get_mut(..size).context("the record has no such size")?;
        let open = timed(1, || receiver.open(record).map(drop))?;
        Ok(match step {
            Step::Seal => seal,
            Step::Open => open,
        })
    }
}

/// Makes `frame` a page table with these frames in its 512 entries: present, writable, the guest's own.
fn table(frame: &mut Frame, mfn: impl Fn(u64) -> u64) {
    for (i, bytes) in (0..).zip(frame.0.as_chunks_mut().0) {
        *bytes = (mfn(i) << 12 | 7).to_le_bytes();
    }
}

fn frame_mut(memory: &mut [Frame], pfn: u64) -> &mut Frame {
    let frames = memory.len();
    &mut memory[pfn as usize % frames]
}

/// Maps pages one after the other; the next one is on its way to the cache meanwhile if it is fetched `ahead`.
fn map_all<'a>(
    guest: &Guest,
    cpu: &mut Cpu,
    mut pages: impl Iterator<Item = (u64, &'a Frame)>,
    ahead: bool,
    replicas: &mut Vec<usize>,
) -> Result<f64> {
    timed(replicas.capacity(), || {
        let mut next = pages.next();
        while let Some((pfn, page)) = next {
            next = pages.next();
            if let (true, Some((_, page))) = (ahead, next) {
                fetch_page(page);
            }
            replicas.push(guest.map(cpu, pfn, page)?);
        }
        Ok(())
    })
}

/// Of a guest that got its memory in order.
const fn in_row(pfn: u64) -> u64 {
    pfn
}

/// Of one whose frames lie anywhere: neighbours in the guest are far apart, and each frame is still somebody's.
const fn scattered(pfn: u64) -> u64 {
    // Odd, so that it permutes every power of two; a multiple of what it is near to would keep neighbours together.
    pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn unmap_all(guest: &Guest, cpu: &mut Cpu, replicas: Vec<usize>) -> Result<()> {
    for replica in replicas {
        black_box(guest.unmap(cpu, replica)?);
    }
    Ok(())
}

/// Page of [`check`] that is a page table.
const CHECKED_TABLE: u64 = 5;

/// Sends pages from one guest through dom0 to another with the very steps that are measured, and makes sure that
/// they arrive. `spoil` may change what dom0 carries.
fn check(backend: Kind, spoil: impl FnOnce(&mut [Frame])) -> Result<()> {
    const PAGES: u64 = 96;
    boot(backend)?;
    let mut memory: Vec<Frame> = (0..PAGES).map(|pfn| Frame([pfn as u8; 4096])).collect();
    table(frame_mut(&mut memory, CHECKED_TABLE), |i| i % PAGES);
    let mut cpu = Cpu::new(2);
    let from = Guest::new(PAGES);
    from.gain(CHECKED_TABLE);
    from.enter(&[State::Sealing, State::Running, State::Suspended])?;
    let mut image = Vec::new();
    for (pfn, page) in (0..).zip(&memory) {
        let replica = from.map(&mut cpu, pfn, page)?;
        let shown = cpu.replicas[replica].clone();
        from.unmap(&mut cpu, replica)?;
        ensure!(
            (shown.0 == page.0) == (pfn == CHECKED_TABLE),
            "dom0 sees the wrong view of page {pfn}"
        );
        image.push(shown);
    }
    let mut record = from.record_buffer();
    let size = from.seal(PAGES, &mut record)?;
    record.truncate(size);
    spoil(&mut image);

    let mut to = Guest::new(PAGES);
    let session = to.open(&mut record)?;
    for (pfn, page) in (0..).zip(&mut image) {
        if pfn == CHECKED_TABLE {
            to.rebind(&mut cpu, &session, pfn, page)?;
        } else {
            to.decrypt(&mut cpu, &session, pfn, page);
        }
    }
    to.verify(&record)?;
    ensure!(
        image.iter().zip(&memory).all(|(a, b)| a.0 == b.0),
        "restored pages differ"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::MACHINE;

    const TINY: Size = Size {
        pfns: 4096,
        frames: 64,
        batch: 16,
        records: [1024, 4096],
    };

    #[test]
    fn every_stage_runs_and_is_reported() {
        let _alone = MACHINE.lock();
        let report = measure(TINY, 3).unwrap();
        let labels = report.labels();
        assert!(labels.len() > all().len());
        assert!(labels.contains(CLASSIFICATION));
        assert!(labels.contains(&format!("{BEYOND}, {}", NI.name)));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stages.svg");
        draw(&report, &path).unwrap();
        let picture = std::fs::read_to_string(path).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains(JUDGE));
    }

    #[test]
    fn what_follows_is_a_difference_round_by_round() {
        let measure = |name| Measure {
            name,
            unit: Unit::Page(Place::Cached),
            backend: Some(NI),
            run: |_| Ok(0.0),
        };
        let samples = [vec![13.0, 24.0, 35.0], vec![10.0, 20.0, 30.0]];
        let figures = figures(&[measure(MAP), measure(ENCRYPT)], &samples);
        let beyond = figures.last().unwrap();
        assert_eq!((beyond.name.as_str(), beyond.median), (BEYOND, 4.0));
    }

    #[test]
    fn a_page_that_does_not_come_back_is_noticed() {
        let _alone = MACHINE.lock();
        for backend in backend::available() {
            check(backend, |_| ()).unwrap();
            check(backend, |image| image[3].0[17] ^= 1).unwrap_err();
            check(backend, |image| image.swap(8, 9)).unwrap_err();
            // Another frame of the guest, in an entry of a table.
            check(backend, |image| image[CHECKED_TABLE as usize].0[9] ^= 0x10).unwrap_err();
        }
    }
}
