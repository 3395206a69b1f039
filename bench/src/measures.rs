//! What is measured.

use std::{hint::black_box, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use vmcrypt_core::{State, ids::SessionId};
use vmcrypt_ffi::host::{
    VMC_BACKEND_AESNI as NI, VMC_BACKEND_AVX2 as AVX2, VMC_BACKEND_AVX512 as AVX512,
    VMC_BACKEND_PORTABLE as PORTABLE,
};
use vmcrypt_simd::{avx2::Avx2, avx512::Avx512, ni::AesNi};

use crate::{
    guest::{Cpu, Guest, PRIVATE, View, boot, host_denies},
    model::{Frame, Mapped, copy_page, resident},
};

/// One thing whose cost is measured.
pub struct Measure {
    /// Short name, unique.
    pub name: &'static str,
    /// What one unit of it is.
    pub unit: Unit,
    /// Nanoseconds that one unit took on the CPU.
    pub run: fn(&mut World) -> Result<f64>,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds for a page whose 4,096 bytes are worked on, in this place.
    Page(Place),
    /// Nanoseconds for a page whose content is not looked at.
    Event,
    /// Nanoseconds for one whole record.
    Record,
}

/// Where pages are when they are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The same eight again and again: in the first or second level cache.
    Hot,
    /// In address order through more memory than the caches hold.
    Cold,
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
pub fn all() -> Vec<Measure> {
    use Order::{Ascending, Random};
    use Place::{Cold, Hot};
    use Unit::{Event, Page, Record};

    let ni = AesNi::detect().is_some();
    let (avx2, avx512) = (Avx2::detect().is_some(), Avx512::detect().is_some());
    type Row = (bool, Unit, &'static str, fn(&mut World) -> Result<f64>);
    let list: [Row; 35] = [
        (true, Page(Hot), "copy a page, hot", |w| w.copy(Hot)),
        (true, Page(Cold), "copy a page", |w| w.copy(Cold)),
        (ni, Page(Cold), "map a table, entries in a row", |w| w.map_table(Ascending)),
        (ni, Page(Cold), "map a table, entries at random", |w| w.map_table(Random)),
        (ni, Page(Cold), "map a private page", |w| w.map(NI)),
        (ni, Page(Hot), "map and unmap a private page, hot", World::map_hot),
        (ni, Page(Cold), "map a private page, registers saved by the batch", World::map_batch),
        (ni, Page(Hot), "encrypt alone, hot", |w| w.encrypt(NI, Hot)),
        (ni, Page(Cold), "encrypt alone", |w| w.encrypt(NI, Cold)),
        (avx2, Page(Hot), "encrypt alone, 256 bits, hot", |w| w.encrypt(AVX2, Hot)),
        (avx2, Page(Cold), "encrypt alone, 256 bits", |w| w.encrypt(AVX2, Cold)),
        (avx512, Page(Hot), "encrypt alone, 512 bits, hot", |w| w.encrypt(AVX512, Hot)),
        (avx512, Page(Cold), "encrypt alone, 512 bits", |w| w.encrypt(AVX512, Cold)),
        (ni, Page(Hot), "restore a page, hot", |w| w.restore(NI, Hot)),
        (ni, Page(Cold), "restore a page", |w| w.restore(NI, Cold)),
        (ni, Event, "map and unmap one page of a running guest", World::map_running),
        (true, Page(Cold), "map a private page, portable", |w| w.map(PORTABLE)),
        (true, Page(Hot), "encrypt alone, portable, hot", |w| w.encrypt(PORTABLE, Hot)),
        (true, Page(Cold), "encrypt alone, portable", |w| w.encrypt(PORTABLE, Cold)),
        (true, Page(Hot), "restore a page, portable, hot", |w| w.restore(PORTABLE, Hot)),
        (true, Page(Cold), "restore a page, portable", |w| w.restore(PORTABLE, Cold)),
        (true, Event, "unmap a replica", World::unmap),
        (true, Event, "judge, in order", |w| w.judge(Ascending, false)),
        (true, Event, "judge, at random", |w| w.judge(Random, false)),
        (true, Event, "judge and M2P look-up, in order", |w| w.judge(Ascending, true)),
        (true, Event, "judge and M2P look-up, at random", |w| w.judge(Random, true)),
        (true, Event, "judge a hypercall on a domain", World::door),
        (true, Event, "judge a hypercall on the machine", World::host_door),
        (true, Event, "page becomes plain and private again, in order", |w| w.hooks(Ascending)),
        (true, Event, "page becomes plain and private again, at random", |w| w.hooks(Random)),
        (true, Event, "vector registers saved and restored", World::vectors),
        (true, Record, "seal the record of a small guest", |w| w.record(0, Step::Seal)),
        (true, Record, "open the record of a small guest", |w| w.record(0, Step::Open)),
        (true, Record, "seal the record of a large guest", |w| w.record(1, Step::Seal)),
        (true, Record, "open the record of a large guest", |w| w.record(1, Step::Open)),
    ];
    let possible = list.into_iter().filter(|(possible, ..)| *possible);
    possible.map(|(_, unit, name, run)| Measure { name, unit, run }).collect()
}

#[derive(Clone, Copy)]
enum Order {
    Ascending,
    Random,
}

#[derive(Clone, Copy)]
enum Step {
    Seal,
    Open,
}

/// Everything that is worked on.
pub struct World {
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
    pub fn new(size: Size) -> Result<Self> {
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
        self.guest.export(&mut self.cpu, &mut ticket, PRIVATE);
        Ok(())
    }

    /// PFNs of one sample.
    fn pfns(&mut self, place: Place, pages: usize) -> impl Iterator<Item = u64> + Clone + use<> {
        let (start, all, wrap) = match place {
            Place::Hot => (0, self.size.pfns, HOT as u64),
            Place::Cold => (self.next, self.size.pfns, u64::MAX),
        };
        if place == Place::Cold {
            self.next += pages as u64;
        }
        (0..pages as u64).map(move |i| (start + i % wrap) % all)
    }

    fn events(&mut self, order: Order) -> Vec<u64> {
        let count = self.size.batch * EVENTS;
        match order {
            Order::Ascending => self.pfns(Place::Cold, count).collect(),
            Order::Random => {
                self.random.rotate_left(count % (1 << 20));
                self.random.iter().copied().take(count).collect()
            }
        }
    }

    /// Chooses a backend, and says how many pages make a sample of it.
    fn boot(&self, backend: u32) -> Result<usize> {
        boot(backend)?;
        Ok(match backend {
            PORTABLE => (self.size.batch / PORTABLE_SHARE).max(1),
            _ => self.size.batch,
        })
    }

    fn copy(&mut self, place: Place) -> Result<f64> {
        let batch = self.size.batch;
        let pfns = self.pfns(place, batch);
        let wrap = if place == Place::Hot { HOT } else { batch };
        let Self { memory, cpu, .. } = self;
        timed(batch, || {
            for (i, pfn) in pfns.enumerate() {
                copy_page(&mut cpu.replicas[i % wrap], &memory[pfn as usize % memory.len()]);
            }
            Ok(())
        })
    }

    fn encrypt(&mut self, backend: u32, place: Place) -> Result<f64> {
        let pages = self.boot(backend)?;
        let pfns = self.pfns(place, pages);
        let mut ticket = self.guest.begin(0)?;
        let Self { guest, memory, .. } = self;
        let time = timed(pages, || {
            pfns.for_each(|pfn| guest.encrypt(&mut ticket, PRIVATE, frame_mut(memory, pfn)));
            Ok(())
        });
        guest.end(&ticket);
        time
    }

    /// What is decrypted here was never encrypted; that costs the same.
    fn restore(&mut self, backend: u32, place: Place) -> Result<f64> {
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

    /// Maps a batch, and unmaps it when the time was taken.
    fn map(&mut self, backend: u32) -> Result<f64> {
        let pages = self.boot(backend)?;
        let pfns = self.pfns(Place::Cold, pages);
        let mut replicas = Vec::with_capacity(pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        let time = map_all(guest, cpu, pfns, memory, &mut replicas);
        unmap_all(guest, cpu, replicas)?;
        time
    }

    fn map_batch(&mut self) -> Result<f64> {
        self.cpu.saves = false;
        self.cpu.vectors.enter();
        let time = self.map(NI);
        self.cpu.vectors.leave();
        self.cpu.saves = true;
        time
    }

    fn map_hot(&mut self) -> Result<f64> {
        let pages = self.boot(NI)?;
        self.map_one_by_one(Place::Hot, pages)
    }

    /// Each of these maps opens a session of its own: the guest may run and dom0 has nothing else mapped.
    fn map_running(&mut self) -> Result<f64> {
        let pages = self.boot(NI)?.div_ceil(PORTABLE_SHARE);
        self.guest.enter(&[State::Running])?;
        let time = self.map_one_by_one(Place::Cold, pages);
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
        let pfns = self.pfns(Place::Cold, pages);
        pfns.clone().for_each(|pfn| self.guest.gain(pfn));
        let mut replicas = Vec::with_capacity(pages);
        let Self {
            guest, cpu, tables, ..
        } = self;
        let [row, random] = tables;
        let tables = match order {
            Order::Ascending => row,
            Order::Random => random,
        };
        let time = map_all(guest, cpu, pfns.clone(), tables, &mut replicas);
        unmap_all(guest, cpu, replicas)?;
        pfns.for_each(|pfn| guest.lose(pfn));
        time
    }

    fn unmap(&mut self) -> Result<f64> {
        let pages = self.size.batch;
        let pfns = self.pfns(Place::Cold, pages);
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
                black_box(denied.count()) < operations.len(),
                "every domctl was denied"
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
                black_box(denied.count()) < operations.len(),
                "every sysctl was denied"
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

    fn vectors(&mut self) -> Result<f64> {
        let times = self.size.batch * EVENTS;
        timed(times, || {
            for _ in 0..times {
                self.cpu.vectors.enter();
                self.cpu.vectors.leave();
            }
            Ok(())
        })
    }

    fn record(&mut self, index: usize, step: Step) -> Result<f64> {
        let Self { records, cpu, .. } = self;
        let sealed = records.get_mut(index).context("no such record")?;
        let Sealed {
            guest,
            receiver,
            buffer,
        } = sealed;
        // A session of this host key, with one page exported: the record says that there are no more.
        guest.enter(&[State::Running, State::Suspended])?;
        let mut ticket = guest.begin(1)?;
        guest.export(cpu, &mut ticket, PRIVATE);
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

fn map_all(
    guest: &Guest,
    cpu: &mut Cpu,
    pfns: impl Iterator<Item = u64>,
    memory: &[Frame],
    replicas: &mut Vec<usize>,
) -> Result<f64> {
    timed(replicas.capacity(), || {
        for pfn in pfns {
            replicas.push(guest.map(cpu, pfn, &memory[pfn as usize % memory.len()])?);
        }
        Ok(())
    })
}

fn unmap_all(guest: &Guest, cpu: &mut Cpu, replicas: Vec<usize>) -> Result<()> {
    for replica in replicas {
        black_box(guest.unmap(cpu, replica)?);
    }
    Ok(())
}

/// Nanoseconds that one of `count` took on the CPU. The clock stands still while another program runs.
fn timed(count: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = cpu_time()?;
    work()?;
    Ok((cpu_time()? - start).as_nanos() as f64 / count as f64)
}

fn cpu_time() -> Result<Duration> {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))
        .context("the thread's clock is before its start")
}

/// Page of [`check`] that is a page table.
pub const CHECKED_TABLE: u64 = 5;

/// Sends pages from one guest through dom0 to another with the very steps that are measured, and makes sure that
/// they arrive. `spoil` may change what dom0 carries.
pub fn check(backend: u32, spoil: impl FnOnce(&mut [Frame])) -> Result<()> {
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

    let to = Guest::new(PAGES);
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
