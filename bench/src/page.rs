//! How fast a page is encrypted, beside what others offer: `cargo xtask bench page`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vmcrypt_core::cipher::Page;

use crate::{
    figure::{Figure, Place, Report, Unit},
    machine,
    model::{Frame, Mapped, resident},
    picture::{self, Bars},
    rounds::interleaved,
};

mod baseline;
mod ours;
#[cfg(feature = "peers")]
mod peers;

const PLACES: [Place; 3] = [Place::Cached, Place::Sequential, Place::Random];
/// Pages that are worked on while cached.
const HOT: usize = 8;

/// How much there is to work on.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Frames of 4 KiB; as far as figures go, much more than the last cache level.
    pub frames: usize,
    /// Pages of one sample.
    pub sample: usize,
    /// Samples of each contender in each place.
    pub rounds: usize,
}

impl Size {
    /// 256 MiB.
    pub const FULL: Self = Self {
        frames: 64 << 10,
        sample: 512,
        rounds: 200,
    };
    /// For trying it out.
    pub const QUICK: Self = Self {
        rounds: 10,
        ..Self::FULL
    };
}

/// Something that works on pages in place.
pub struct Contender {
    name: &'static str,
    /// Which code does it.
    backend: String,
    /// One page in so many of a sample will do: it is slow.
    share: usize,
    work: Box<Work>,
}

/// Works on the page of that number.
type Work = dyn FnMut(u64, &mut Page) -> Result<()>;

/// Encrypts whole pages in place.
pub trait Cipher {
    /// Encrypts a page under a tweak or nonce made of `number`. The tag, if there is one, is kept.
    fn seal(&mut self, number: u64, page: &mut Page) -> Result<()>;
    /// Undoes what [`Cipher::seal`] did last. Fails if there is a tag, and it is not this page's.
    fn open(&mut self, number: u64, page: &mut Page) -> Result<()>;
}

impl Contender {
    /// A cipher, once it is seen to be one.
    fn cipher(name: &'static str, backend: &str, mut cipher: impl Cipher + 'static) -> Result<Self> {
        check(&mut cipher).with_context(|| format!("{name}, {backend}"))?;
        Ok(Self {
            name,
            backend: backend.to_owned(),
            share: 1,
            work: Box::new(move |number, page| cipher.seal(number, page)),
        })
    }
}

/// Makes sure that a page comes back from its ciphertext, from no other, and under no other number.
fn check(cipher: &mut impl Cipher) -> Result<()> {
    let page = content(0);
    let seal = |cipher: &mut dyn Cipher, number| -> Result<Page> {
        let mut sealed = page;
        cipher.seal(number, &mut sealed)?;
        Ok(sealed)
    };
    let other = seal(cipher, 6)?;
    let sealed = seal(cipher, 7)?;
    let unchanged = sealed.iter().zip(&page).filter(|(a, b)| a == b).count();
    ensure!(unchanged < 256, "{unchanged} bytes were not encrypted");
    ensure!(sealed != other, "two numbers have the same key stream");
    let mut opened = sealed;
    cipher.open(7, &mut opened)?;
    ensure!(opened == page, "a page does not come back");
    let mut spoiled = sealed;
    spoiled[1000] ^= 4;
    let accepted = cipher.open(7, &mut spoiled).is_ok();
    ensure!(!accepted || spoiled != page, "a changed page comes back");
    let mut moved = sealed;
    let accepted = cipher.open(6, &mut moved).is_ok();
    ensure!(
        !accepted || moved != page,
        "a page comes back under another number"
    );
    Ok(())
}

/// A page of noise, always the same for the same seed.
fn content(seed: u64) -> Page {
    let mut page = [0; 4096];
    fastrand::Rng::with_seed(seed).fill(&mut page);
    page
}

/// Everything that can be measured on this CPU, the baselines first.
fn contenders(size: Size) -> Result<Vec<Contender>> {
    let mut list = baseline::all(size.frames)?;
    list.extend(ours::all()?);
    #[cfg(feature = "peers")]
    list.extend(peers::all()?);
    Ok(list)
}

/// What is worked on, and where one is in it.
struct Memory {
    frames: Vec<Frame>,
    shuffled: Vec<usize>,
    next: [usize; 2],
}

impl Memory {
    fn new(frames: usize) -> Self {
        let mut memory = resident(frames, Frame([0; 4096]), Mapped::Large);
        memory.iter_mut().for_each(|frame| fastrand::fill(&mut frame.0));
        let mut shuffled: Vec<usize> = (0..frames).collect();
        fastrand::shuffle(&mut shuffled);
        Self {
            frames: memory,
            shuffled,
            next: [0; 2],
        }
    }

