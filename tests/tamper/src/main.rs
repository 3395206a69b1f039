//! Tries changes of a save image in dom0, with stock `xl`, and writes a line of JSON for each.

mod guest;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use guest::{Life, Toolstack};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use vmcrypt_tamper::changes::{Change, Sources, every_change, sample};
use vmcrypt_tamper::stream::Stream;
use vmcrypt_tamper::{Outcome, Summary, Trial, harmless};

/// Changes a save image of the tiny kernel in every way, and tries to restore each
#[derive(Parser)]
struct Cli {
    /// Draws places, and the sample
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Try each change, not one of each class and operation
    #[arg(long)]
    all: bool,
    /// Try at most so many
    #[arg(long, default_value_t = usize::MAX)]
    most: usize,
    /// Begin no further change after so many seconds
    #[arg(long, default_value_t = u64::MAX)]
    seconds: u64,
    /// Begin after so many of those that would be tried
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Only classes and operations whose names hold this, as `GDT: flip`
    #[arg(long, default_value = "")]
    only: String,
    /// Name what would be tried, and try nothing
    #[arg(long)]
    list: bool,
    /// Where the lines go
    #[arg(long)]
    report: PathBuf,
}

/// Between two restores of the unchanged image.
const CONTROL: usize = 40;

fn main() -> Result<()> {
    let (cli, start) = (Cli::parse(), Instant::now());
    let mut report = File::create(&cli.report)?;
    let mut bench = Bench::set_up(cli.seed)?;
    let mut numbers: Vec<usize> = match cli.all {
        true => (0..bench.changes.len()).collect(),
        false => sample(&bench.changes, cli.seed),
    };
    let listed = bench.changes.len();
    numbers.retain(|number| {
        let change = &bench.changes[*number];
        format!("{}: {}", change.class, change.operation).contains(&cli.only)
    });
    let numbers: Vec<usize> = numbers.into_iter().skip(cli.skip).take(cli.most).collect();
    if cli.list {
        numbers
            .iter()
            .for_each(|number| println!("{number} {}", bench.changes[*number]));
        return Ok(());
    }
    let mut controls = 0;
    for (i, number) in numbers.iter().enumerate() {
        if start.elapsed().as_secs() > cli.seconds {
            break;
        }
        if i % CONTROL == 0 {
            bench
                .control()
                .with_context(|| format!("the unchanged image before number {number}"))?;
            controls += 1;
        }
        if let Some(trial) = bench.attempt(*number)? {
            writeln!(report, "{}", serde_json::to_string(&trial)?)?;
        }
    }
    bench.control().context("the unchanged image at the end")?;
    writeln!(
        report,
        "{}",
        serde_json::to_string(&Summary {
            listed,
            controls: controls + 1
        })?
    )?;
    Ok(())
}

/// Three images, and the list of changes of the first.
struct Bench {
    xen: Toolstack,
    seed: u64,
    image: Stream,
    older: Stream,
    other: Stream,
    /// What the guest says of its memory as long as it is intact.
    hash: String,
    changes: Vec<Change>,
    /// An image that was restored with success cannot be restored again.
    once: bool,
    /// Kinds of refusals after which memory was searched.
    searched: BTreeSet<String>,
}

impl Bench {
    fn set_up(seed: u64) -> Result<Bench> {
        let mut xen = Toolstack::open()?;
        xen.create("other")?;
        let other = xen.save("other")?;
        let (older, image, hash) = sessions(&mut xen)?;
        let mut bench = Bench {
            xen,
            seed,
            image,
            older,
            other,
            hash,
            changes: Vec::new(),
            once: false,
            searched: BTreeSet::new(),
        };
        bench.list()?;
        // Whether an image can be restored twice is for the hypervisor to say.
        bench.control()?;
        let bytes = bench.image.bytes.clone();
        let twice = bench.xen.restore(&bytes)?;
        bench.once = twice.refusal.is_some();
        bench.xen.destroy()?;
        if bench.once {
            bench.renew_from_nothing()?;
        }
        Ok(bench)
    }

