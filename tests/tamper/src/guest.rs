//! The tiny guest by way of stock `xl`, and what became of it.

use crate::text;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_core::State;
use vmcrypt_kernel::{Line, needle};
use vmcrypt_tamper::stream::Stream;
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::needle::{Needles, Search};
use vmcrypt_tools::xen::{self, Domain, Frame, PageType};

/// Where images lie: in memory.
const DIR: &str = "/tmp/tamper";
const CONSOLES: &str = "/var/log/xen/console";
/// A command of `xl`'s that takes so long does not end by itself.
const PATIENCE: Duration = Duration::from_secs(90);
/// A guest that does not suspend within this time was not told to: its connection to xenstore is broken.
const SAVE: Duration = Duration::from_secs(30);
/// A guest that was let run says so within this time, or never.
const LIFE: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(50);

/// What came of an attempt to restore.
#[derive(Debug)]
pub struct Restored {
    /// Why not, if it was refused.
    pub refusal: Option<String>,
    /// Whether it was Xen that refused.
    pub by_xen: bool,
}

/// How a guest is that was let run.
#[derive(Clone, Debug)]
pub enum Life {
    /// It checked everything and found it as it was.
    Intact,
    /// It runs no kernel: the domain is down, and never said a word.
    Empty(String),
    /// It says that something is not as it was.
    Damaged(String),
    /// It is neither down nor does it say anything.
    Silent(String),
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Life::Intact => write!(f, "the guest runs on and is intact"),
            Life::Empty(what) => write!(f, "nothing runs: {what}"),
            Life::Damaged(what) => write!(f, "the guest runs on and says: {what}"),
            Life::Silent(what) => write!(f, "the guest gives no sign of life: {what}"),
        }
    }
}

pub struct Toolstack {
    xen: Privcmd,
    protected: bool,
    /// Where Xen's log was read up to.
    logged: u32,
    /// What guests' consoles said before the last restore, in bytes.
    said: HashMap<String, usize>,
}

impl Toolstack {
    pub fn open() -> Result<Toolstack> {
        fs::create_dir_all(DIR)?;
        let xen = Privcmd::open()?;
        let protected = xen::host_info(&xen)?.is_some();
        Ok(Toolstack {
            xen,
            protected,
            logged: 0,
            said: HashMap::new(),
        })
    }

