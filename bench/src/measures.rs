//! What is measured.

use std::{hint::black_box, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use vmcrypt_core::State;
use vmcrypt_ffi::host::{VMC_BACKEND_AESNI, VMC_BACKEND_PORTABLE};
use vmcrypt_simd::ni::AesNi;

use crate::{
    guest::{Cpu, Guest, View, Ways, boot},
    model::{Frame, Mapped, clear_page, clear_page_cached, copy_page, resident},
};

/// One thing whose cost is measured.
pub struct Measure {
    /// Short name, unique.
    pub name: String,
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
/// One page of so many is plain when a record is sealed.
const PLAIN_SHARE: u64 = 256;

/// Every measure that this CPU can do, baselines first.
pub fn all(size: Size) -> Vec<Measure> {
    use Place::{Cold, Hot};
    use Unit::{Event, Page, Record};
    const NI: u32 = VMC_BACKEND_AESNI;
    const PORTABLE: u32 = VMC_BACKEND_PORTABLE;

    let mut list = Vec::new();
    let mut add = |name: &str, unit, run| {
        list.push(Measure {
            name: name.to_owned(),
            unit,
            run,
        });
    };
    add("copy a page, hot", Page(Hot), |w| w.copy(Hot));
    add("copy a page", Page(Cold), |w| w.copy(Cold));
    add("map a plain page", Page(Cold), World::map_plain);
    if AesNi::detect().is_some() {
        add("map a private page", Page(Cold), |w| w.map(NI, Ways::XEN));
        add("map and unmap a private page, hot", Page(Hot), |w| w.map_hot(NI));
        add(
            "map a private page, registers saved by the batch",
            Page(Cold),
            |w| {
                w.map(
                    NI,
                    Ways {
                        vectors: false,
                        ..Ways::XEN
                    },
                )
            },
        );
        add("map a private page, scratch cleared in cache", Page(Cold), |w| {
            w.map(
                NI,
                Ways {
                    clear: clear_page_cached,
                    ..Ways::XEN
                },
            )
        });
        add("encrypt alone, hot", Page(Hot), |w| w.encrypt(NI, Hot));
        add("encrypt alone", Page(Cold), |w| w.encrypt(NI, Cold));
        add("restore a page, hot", Page(Hot), |w| w.restore(NI, Hot));
        add("restore a page", Page(Cold), |w| w.restore(NI, Cold));
        add("map and unmap one page of a running guest", Event, |w| {
            w.map_running(NI)
        });
    }
    add("map a private page, portable", Page(Cold), |w| {
        w.map(PORTABLE, Ways::XEN)
    });
    add("encrypt alone, portable, hot", Page(Hot), |w| {
        w.encrypt(PORTABLE, Hot)
    });
    add("encrypt alone, portable", Page(Cold), |w| {
        w.encrypt(PORTABLE, Cold)
    });
    add("restore a page, portable, hot", Page(Hot), |w| {
        w.restore(PORTABLE, Hot)
    });
    add("restore a page, portable", Page(Cold), |w| {
        w.restore(PORTABLE, Cold)
    });
    add("unmap a replica", Event, World::unmap);
    add("judge, in order", Event, |w| w.judge(Order::Ascending, false));
    add("judge, at random", Event, |w| w.judge(Order::Random, false));
    add("judge and M2P look-up, in order", Event, |w| {
        w.judge(Order::Ascending, true)
    });
    add("judge and M2P look-up, at random", Event, |w| {
        w.judge(Order::Random, true)
    });
    add("page becomes plain and private again, in order", Event, |w| {
        w.hooks(Order::Ascending)
    });
    add("page becomes plain and private again, at random", Event, |w| {
        w.hooks(Order::Random)
    });
    add("vector registers saved and restored", Event, World::vectors);
    add("clear the scratch page", Page(Cold), |w| w.clear(clear_page));
    add("clear the scratch page in cache", Page(Cold), |w| {
        w.clear(clear_page_cached)
    });
    let [small, large] = size.records.map(memory);
    add(&format!("seal the record of {small}"), Record, |w| {
        w.record(0, Step::Seal)
    });
    add(&format!("open the record of {small}"), Record, |w| {
        w.record(0, Step::Open)
    });
    add(&format!("seal the record of {large}"), Record, |w| {
        w.record(1, Step::Seal)
    });
    add(&format!("open the record of {large}"), Record, |w| {
        w.record(1, Step::Open)
    });
    list
}

/// So many pages, for people.
fn memory(pages: u64) -> String {
    match pages >> 18 {
        0 => format!("{} MiB", pages >> 8),
        gib => format!("{gib} GiB"),
    }
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
        let mut world = Self {
            size,
            guest: Guest::new(size.pfns),
            cpu: Cpu::new(2 * size.batch.max(HOT)),
            memory: resident(size.frames, Frame([0x5a; 4096]), Mapped::Large),
            next: 0,
            random: (0..1 << 20).map(|_| fastrand::u64(..size.pfns)).collect(),
            records: size.records.into_iter().map(sealed).collect::<Result<_>>()?,
        };
        boot(VMC_BACKEND_PORTABLE)?;
        world
            .guest
            .enter(&[State::Sealing, State::Running, State::Suspended])?;
        world.open_session()?;
        Ok(world)
    }

    /// Opening a session clears a set of pages, which belongs to no page in particular.
    fn open_session(&mut self) -> Result<()> {
        let mut ticket = self.guest.begin(0)?;
        self.guest.encrypt_page(&mut ticket, &mut self.cpu.scratch);
        self.guest.end(&ticket);
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

    fn pages(&self, backend: u32) -> usize {
        match backend {
            VMC_BACKEND_PORTABLE => (self.size.batch / PORTABLE_SHARE).max(1),
            _ => self.size.batch,
        }
    }

    fn copy(&mut self, place: Place) -> Result<f64> {
        let batch = self.size.batch;
        let pfns = self.pfns(place, batch);
        let wrap = if place == Place::Hot { HOT } else { batch };
        let Self { memory, cpu, .. } = self;
        timed(batch, || {
            for (i, pfn) in pfns.enumerate() {
                copy_page(&mut cpu.replicas[i % wrap], frame(memory, pfn));
            }
            Ok(())
        })
    }

    fn encrypt(&mut self, backend: u32, place: Place) -> Result<f64> {
        boot(backend)?;
        let pages = self.pages(backend);
        let pfns = self.pfns(place, pages);
        let mut ticket = self.guest.begin(0)?;
        let Self { guest, memory, .. } = self;
        let time = timed(pages, || {
            pfns.for_each(|pfn| guest.encrypt_page(&mut ticket, frame_mut(memory, pfn)));
            Ok(())
        });
        guest.end(&ticket);
        time
    }

    /// What is decrypted here was never encrypted; that costs the same.
    fn restore(&mut self, backend: u32, place: Place) -> Result<f64> {
        boot(backend)?;
        let pages = self.pages(backend);
        let pfns = self.pfns(place, pages);
        let session = vmcrypt_core::ids::SessionId([1; 16]);
        let Self {
            guest, cpu, memory, ..
        } = self;
        timed(pages, || {
            pfns.for_each(|pfn| guest.restore(cpu, &session, pfn, frame_mut(memory, pfn)));
            Ok(())
        })
    }

    /// Maps a batch, and unmaps it when the time was taken.
    fn map(&mut self, backend: u32, ways: Ways) -> Result<f64> {
        boot(backend)?;
        let pages = self.pages(backend);
        let pfns = self.pfns(Place::Cold, pages);
        let mut replicas = Vec::with_capacity(pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        let time = timed(pages, || {
            // Where pages leave it out, the batch does it.
            if !ways.vectors {
                cpu.vectors.enter();
            }
            for pfn in pfns {
                replicas.push(guest.map(cpu, pfn, frame(memory, pfn), ways)?);
            }
            if !ways.vectors {
                cpu.vectors.leave();
            }
            Ok(())
        });
        unmap_all(guest, cpu, replicas)?;
        time
    }

    fn map_hot(&mut self, backend: u32) -> Result<f64> {
        boot(backend)?;
        let pages = self.pages(backend);
        let pfns = self.pfns(Place::Hot, pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        timed(pages, || {
            for pfn in pfns {
                let replica = guest.map(cpu, pfn, frame(memory, pfn), Ways::XEN)?;
                guest.unmap(cpu, replica);
            }
            Ok(())
        })
    }

    fn map_plain(&mut self) -> Result<f64> {
        let pages = self.size.batch;
        let pfns = self.pfns(Place::Cold, pages);
        pfns.clone().for_each(|pfn| self.guest.gain(pfn));
        let mut replicas = Vec::with_capacity(pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        let time = timed(pages, || {
            for pfn in pfns.clone() {
                replicas.push(guest.map(cpu, pfn, frame(memory, pfn), Ways::XEN)?);
            }
            Ok(())
        });
        unmap_all(guest, cpu, replicas)?;
        pfns.for_each(|pfn| guest.lose(pfn));
        time
    }

    /// Each of these maps opens a session of its own: the guest may run and dom0 has nothing else mapped.
    fn map_running(&mut self, backend: u32) -> Result<f64> {
        boot(backend)?;
        self.guest.enter(&[State::Running])?;
        let pages = (self.size.batch / PORTABLE_SHARE).max(1);
        let pfns = self.pfns(Place::Cold, pages);
        let Self {
            guest, cpu, memory, ..
        } = self;
        let time = timed(pages, || {
            for pfn in pfns {
                let replica = guest.map(cpu, pfn, frame(memory, pfn), Ways::XEN)?;
                guest.unmap(cpu, replica);
            }
            Ok(())
        });
        guest.enter(&[State::Suspended])?;
        self.open_session()?;
        time
    }

    fn unmap(&mut self) -> Result<f64> {
        let pages = self.size.batch;
        let replicas: Vec<usize> = self
            .pfns(Place::Cold, pages)
            .map_while(|pfn| self.guest.map_nothing(&self.cpu, pfn))
            .collect();
        ensure!(replicas.len() == pages, "too few replicas");
        let Self { guest, cpu, .. } = self;
        timed(pages, || unmap_all(guest, cpu, replicas))
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

    /// What clearing adds to filling the page again and again.
    fn clear(&mut self, clear: fn(&mut Frame)) -> Result<f64> {
        let times = self.size.batch;
        let Self { cpu, memory, .. } = self;
        let mut fill = |clear: Option<fn(&mut Frame)>| {
            timed(times, || {
                for _ in 0..times {
                    copy_page(&mut cpu.scratch, &memory[0]);
                    if let Some(clear) = clear {
                        clear(&mut cpu.scratch);
                    }
                }
                Ok(())
            })
        };
        Ok(fill(Some(clear))? - fill(None)?)
    }

    fn record(&mut self, index: usize, step: Step) -> Result<f64> {
        let Self { records, cpu, .. } = self;
        let Sealed {
            guest,
            receiver,
            buffer,
        } = records.get_mut(index).context("no such record")?;
        // A session of this host key, with one private page: the record says that there are no more.
        guest.enter(&[State::Running, State::Suspended])?;
        let mut ticket = guest.begin(1)?;
        guest.encrypt_page(&mut ticket, &mut cpu.scratch);
        guest.end(&ticket);
        let mut size = 0;
        let seal = timed(1, || {
            size = guest.seal(guest.pfns() / PLAIN_SHARE + 1, buffer)?;
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

fn frame(memory: &[Frame], pfn: u64) -> &Frame {
    &memory[pfn as usize % memory.len()]
}

fn frame_mut(memory: &mut [Frame], pfn: u64) -> &mut Frame {
    let frames = memory.len();
    &mut memory[pfn as usize % frames]
}

fn unmap_all(guest: &Guest, cpu: &Cpu, replicas: Vec<usize>) -> Result<()> {
    for replica in replicas {
        black_box(guest.unmap(cpu, replica)).context("a replica without a source")?;
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

/// Sends pages from one guest through dom0 to another with the very steps that are measured, and makes sure that
/// they arrive. `spoil` may change what dom0 carries.
pub fn check(backend: u32, spoil: impl FnOnce(&mut [Frame])) -> Result<()> {
    const PAGES: u64 = 96;
    const PLAIN: u64 = 5;
    boot(backend)?;
    let memory: Vec<Frame> = (0..PAGES).map(|pfn| Frame([pfn as u8; 4096])).collect();
    let mut cpu = Cpu::new(2);
    let from = Guest::new(PAGES);
    from.gain(PLAIN);
    from.enter(&[State::Sealing, State::Running, State::Suspended])?;
    let mut image = Vec::new();
    for (pfn, page) in (0..).zip(&memory) {
        let replica = from.map(&mut cpu, pfn, page, Ways::XEN)?;
        let shown = cpu.replicas[replica].clone();
        from.unmap(&cpu, replica);
        ensure!(
            (shown.0 == page.0) == (pfn == PLAIN),
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
        if pfn != PLAIN {
            to.restore(&mut cpu, &session, pfn, page);
        }
    }
    to.verify(&record)?;
    ensure!(
        image.iter().zip(&memory).all(|(a, b)| a.0 == b.0),
        "restored pages differ"
    );
    Ok(())
}
