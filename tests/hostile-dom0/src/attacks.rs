//! Every attack of which somebody thought, each by its name.
//!
//! An attack succeeds if it got the guest's secret, if the guest is not what it was afterwards, or, where neither can be
//! seen, if Xen did what it was asked for. On a Xen without VMCrypt each must succeed, or it proves nothing about the
//! other: what cannot, there, is marked with the reason.

pub mod control;
pub mod counting;
pub mod deputy;
pub mod grants;
pub mod host;
pub mod memory;
pub mod registers;
pub mod reservation;

use crate::prey::Prey;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use vmcrypt_guest::secret;
use vmcrypt_tools::hypercall::{Error, Privcmd};
use vmcrypt_tools::needle::{Needles, Search};
use vmcrypt_tools::pv;
use vmcrypt_tools::xen::{self, DomId, Domain, Frame, PageType};

/// One attack.
pub struct Attack {
    pub name: &'static str,
    /// Which ways into a guest it stands for: rows of the list that `docs/THREAT-MODEL.md` answers, or traps by letter.
    pub row: &'static str,
    pub about: &'static str,
    /// Why it comes to nothing on stock Xen, too.
    pub argued: Option<&'static str>,
    /// Why it cannot be made on a debug build of Xen.
    pub released: Option<&'static str>,
    pub on: On,
    pub run: fn(&Scene<'_>) -> Result<Came>,
}

/// What is attacked.
#[derive(Clone, Copy, PartialEq)]
pub enum On {
    /// A guest that runs
    Running,
    /// A guest that was built and never ran
    New,
    /// A guest that runs, and that the attack itself ends
    Doomed,
    /// Nothing: there is nobody to make a call to
    Nothing,
}

/// What came of an attack.
pub enum Came {
    /// It succeeded, and by that one sees it.
    Through(String),
    /// Xen said no, with this errno.
    Refused(i32),
    /// Xen did not say no, and yet nothing came of it.
    Nothing(String),
}

impl Attack {
    pub const fn new(
        name: &'static str,
        row: &'static str,
        about: &'static str,
        run: fn(&Scene<'_>) -> Result<Came>,
    ) -> Attack {
        Attack {
            name,
            row,
            about,
            argued: None,
            released: None,
            on: On::Running,
            run,
        }
    }

    pub const fn argued(self, why: &'static str) -> Attack {
        Attack {
            argued: Some(why),
            ..self
        }
    }

    /// A debug build of Xen stops whoever makes it.
    pub const fn on_release_builds(self, why: &'static str) -> Attack {
        Attack {
            released: Some(why),
            ..self
        }
    }

    pub const fn on_new(self) -> Attack {
        Attack { on: On::New, ..self }
    }

    /// The guest does not outlive it, on any Xen.
    pub const fn fatal(self) -> Attack {
        Attack {
            on: On::Doomed,
            ..self
        }
    }

    /// A row that nobody can attack in this testbed.
    pub const fn unmade(row: &'static str, about: &'static str, why: &'static str) -> Attack {
        Attack {
            argued: Some(why),
            on: On::Nothing,
            ..Attack::new("-", row, about, |_| Ok(Came::Nothing("not made".to_owned())))
        }
    }
}

/// All of them, in the order of the rows.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [
        memory::ATTACKS,
        reservation::ATTACKS,
        grants::ATTACKS,
        registers::ATTACKS,
        control::ATTACKS,
        host::ATTACKS,
        counting::ATTACKS,
        deputy::ATTACKS,
    ]
    .into_iter()
    .flatten()
}

/// Names, rows and meanings.
pub fn list() -> Value {
    all()
        .map(|attack| json!({ "name": attack.name, "row": attack.row, "about": attack.about, "argued": attack.argued }))
        .collect()
}

/// Makes the named attacks, all if none is named, and writes a line of JSON for each. `debug`: on a debug build of Xen.
pub fn make(xen: &Privcmd, names: &[String], debug: bool, report: &mut impl Write) -> Result<()> {
    for name in names {
        ensure!(
            all().any(|attack| attack.name == name),
            "there is no attack named {name}; see --list"
        );
    }
    let mut running = None;
    let wanted = all().filter(|attack| names.is_empty() || names.iter().any(|name| name == attack.name));
    for attack in wanted {
        let mut line = json!({
            "name": attack.name, "row": attack.row, "about": attack.about, "argued": attack.argued,
        });
        let (succeeded, how) = match attack.on {
            On::Nothing => (false, "not made".to_owned()),
            _ if debug && attack.released.is_some() => (
                false,
                format!("not made: {}", attack.released.unwrap_or_default()),
            ),
            On::New => {
                running.take().map_or(Ok(()), |prey: Prey| prey.destroy())?;
                let prey = Prey::build(xen)?;
                let outcome = judge((attack.run)(&Scene { xen, prey: &prey }), attack)?;
                prey.destroy()?;
                outcome
            }
            On::Doomed => {
                let prey = Prey::start(xen)?;
                let outcome = judge((attack.run)(&Scene { xen, prey: &prey }), attack)?;
                let _ = prey.destroy();
                outcome
            }
            On::Running => {
                let prey = match running.take() {
                    Some(prey) => prey,
                    None => Prey::start(xen)?,
                };
                let (mut succeeded, mut how) = judge((attack.run)(&Scene { xen, prey: &prey }), attack)?;
                match prey.intact(xen) {
                    None => running = Some(prey),
                    Some(damage) => {
                        succeeded = true;
                        how += &format!("; the guest is not what it was: {damage}");
                        // An attack may have destroyed it.
                        let _ = prey.destroy();
                    }
                }
                (succeeded, how)
            }
        };
        line["succeeded"] = json!(succeeded);
        line["how"] = json!(how);
        writeln!(report, "{line}")?;
        report.flush()?;
    }
    running.map_or(Ok(()), |prey| prey.destroy())
}