    /// Builds and starts a guest; what it says of its memory.
    pub fn create(&mut self, name: &str) -> Result<String> {
        let config = format!(
            "name = \"{name}\"\ntype = \"pv\"\nkernel = \"/usr/local/bin/vmcrypt-kernel\"\nmemory = 6\nmaxmem = 6\n\
             vcpus = 2\non_crash = \"preserve\"\non_reboot = \"preserve\"\non_poweroff = \"preserve\"\n"
        );
        let file = format!("{DIR}/{name}.cfg");
        fs::write(&file, config)?;
        let before = fs::metadata(log(name)).map_or(0, |log| log.len() as usize);
        let (ok, said) = xl(&["create", "-q", "-e", &file], PATIENCE)?;
        ensure!(ok, "xl create: {said}");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let log = text(&log(name), before);
            let mut lines = log.lines().filter_map(Line::parse);
            if let Some(Line::Intact(_, hash)) = lines.find(|line| matches!(line, Line::Intact(..))) {
                return Ok(hash.to_owned());
            }
            sleep(LOOK);
        }
        bail!("{name} does not come up: {}", text(&log(name), before))
    }

    /// Saves a guest, which ends it.
    pub fn save(&mut self, name: &str) -> Result<Stream> {
        let file = format!("{DIR}/{name}.img");
        let (ok, said) = xl(&["save", name, &file], SAVE)?;
        ensure!(ok, "xl save: {said}");
        Stream::parse(fs::read(&file)?)
    }

    /// Tries to restore an image.
    pub fn restore(&mut self, image: &[u8]) -> Result<Restored> {
        let file = format!("{DIR}/changed.img");
        fs::write(&file, image)?;
        for log in fs::read_dir(CONSOLES)? {
            let log = log?;
            self.said
                .insert(log.path().display().to_string(), log.metadata()?.len() as usize);
        }
        self.log()?;
        let (ok, said) = xl(&["restore", "-e", &file], PATIENCE)?;
        let told = self.log()?;
        let told = told
            .lines()
            .rev()
            .find_map(|line| line.split_once("VMCrypt: d")?.1.split_once(": "));
        let told = told.map(|(_, text)| text.trim().to_owned());
        // `xl` takes no notice of an unpause that Xen refuses.
        let never = self
            .domain()?
            .map(|domain| self.never_ran(&domain))
            .transpose()?
            .unwrap_or(false);
        let by_xen = told.is_some();
        let refusal = match (ok, told) {
            (true, told) => {
                never.then(|| told.unwrap_or_else(|| format!("left paused: {}", complaint(&said))))
            }
            (false, told) => Some(told.unwrap_or_else(|| complaint(&said))),
        };
        Ok(Restored { refusal, by_xen })
    }

    /// Whether Xen did not let a domain begin.
    fn never_ran(&self, domain: &Domain) -> Result<bool> {
        if !self.protected {
            return Ok(domain.state == "paused");
        }
        let info = xen::domain_info(&self.xen, domain.id)?;
        let state = State::from_number(info.state);
        Ok(matches!(
            state,
            Some(State::Building | State::Sealing | State::Refused)
        ))
    }

    /// How the guest is that was let run.
    pub fn life(&mut self, hash: &str) -> Result<Life> {
        let deadline = Instant::now() + LIFE;
        let Some(domain) = self.domain()? else {
            return Ok(Life::Empty("the domain is gone".into()));
        };
        // Its name is part of the image, and so is that of its log.
        let name = Command::new("xenstore-read")
            .arg(format!("/local/domain/{}/name", domain.id))
            .output()?;
        let name = String::from_utf8_lossy(&name.stdout).trim().to_owned();
        let from = self.said.get(&log(&name)).copied().unwrap_or(0);
        loop {
            let new = text(&log(&name), from);
            let mut resumed = false;
            for line in new.lines().filter_map(Line::parse) {
                match line {
                    Line::Fail(what) => return Ok(Life::Damaged(what.to_owned())),
                    Line::Ready(_) => return Ok(Life::Damaged("it booted".to_owned())),
                    Line::Resumed => resumed = true,
                    Line::Intact(_, found) if resumed && found == hash => return Ok(Life::Intact),
                    Line::Intact(_, found) if resumed => {
                        return Ok(Life::Damaged(format!("memory is {found}")));
                    }
                    Line::Intact(..) | Line::Answer(_) | Line::NoAnswer(_) => {}
                }
            }
            let state = self.domain()?.map_or("gone", |domain| domain.state);
            if matches!(state, "shut down" | "dying" | "gone") && new.trim().is_empty() {
                return Ok(Life::Empty(format!("it is {state}")));
            }
            if Instant::now() > deadline {
                return Ok(Life::Silent(format!("it is {state}, and says: {:?}", new.trim())));
            }
            sleep(LOOK);
        }
    }

    /// Whether there is a domain.
    pub fn there(&self) -> Result<bool> {
        Ok(self.domain()?.is_some())
    }

    /// How often the guest's needle is found in the domain's memory, by everybody who may map it.
    pub fn search(&self) -> Result<u64> {
        let Some(domain) = self.domain()? else {
            return Ok(0);
        };
        let needles = Needles::new([needle().iter().flat_map(|word| word.to_le_bytes()).collect()])?;
        let all: Vec<Frame> = (0..xen::frame_limit(&self.xen, &domain)?).map(Frame).collect();
        let mut search = Search::new(&needles);
        let mut found = 0;
        for batch in all.chunks(xen::BATCH) {
            let types = xen::page_types(&self.xen, domain.id, batch)?;
            let owned = batch
                .iter()
                .zip(types)
                .filter(|(_, kind)| *kind != PageType::Invalid);
            let owned: Vec<Frame> = owned.map(|(frame, _)| *frame).collect();
            if owned.is_empty() {
                continue;
            }
            // Who may not map anything finds nothing.
            let Ok(map) = self.xen.map_foreign(domain.id, &owned, false) else {
                continue;
            };
            for page in (0..owned.len()).filter_map(|i| map.page(i)) {
                search.cut();
                found += search.feed(&page);
            }
        }
        Ok(found)
    }

    /// Ends whatever domain there is.
    pub fn destroy(&mut self) -> Result<()> {
        for _ in 0..40 {
            let Some(domain) = self.domain()? else {
                return Ok(());
            };
            if domain.state != "dying" {
                xl(&["destroy", &domain.id.to_string()], PATIENCE)?;
            }
            if self.domain()?.is_some() {
                sleep(LOOK);
            }
        }
        bail!("a domain does not go away")
    }

    /// The domain that there is beside dom0.
    fn domain(&self) -> Result<Option<Domain>> {
        Ok(xen::domains(&self.xen)?
            .into_iter()
            .find(|domain| domain.id.0 != 0))
    }

    /// What Xen has logged since the last call.
    fn log(&mut self) -> Result<String> {
        let mut all = String::new();
        loop {
            let (text, next) = xen::console(&self.xen, self.logged)?;
            self.logged = next;
            if text.is_empty() {
                return Ok(all);
            }
            all += &text;
        }
    }
}

/// Runs `xl`: whether it succeeded, and what it said.
fn xl(arguments: &[&str], patience: Duration) -> Result<(bool, String)> {
    let file = format!("{DIR}/xl.log");
    let output = File::create(&file)?;
    let mut child = Command::new("xl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("starting xl")?;
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok((status.success(), text(&file, 0)));
        }
        sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    Ok((false, format!("xl {} does not end", arguments[0])))
}

/// The first line in which the tools say what was wrong.
fn complaint(said: &str) -> String {
    let wrong = |line: &&str| {
        ["error:", "rror", "annot", "nvalid", "ailed", "does not"]
            .iter()
            .any(|word| line.contains(word))
    };
    let line = said
        .lines()
        .find(wrong)
        .or(said.lines().last())
        .unwrap_or("without a word");
    // Numbers of domains and processes say nothing.
    let line = ["xc: error: ", "yajl error: ", ".c:"]
        .iter()
        .fold(line, |line, mark| {
            line.split_once(mark).map_or(line, |(_, rest)| rest)
        });
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':');
    let line = line.replace(&format!("{DIR}/changed.img"), "the image");
    let parts = line
        .split(|c: char| c.is_ascii_digit())
        .filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("N").trim().to_owned()
}

fn log(name: &str) -> String {
    format!("{CONSOLES}/guest-{name}.log")
}