    fn list(&mut self) -> Result<()> {
        let sources = Sources {
            older: &self.older,
            other: &self.other,
        };
        self.changes = every_change(&self.image, &sources, self.seed)?;
        Ok(())
    }

    /// New sessions of a new guest.
    fn renew_from_nothing(&mut self) -> Result<()> {
        self.xen.destroy()?;
        (self.older, self.image, self.hash) = sessions(&mut self.xen)?;
        self.list()
    }

    /// After a success: the image is to be as good as new.
    fn renew(&mut self) -> Result<()> {
        if !self.once {
            return self.xen.destroy();
        }
        // The guest may have lost its connection to xenstore, by which it is told to suspend.
        match self.xen.save("tiny") {
            Ok(image) => {
                self.older = std::mem::replace(&mut self.image, image);
                self.list()
            }
            Err(_) => self.renew_from_nothing(),
        }
    }

    /// The unchanged image must be restored, or nothing that is refused means anything.
    fn control(&mut self) -> Result<()> {
        let restored = self.xen.restore(&self.image.bytes.clone())?;
        ensure!(
            restored.refusal.is_none(),
            "is refused: {}",
            restored.refusal.unwrap_or_default()
        );
        match self.xen.life(&self.hash)? {
            Life::Intact => self.renew(),
            life => bail!("is restored, and the guest is not well: {life}"),
        }
    }

    /// Tries a change; `None` if it changes nothing in this session.
    fn attempt(&mut self, number: usize) -> Result<Option<Trial>> {
        let Some(change) = self.changes.get(number).cloned() else {
            return Ok(None);
        };
        let bytes = change.apply(&self.image.bytes);
        if bytes == self.image.bytes {
            return Ok(None);
        }
        let start = Instant::now();
        let restored = self.xen.restore(&bytes)?;
        let mut swept = false;
        let (outcome, reason) = match restored.refusal {
            Some(reason) => {
                let who = if restored.by_xen {
                    Outcome::Xen
                } else {
                    Outcome::Tools
                };
                if self.xen.there()? && self.searched.insert(reason.clone()) {
                    swept = true;
                    let hits = self.xen.search()?;
                    ensure!(
                        hits == 0,
                        "{change}: refused ({reason}), and {hits} needles are in its memory"
                    );
                }
                self.xen.destroy()?;
                (who, reason)
            }
            None => {
                let life = self.xen.life(&self.hash)?;
                let allowed = match life {
                    Life::Intact => harmless::argument,
                    Life::Empty(_) => harmless::empty,
                    _ => |_: &str, _, _: &str| None,
                };
                let verdict = match allowed(&change.class, change.operation, &change.place) {
                    Some(argument) => (Outcome::Harmless, argument.to_owned()),
                    None => (Outcome::Accepted, life.to_string()),
                };
                match life {
                    Life::Intact => self.renew()?,
                    _ if self.once => self.renew_from_nothing()?,
                    _ => self.xen.destroy()?,
                }
                verdict
            }
        };
        let Change {
            class,
            operation,
            place,
            ..
        } = change;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Some(Trial {
            number,
            class,
            operation,
            place,
            outcome,
            reason,
            swept,
            seconds,
        }))
    }
}

/// Two sessions of one guest, and what it says of its memory.
fn sessions(xen: &mut Toolstack) -> Result<(Stream, Stream, String)> {
    let hash = xen.create("tiny")?;
    let older = xen.save("tiny")?;
    let restored = xen.restore(&older.bytes)?;
    ensure!(
        restored.refusal.is_none(),
        "the first image is refused: {:?}",
        restored.refusal
    );
    match xen.life(&hash)? {
        Life::Intact => Ok((older, xen.save("tiny")?, hash)),
        life => bail!("after its first restore the guest is not well: {life}"),
    }
}

/// Reads a file that somebody else writes, from a place on. Rings that were changed may have put anything into it.
fn text(file: &str, from: usize) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}
