//! The guest that is attacked: the tiny kernel of `tests/kernel`, which looks at itself twice a second.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_kernel::Line;
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::xen::{self, Domain, Frame, PageType};

/// A guest that says nothing for so long is dead. With other machines beside this one, seconds are long.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often the other vCPU may be late.
const SLOW: usize = 10;
const LOOK: Duration = Duration::from_millis(50);

pub struct Prey {
    pub name: String,
    pub domain: Domain,
    /// Hash of its private memory, once it runs.
    hash: String,
}

impl Prey {
    /// One that runs and has looked at itself.
    pub fn start(xen: &Privcmd) -> Result<Prey> {
        let mut prey = Prey::create(xen, "")?;
        prey.await_start(xen)?;
        Ok(prey)
    }

    /// One that was built and has not run yet.
    pub fn build(xen: &Privcmd) -> Result<Prey> {
        Prey::create(xen, "-p")
    }

    fn create(xen: &Privcmd, option: &str) -> Result<Prey> {
        // A name of its own: a domain that is still mapped keeps its name while it dies.
        let before = xen::domains(xen)?;
        let number = before.iter().map(|domain| domain.id.0).max().unwrap_or(0) + 1;
        let name = format!("prey{number}-{}", std::process::id());
        let file = format!("/tmp/{name}.cfg");
        let config = format!(
            "name = \"{name}\"\ntype = \"pv\"\nkernel = \"/usr/local/bin/vmcrypt-kernel\"\nmemory = 6\nmaxmem = 6\n\
             vcpus = 2\non_crash = \"preserve\"\non_reboot = \"preserve\"\non_poweroff = \"preserve\"\n"
        );
        fs::write(&file, config)?;
        let _ = fs::remove_file(log(&name));
        let mut command = Command::new("xl");
        command.args(["create", "-q", "-e"]);
        if !option.is_empty() {
            command.arg(option);
        }
        // `xl create -e` ends once the guest is there.
        let output = command.arg(&file).output().context("starting xl")?;
        fs::remove_file(&file)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "xl create: {said}");
        let domain = xen::domains(xen)?
            .into_iter()
            .find(|domain| !before.iter().any(|old| old.id == domain.id));
        Ok(Prey {
            name,
            domain: domain.context("xl created nothing")?,
            hash: String::new(),
        })
    }

    /// Waits until it has looked at itself for the first time.
    pub fn await_start(&mut self, xen: &Privcmd) -> Result<()> {
        let (_, hash) = self.await_round(xen, 0, 1)?;
        self.hash = hash;
        Ok(())
    }

    /// Whether it finds itself as it was, in a look that begins after now; if not, what it says.
    pub fn intact(&self, xen: &Privcmd) -> Option<String> {
        let now = fs::metadata(log(&self.name)).map_or(0, |log| log.len() as usize);
        // The first look may have begun before.
        match self.await_round(xen, now, 2) {
            Ok((_, hash)) if hash == self.hash => None,
            Ok((_, hash)) => Some(format!("its memory is {hash}")),
            Err(error) => Some(format!("{error:#}")),
        }
    }

    /// Number and hash of the `count`th look that its console tells of behind `from`.
    fn await_round(&self, xen: &Privcmd, from: usize, count: usize) -> Result<(u64, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read(log(&self.name)).unwrap_or_default();
            let text = String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned();
            // The first line may be cut.
            let mut lines = text.lines().filter_map(Line::parse);
            let mut failures = lines.clone().filter_map(|line| match line {
                Line::Fail(what) => Some(what),
                _ => None,
            });
            // On a busy host the other vCPU may get no time for as long as the guest has patience.
            let slow = |what: &&str| what.starts_with("vCPU 1 in");
            if failures.clone().filter(slow).count() > SLOW {
                bail!("it says, again and again: vCPU 1");
            }
            if let Some(what) = failures.find(|what| !slow(what)) {
                bail!("it says: {what}");
            }
            let intact = lines.clone().filter(|line| matches!(line, Line::Intact(..)));
            if let (true, Some(Line::Intact(number, hash))) = (
                intact.count() >= count,
                lines.rfind(|line| matches!(line, Line::Intact(..))),
            ) {
                return Ok((number, hash.to_owned()));
            }
            let found = xen::domains(xen)?
                .into_iter()
                .find(|domain| domain.id == self.domain.id);
            let state = found.map_or("gone", |domain| domain.state);
            ensure!(!matches!(state, "gone" | "dying" | "shut down"), "it is {state}");
            ensure!(
                Instant::now() < deadline,
                "it is {state} and gives no sign of life: {:?}",
                text.trim()
            );
            sleep(LOOK);
        }
    }

    pub fn destroy(&self) -> Result<()> {
        let output = Command::new("xl").args(["destroy", &self.name]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "xl destroy: {said}");
        let _ = fs::remove_file(log(&self.name));
        Ok(())
    }

    /// Its pages by PFN and kind, as its own table names them; it must have told where that is.
    pub fn pages(&self, xen: &Privcmd) -> Result<Vec<(u64, Frame, PageType)>> {
        let mut pages = Vec::new();
        let frames: Vec<(u64, Frame)> = (0..)
            .zip(xen::frames(xen, &self.domain)?)
            .filter_map(|(pfn, frame)| Some((pfn, frame?)))
            .collect();
        for batch in frames.chunks(xen::BATCH) {
            let numbers: Vec<Frame> = batch.iter().map(|&(_, frame)| frame).collect();
            let kinds = xen::page_types(xen, self.domain.id, &numbers)?;
            let known = batch.iter().zip(kinds);
            pages.extend(known.map(|(&(pfn, frame), kind)| (pfn, frame, kind)));
        }
        Ok(pages)
    }
}

fn log(name: &str) -> String {
    format!("/var/log/xen/console/guest-{name}.log")
}