    /// Frames of one sample.
    fn sample(&mut self, place: Place, pages: usize) -> Vec<usize> {
        let all = self.frames.len();
        let mut take = |which: usize| {
            let first = self.next[which];
            self.next[which] = (first + pages) % all;
            (first..first + pages).map(move |i| i % all)
        };
        match place {
            Place::Cached => (0..pages).map(|i| i % HOT).collect(),
            Place::Sequential => take(0).collect(),
            Place::Random => take(1).map(|i| self.shuffled[i]).collect(),
        }
    }

    /// Nanoseconds that a page took.
    fn time(&mut self, contender: &mut Contender, place: Place, pages: usize) -> Result<f64> {
        let numbers = self.sample(place, (pages / contender.share).max(1));
        machine::on_cpu(numbers.len(), || {
            for &number in &numbers {
                (contender.work)(number as u64, &mut self.frames[number].0)?;
            }
            Ok(())
        })
    }
}

/// Measures every contender in every place; ratios are to `memcpy` in the same place.
pub fn measure(size: Size) -> Result<Report> {
    let mut contenders = contenders(size)?;
    let mut memory = Memory::new(size.frames);
    Report::measure("page", || {
        let places = PLACES.len();
        let samples = machine::pinned(|| {
            interleaved(contenders.len() * places, 1, size.rounds, |cell| {
                memory.time(&mut contenders[cell / places], PLACES[cell % places], size.sample)
            })
        })?;
        let figures = samples.iter().enumerate().map(|(cell, samples_here)| {
            let (contender, place) = (&contenders[cell / places], PLACES[cell % places]);
            Figure {
                backend: Some(contender.backend.clone()),
                ..Figure::new(contender.name, Unit::Nanoseconds, samples_here)
                    .of_pages(place)
                    .against(samples_here, &samples[cell % places])
            }
        });
        Ok(figures.collect())
    })
}

/// Bars of gigabytes a second.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let panel = |place: Place| {
        // The baselines would leave nothing to see of the ciphers.
        let cipher = |figure: &&Figure| !baseline::NAMES.contains(&figure.name.as_str());
        let here = |figure: &&Figure| figure.place == Some(place);
        let figures = report.figures.iter().filter(cipher).filter(here);
        let rows = figures.filter_map(|figure| {
            let of = |time: f64| 4096.0 / time;
            Some(picture::Row {
                label: format!("{}, {}", figure.name, figure.backend.as_deref()?),
                middle: figure.gbps?,
                spread: [of(figure.upper_quartile), of(figure.lower_quartile)],
                ours: figure.name == ours::NAME,
            })
        });
        Bars {
            title: format!("{}: GB/s on one CPU", place.name()),
            rows: rows.collect(),
        }
    };
    picture::bars(&report.machine.cpu(), &PLACES.map(panel), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Size = Size {
        frames: 64,
        sample: 16,
        rounds: 3,
    };

    #[test]
    fn every_contender_is_measured_in_every_place() {
        let report = measure(TINY).unwrap();
        assert_eq!(report.figures.len(), 3 * contenders(TINY).unwrap().len());
        report.labels();
        for name in ["memcpy", ours::NAME] {
            assert!(report.figures.iter().any(|figure| figure.name == name));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("page.svg");
        draw(&report, &path).unwrap();
        let picture = std::fs::read_to_string(path).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains(ours::NAME));
    }

    #[test]
    fn a_sample_is_where_it_says() {
        let mut memory = Memory::new(64);
        assert_eq!(memory.sample(Place::Cached, 10), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]);
        assert_eq!(memory.sample(Place::Sequential, 3), [0, 1, 2]);
        assert_eq!(memory.sample(Place::Sequential, 62)[60..], [63, 0]);
        let mut random = memory.sample(Place::Random, 64);
        assert_ne!(random, (0..64).collect::<Vec<_>>());
        random.sort_unstable();
        assert_eq!(random, (0..64).collect::<Vec<_>>());
    }

    /// Each is no cipher in its own way.
    #[test]
    fn what_is_no_cipher_is_not_measured() {
        /// Number, page, and whether it is to be encrypted.
        type Wrong = fn(u64, &mut Page, bool);
        struct Broken(Wrong);
        impl Cipher for Broken {
            fn seal(&mut self, number: u64, page: &mut Page) -> Result<()> {
                (self.0)(number, page, true);
                Ok(())
            }
            fn open(&mut self, number: u64, page: &mut Page) -> Result<()> {
                (self.0)(number, page, false);
                Ok(())
            }
        }
        let broken: [(&str, Wrong); 4] = [
            ("were not encrypted", |_, _, _| ()),
            ("same key stream", |_, page, _| {
                page.iter_mut().for_each(|byte| *byte ^= 0x55)
            }),
            ("does not come back", |number, page, _| {
                page.iter_mut()
                    .for_each(|byte| *byte = byte.wrapping_add(1 + number as u8))
            }),
            ("a changed page comes back", |number, page, seal| {
                if seal {
                    *page = content(number + 1);
                } else {
                    *page = content(0);
                }
            }),
        ];
        for (complaint, work) in broken {
            let error = check(&mut Broken(work)).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