fn judge(came: Result<Came>, attack: &Attack) -> Result<(bool, String)> {
    Ok(match came.with_context(|| attack.name)? {
        Came::Through(how) => (true, how),
        Came::Refused(errno) => (false, format!("refused: {}", errno_name(errno))),
        Came::Nothing(why) => (false, why),
    })
}

fn errno_name(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os").next().unwrap_or_default().to_owned()
}

/// Whether Xen did what it was asked for.
pub fn let_through<T>(result: Result<T, Error>) -> Result<Came> {
    after(result, |_| Ok(Came::Through("Xen did it".to_owned())))
}

/// What came of a call that Xen may refuse.
pub fn after<T>(result: Result<T, Error>, then: impl FnOnce(T) -> Result<Came>) -> Result<Came> {
    match result {
        Ok(value) => then(value),
        Err(error) => match error.errno() {
            Some(errno) => Ok(Came::Refused(errno)),
            None => Err(error.into()),
        },
    }
}

/// Whether the guest's secret is in what was got.
pub fn secret_in(bytes: &[u8], what: &str) -> Result<Came> {
    let needles = Needles::new([secret::needle().into_bytes()])?;
    Ok(match Search::new(&needles).feed(bytes) {
        0 => Came::Nothing(format!("no secret in {what}")),
        found => Came::Through(format!("secret read {found} times in {what}")),
    })
}

/// Who is attacked, and by what.
pub struct Scene<'a> {
    pub xen: &'a Privcmd,
    pub prey: &'a Prey,
}

/// A page of private data, and its PFN.
#[derive(Clone, Copy)]
pub struct Data {
    pub frame: Frame,
    pub pfn: u64,
}

impl Scene<'_> {
    pub fn id(&self) -> DomId {
        self.prey.domain.id
    }

    pub fn number(&self) -> u64 {
        self.id().0.into()
    }

    pub fn domain(&self) -> &Domain {
        &self.prey.domain
    }

    /// Two pages with the secret in them: the last ones are never anything else.
    pub fn data(&self) -> Result<[Data; 2]> {
        let pages = self.prey.pages(self.xen)?;
        let mut data = pages.iter().rev().filter(|(_, _, kind)| *kind == PageType::Data);
        let mut next = || {
            let &(pfn, frame, _) = data.next().context("the guest has no data page")?;
            Ok(Data { frame, pfn })
        };
        // `Memory::remap_works()` uses the last page itself.
        next().and_then(|_: Data| Ok([next()?, next()?]))
    }

    pub fn table(&self, level: u8) -> Result<Frame> {
        let pages = self.prey.pages(self.xen)?;
        let found = pages
            .iter()
            .rev()
            .find(|(_, _, kind)| *kind == PageType::PageTable(level));
        Ok(found.context("the guest has no such page table")?.1)
    }

    /// Frame and offset of the page table entry that names a page, and the entry.
    pub fn entry_of(&self, data: Data) -> Result<(u64, u64)> {
        let tables = self.prey.pages(self.xen)?.into_iter();
        for (_, table, _) in tables.filter(|(_, _, kind)| *kind == PageType::PageTable(1)) {
            let Some(page) = self.read(table)? else { continue };
            for (i, entry) in page.as_chunks::<8>().0.iter().enumerate() {
                let entry = u64::from_le_bytes(*entry);
                if entry & 1 == 1 && (entry & crate::calls::entry::FRAME) >> 12 == data.frame.0 {
                    return Ok((crate::calls::address(table) + 8 * i as u64, entry));
                }
            }
        }
        anyhow::bail!("no page table names the page")
    }

    pub fn root(&self) -> Result<Frame> {
        let context = xen::vcpu_context(self.xen, self.id(), 0)?;
        Ok(Frame(
            pv::root(&context).context("the guest has no root page table")?,
        ))
    }

    /// What dom0 sees of a frame.
    pub fn read(&self, frame: Frame) -> Result<Option<[u8; vmcrypt_tools::content::PAGE]>> {
        Ok(self.xen.map_foreign(self.id(), &[frame], false)?.page(0))
    }

    /// A map of one frame, which Xen may refuse.
    pub fn map(&self, frame: Frame, writable: bool) -> Result<vmcrypt_tools::hypercall::ForeignMap, Error> {
        let map = self.xen.map_foreign(self.id(), &[frame], writable)?;
        match map.refusal(0) {
            None => Ok(map),
            Some(errno) => Err(crate::calls::refused("a map", errno)),
        }
    }
}
