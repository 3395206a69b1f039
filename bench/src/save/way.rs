//! Ways to save memory.

use std::{
    fs,
    io::{IoSlice, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use vmcrypt_core::State;

use super::sink::Sink;
use crate::{
    backend::Kind,
    guest::{Cpu, Guest, boot},
    model::Frame,
};

/// libxc's `MAX_BATCH_SIZE`: pages that `xl save` maps and writes at a time.
const BATCH: usize = 1024;
/// Of AES-256, in the notation of `openssl enc`.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const IV: &str = "00000000000000000000000000000000";

/// How memory becomes what is written.
#[derive(Debug, PartialEq)]
pub enum Way {
    /// As it is.
    Plain,
    /// As dom0 sees it under VMCrypt.
    VmCrypt(Kind),
    /// Through `openssl enc`.
    OpenSsl,
    /// Through `age`, to the key in this file.
    Age(PathBuf),
    /// Over a TLS connection to a process on the same machine.
    #[cfg(feature = "peers")]
    Tls,
}

/// What is made ready before the clock runs.
pub struct Saver<'a> {
    way: &'a Way,
    guest: Option<(Guest, Cpu)>,
}

impl Way {
    /// All that this machine can do; `dir` keeps a key.
    pub fn all(backends: &[Kind], dir: &Path) -> Result<Vec<Self>> {
        let identity = dir.join("age.key");
        output(Command::new("age-keygen").arg("-o").arg(&identity))?;
        let mut ways = vec![Self::Plain];
        ways.extend(backends.iter().map(|kind| Self::VmCrypt(*kind)));
        ways.extend([Self::OpenSsl, Self::Age(identity)]);
        #[cfg(feature = "peers")]
        ways.push(Self::Tls);
        Ok(ways)
    }

    /// Its name in figures.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Plain => "plain copy",
            Self::VmCrypt(_) => "VMCrypt",
            Self::OpenSsl => "openssl enc -aes-256-ctr",
            Self::Age(_) => "age",
            #[cfg(feature = "peers")]
            Self::Tls => "TLS",
        }
    }

    /// Which page cipher it has.
    pub fn backend(&self) -> Option<String> {
        match self {
            Self::VmCrypt(kind) => Some(kind.name.to_owned()),
            _ => None,
        }
    }

    /// For messages.
    pub fn label(&self) -> String {
        [Some(self.name().to_owned()), self.backend()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// A guest of that many pages, where one is needed.
    pub fn prepare(&self, pages: u64) -> Result<Saver<'_>> {
        let guest = match self {
            Self::VmCrypt(kind) => {
                boot(*kind)?;
                let guest = Guest::new(pages);
                guest.enter(&[State::Sealing, State::Running, State::Suspended])?;
                Some((guest, Cpu::new(BATCH)))
            }
            _ => None,
        };
        Ok(Saver { way: self, guest })
    }

    /// Makes sure that memory comes back from what is written.
    pub fn check(&self, dir: &Path) -> Result<()> {
        let memory: Vec<Frame> = (0..2 * BATCH as u64 + 3)
            .map(|pfn| {
                let mut frame = Frame([0; 4096]);
                fastrand::Rng::with_seed(pfn).fill(&mut frame.0);
                frame
            })
            .collect();
        let image = tempfile::NamedTempFile::new_in(dir)?;
        let saver = self.prepare(memory.len() as u64)?;
        let from = saver.save(&memory, Sink::File(image.reopen()?))?;
        let image = self.undo(image.path(), from)?;
        let same = image.len() == memory.len() * 4096
            && image
                .chunks(4096)
                .zip(&memory)
                .all(|(page, frame)| page == frame.0);
        ensure!(same, "memory does not come back from the image");
        Ok(())
    }

    /// What was saved.
    fn undo(&self, image: &Path, from: Option<Guest>) -> Result<Vec<u8>> {
        let read = || fs::read(image).context("cannot read the image");
        match (self, from) {
            (Self::VmCrypt(_), Some(from)) => restore(&from, read()?),
            (Self::OpenSsl, _) => output(
                Command::new("openssl")
                    .args(["enc", "-d", "-aes-256-ctr", "-K", KEY, "-iv", IV, "-in"])
                    .arg(image),
            ),
            (Self::Age(identity), _) => {
                output(Command::new("age").arg("-d").arg("-i").arg(identity).arg(image))
            }
            _ => read(),
        }
    }
}

/// The pages of an image of `from`, verified and decrypted.
fn restore(from: &Guest, image: Vec<u8>) -> Result<Vec<u8>> {
    let pages = (image.len() / 4096) as u64;
    let mut record = from.record_buffer();
    let size = from.seal(pages, &mut record)?;
    record.truncate(size);
    let (mut to, mut cpu) = (Guest::new(pages), Cpu::new(1));
    let session = to.open(&mut record)?;
    let mut memory = Vec::with_capacity(image.len());
    for (pfn, page) in (0..).zip(image.as_chunks().0) {
        let mut frame = Frame(*page);
        to.decrypt(&mut cpu, &session, pfn, &mut frame);
        ensure!(frame.0 != *page, "page {pfn} was not encrypted");
        memory.extend_from_slice(&frame.0);
    }
    to.verify(&record)?;
    Ok(memory)
}

impl Saver<'_> {
    /// Saves memory, and returns when the sink has all of it. Gives the guest back, if there is one.
    pub fn save(self, memory: &[Frame], mut sink: Sink) -> Result<Option<Guest>> {
        match self.way {
            Way::Plain | Way::VmCrypt(_) => {
                let guest = match self.guest {
                    Some((guest, mut cpu)) => {
                        write_views(&guest, &mut cpu, memory, &mut sink)?;
                        Some(guest)
                    }
                    None => {
                        write_plain(memory, &mut sink)?;
                        None
                    }
                };
                sink.finish();
                return Ok(guest);
            }
            Way::OpenSsl => through(
                Command::new("openssl").args(["enc", "-aes-256-ctr", "-K", KEY, "-iv", IV]),
                memory,
                sink,
            )?,
            Way::Age(identity) => {
                through(
                    Command::new("age").arg("-e").arg("-i").arg(identity),
                    memory,
                    sink,
                )?;
            }
            #[cfg(feature = "peers")]
            Way::Tls => super::tls::send(
                |connection| write_plain(memory, connection),
                |from| Ok(sink.drain(from)?),
            )?,
        }
        Ok(None)
    }
}

/// Pages as they are.
fn write_plain(memory: &[Frame], sink: &mut impl Write) -> Result<()> {
    for batch in memory.chunks(BATCH) {
        write_pages(batch.iter(), sink)?;
    }
    Ok(())
}

/// What dom0 sees of pages: a batch is mapped, written and unmapped.
fn write_views(guest: &Guest, cpu: &mut Cpu, memory: &[Frame], sink: &mut impl Write) -> Result<()> {
    let mut pages = (0..).zip(memory);
    loop {
        let batch = pages.by_ref().take(BATCH);
        let mapped: Vec<usize> = batch
            .map(|(pfn, page)| guest.map(cpu, pfn, page))
            .collect::<Result<_>>()?;
        if mapped.is_empty() {
            return Ok(());
        }
        write_pages(mapped.iter().map(|replica| &cpu.replicas[*replica]), sink)?;
        for replica in mapped {
            guest.unmap(cpu, replica)?;
        }
    }
}

/// In one call if the sink takes all.
fn write_pages<'a>(pages: impl Iterator<Item = &'a Frame>, sink: &mut impl Write) -> Result<()> {
    let mut slices: Vec<IoSlice<'_>> = pages.map(|page| IoSlice::new(&page.0)).collect();
    let mut slices = slices.as_mut_slice();
    while !slices.is_empty() {
        let written = sink.write_vectored(slices)?;
        ensure!(written > 0, "the sink takes nothing more");
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

/// Through a program, from its input to its output.
fn through(program: &mut Command, memory: &[Frame], sink: Sink) -> Result<()> {
    program.stdin(Stdio::piped());
    match sink {
        Sink::File(file) => feed(program.stdout(file).spawn()?, memory),
        sink => {
            let mut child = program.stdout(Stdio::piped()).spawn()?;
            let output = child.stdout.take().context("the program has no output")?;
            thread::scope(|scope| {
                let drain = scope.spawn(|| sink.drain(output));
                feed(child, memory)?;
                Ok(drain.join().map_err(|_| anyhow!("the sink failed"))??)
            })
        }
    }
}

fn feed(mut child: Child, memory: &[Frame]) -> Result<()> {
    let mut input = child.stdin.take().context("the program has no input")?;
    let written = write_plain(memory, &mut input);
    drop(input);
    let verdict = child.wait()?;
    written?;
    ensure!(verdict.success(), "the program ended with {verdict}");
    Ok(())
}

/// What a program writes to its output.
fn output(program: &mut Command) -> Result<Vec<u8>> {
    let shown = program.get_program().to_string_lossy().into_owned();
    let out = program
        .output()
        .with_context(|| format!("cannot start {shown}: is it installed?"))?;
    ensure!(
        out.status.success(),
        "{shown} ended with {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend, guest::MACHINE};

    #[test]
    fn every_way_brings_memory_back() {
        let _alone = MACHINE.lock();
        let dir = tempfile::tempdir().unwrap();
        for way in Way::all(&backend::available(), dir.path()).unwrap() {
            way.check(dir.path()).unwrap();
        }
    }

    #[test]
    fn an_image_that_was_changed_is_noticed() {
        let _alone = MACHINE.lock();
        let dir = tempfile::tempdir().unwrap();
        let memory = vec![Frame([1; 4096]); 5];
        let way = Way::VmCrypt(backend::PORTABLE);
        let path = dir.path().join("image");
        let sink = Sink::File(fs::File::create(&path).unwrap());
        let guest = way.prepare(5).unwrap().save(&memory, sink).unwrap().unwrap();
        let image = fs::read(&path).unwrap();
        restore(&guest, image.clone()).unwrap();
        let mut spoiled = image;
        spoiled[5000] ^= 1;
        restore(&guest, spoiled).unwrap_err();
    }
}
