//! Keys that outlive their domain, or Xen: looked for in the machine's memory from outside, before and after. What is
//! found before shows that the search finds; what is found after is a key that whoever has the machine next can read.

use crate::case::{Config, Problem, Verdict, demand};
use crate::cases::owner;
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use crate::ram::{self, Found, Needles, PASSING, Root};
use crate::runner::{Options, boot};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use vmcrypt_core::Refusal;
use vmcrypt_host::paths;
use vmcrypt_tamper::stream::{Stream, kind};
use vmcrypt_testbed::Image;
use vmcrypt_tools::owner::OwnerKey;

/// A machine whose memory is no larger than it must be: all of it is read, several times.
const MEMORY_MIB: u32 = 1600;
const CONFIG: Config = Config {
    memory_mib: MEMORY_MIB,
    cpus: 2,
    ..Config::VMCRYPT
};
/// PFNs of the usual guest.
const PFNS: u64 = (128 << 20) >> 12;

/// At the vector registers of all CPUs.
const LOOKS: usize = 100;

/// A way for the machine to go down.
struct Way {
    case: &'static str,
    /// Added to Xen's command line.
    xen: &'static str,
    /// What does it: a command in dom0, or a signal from outside.
    by: By,
    /// Words on the console after which the machine only halts; without them it resets or powers off.
    halts: Option<&'static str>,
}

enum By {
    Command(&'static str),
    Nmi,
}

/// dom0 reboots.
pub fn reboot(image: &Image, options: &Options) -> Verdict {
    goes_down(image, options, CONFIG, &REBOOT)
}

/// dom0 powers the machine off.
pub fn power_off(image: &Image, options: &Options) -> Verdict {
    let by = By::Command("echo o >/proc/sysrq-trigger");
    let way = Way {
        case: "wipe-power-off",
        by,
        ..REBOOT
    };
    goes_down(image, options, CONFIG, &way)
}

/// dom0's kernel panics, and Xen halts.
pub fn crash_halts(image: &Image, options: &Options) -> Verdict {
    let way = Way {
        case: "wipe-crash-halts",
        by: CRASH,
        halts: Some("'noreboot' set - not rebooting"),
        ..REBOOT
    };
    goes_down(image, options, CONFIG, &way)
}

/// dom0's kernel panics, and Xen reboots.
pub fn crash_reboots(image: &Image, options: &Options) -> Verdict {
    let way = Way {
        case: "wipe-crash-reboots",
        xen: "noreboot=no",
        by: CRASH,
        ..REBOOT
    };
    goes_down(image, options, CONFIG, &way)
}

/// Xen panics while a second CPU encrypts, and halts.
pub fn panic_halts(image: &Image, options: &Options) -> Verdict {
    let way = Way {
        case: "wipe-panic-halts",
        xen: "nmi=fatal",
        by: By::Nmi,
        halts: Some("Manual reset required"),
    };
    goes_down(image, options, CONFIG, &way)
}

/// Xen panics while a second CPU encrypts, and reboots.
pub fn panic_reboots(image: &Image, options: &Options) -> Verdict {
    let way = Way {
        case: "wipe-panic-reboots",
        xen: "nmi=fatal noreboot=no",
        by: By::Nmi,
        halts: None,
    };
    goes_down(image, options, CONFIG, &way)
}

/// A build that is told not to wipe: every key is found after the reboot.
pub fn canary(image: &Image, options: &Options) -> Verdict {
    let config = Config {
        memory_mib: MEMORY_MIB,
        ..Config::DEBUG
    };
    let way = Way {
        case: "canary-wipe",
        xen: "vmcrypt-wipe-canary",
        ..REBOOT
    };
    let (before, after) = around(image, options, config, &way)?;
    let wiped: Vec<_> = kept(&before).filter(|name| after[*name].0 == 0).collect();
    demand!(
        wiped.is_empty(),
        "Xen was told to wipe nothing, and this was not found: {}",
        wiped.join(", ")
    );
    Ok(format!("after the reboot: {}", summary(&after)))
}

const REBOOT: Way = Way {
    case: "wipe-reboot",
    xen: "",
    by: By::Command("echo b >/proc/sysrq-trigger"),
    halts: None,
};
const CRASH: By = By::Command("echo c >/proc/sysrq-trigger");

fn goes_down(image: &Image, options: &Options, config: Config, way: &Way) -> Verdict {
    let (before, after) = around(image, options, config, way)?;
    missing(&before)?;
    demand!(
        after.values().all(|(windows, _)| *windows == 0),
        "memory still holds {}",
        told(&after)
    );
    Ok(format!("before: {}; after: nothing", summary(&before)))
}

/// Boots, has keys of all kinds in use, brings the machine down: what was found before and after.
fn around(image: &Image, options: &Options, config: Config, way: &Way) -> Result<(Found, Found), Problem> {
    let owner = OwnerKey::draw()?;
    let config = Config {
        // Once in the life of the test's process.
        xen_arguments: format!("vmcrypt-owner={:?} {}", owner.public(), way.xen).leak(),
        ..config
    };
    let dir = paths::target_subdir("testbed/logs")?.join(way.case);
    let mut dom0 = boot(image, config, options, &dir)?;
    let dump = Dump::new(&mut dom0, config);
    let needles = scene(&mut dom0, &dump, &owner)?;
    let before = dump.look(&mut dom0, &needles)?;
    dom0.note(&format!("before: {}", told(&before)));
    if matches!(way.by, By::Nmi) {
        // Somebody is encrypting at any moment, under keys that are looked for.
        let sweep = "while :; do vmcrypt sweep $(xl domid saved) --needle none --json; done";
        dom0.run(&format!("nohup sh -c '{sweep}' >/dev/null 2>&1 & sleep 5"))?;
        let seen = (0..LOOKS).try_fold(0, |seen, _| {
            anyhow::Ok(seen + usize::from(dump.keys_in_registers(&mut dom0, &needles)?))
        })?;
        dom0.note(&format!("keys in vector registers in {seen} of {LOOKS} looks"));
        demand!(seen > 0, "no key was ever seen in a vector register");
    }
    dom0.machine().hold_at_end()?;
    match way.by {
        // The answer comes before the end.
        By::Command(command) => {
            dom0.run(&format!(
                "nohup sh -c 'sleep 2; {command}' >/dev/null 2>&1 & true"
            ))?;
        }
        By::Nmi => dom0.machine().inject_nmi()?,
    }
    dom0.machine().await_end(way.halts, LONG)?;
    // What is reset has other registers.
    demand!(
        way.halts.is_none() || !dump.keys_in_registers(&mut dom0, &needles)?,
        "a vector register of a CPU that halted still holds a key"
    );
    let after = dump.look(&mut dom0, &needles)?;
    dom0.note(&format!("after: {}", told(&after)));
    Ok((before, after))
}

/// A guest that is suspended half-way through its save, and another one between its restore and its first unpause: the
/// keys of an open session with its tags, those of a record, and the record in clear. The former is under an owner's key.
fn scene(dom0: &mut Dom0, dump: &Dump, owner: &OwnerKey) -> Result<Needles, Problem> {
    let public = owner::public_key(dom0)?;
    owner::load(dom0, &owner.seal(owner::UUID_BYTES, 0, owner::ONCE, &[public])?)?;
    let restored = dom0.create(Spec::new("restored"))?;
    dom0.save(&restored)?;
    let stream = Stream::parse(dom0.take(&restored.image())?)?;
    dom0.must(&format!("xl restore -p {}", restored.image()), LONG)?;

    let saved = dom0.create(Spec::new("saved").uuid(owner::UUID))?;
    let stuck = "mkfifo /root/pipe; \
        nohup sh -c '(head -c 100000000 >/dev/null; sleep 100000) </root/pipe' >/dev/null 2>&1 & \
        nohup xl save saved /root/pipe >/dev/null 2>&1 & \
        before=-1; for try in $(seq 100); do sleep 2; \
        now=$(vmcrypt status $(xl domid saved) --json | grep '\"exported\"'); \
        case $now in *' 0,') ;; \"$before\") exit 0;; esac; before=$now; done; exit 1";
    dom0.run_for(stuck, LONG)?;
    let status = dom0.status(&saved)?;
    let state = &status["domains"][0]["state"];
    demand!(
        state == "suspended",
        "the save is stuck, and the guest is {state}"
    );

    let host = dump.host(dom0, &status)?;
    let owned = owner.root(&owner::UUID_BYTES, 0).key_id().0;
    let owned = dump.taken(dom0, || Root::find(&dump.file, owned))?;
    let pair = dump.taken(dom0, || ram::pair_secret(&dump.file, &host, &public))?;
    let (record, of_restored) = host.open_record(&stream.bytes[stream.first(kind::VCPU_XSAVE)?.body])?;
    let of_saved = session(&status)?;
    let mut needles = Needles::default();
    needles.root("host key", &host);
    needles.pair("host's key pair", &pair);
    needles.root("owner's key", &owned);
    needles.session("restored", &host, of_restored);
    needles.record("restored", &record)?;
    needles.session("saved", &owned, of_saved);
    needles.zero_tags("saved", &owned, of_saved, PFNS);
    Ok(needles)
}

/// A guest that is destroyed while dom0 holds maps of it, so that it does not go away: its keys do.
pub fn destroyed(dom0: &mut Dom0) -> Verdict {
    let dump = Dump::new(dom0, Config::VMCRYPT);
    let guest = dom0.create(Spec::new("destroyed"))?;
    let bystander = dom0.create(Spec::new("bystander"))?;
    let id = dom0.domid(&guest)?;
    // A map at each end of the destruction, and many pages exported, zero pages among them.
    dom0.run(&format!(
        "nohup vmcrypt-hostile hold {id} 4000 100000 >/root/held.log 2>&1 & echo $! >/root/held.pid; \
         for try in $(seq 100); do [ -s /root/held.log ] && exit 0; sleep 0.2; done; exit 1"
    ))?;
    let frames = dom0.run("cat /root/held.log")?.text();
    dom0.sweep(&bystander)?;
    let status = dom0.status(&guest)?;
    let other = dom0.status(&bystander)?;
    let host = dump.host(dom0, &status)?;
    let mut needles = Needles::default();
    needles.root("host key", &host);
    needles.session("destroyed", &host, session(&status)?);
    needles.zero_tags("destroyed", &host, session(&status)?, PFNS);
    needles.session("bystander", &host, session(&other)?);
    let before = dump.look(dom0, &needles)?;
    dom0.note(&format!("before: {}", told(&before)));
    missing(&before)?;

    dom0.run("xl destroy destroyed")?;
    let zombie = dom0.run("xl list; vmcrypt status --json | grep -c dying")?;
    demand!(
        zombie.text().lines().any(|line| line.contains("(null)")),
        "dom0 holds maps, and the domain is gone all the same: {}",
        zombie.text()
    );
    let after = dump.look(dom0, &needles)?;
    dom0.note(&format!("after: {}", told(&after)));
    // Nothing more can be had of it, not even under new keys.
    dom0.xen_log()?;
    let late = dom0.try_run(&format!("vmcrypt-hostile hold {id} 4000 0"), SHORT)?;
    let log = dom0.xen_log()?;
    demand!(
        !late.text().contains("\"0\"") && log.contains(Refusal::Dying.text()),
        "maps of a destroyed domain: {}; Xen says: {log}",
        late.all_text()
    );
    let still = dump.look(dom0, &needles)?;
    demand!(still == after, "after the attempt: {}", told(&still));
    dom0.run("kill $(cat /root/held.pid)")?;

    let left: Found = after
        .iter()
        .filter(|(name, (windows, _))| name.starts_with("destroyed") && *windows > 0)
        .map(|(name, count)| (name.clone(), *count))
        .collect();
    demand!(left.is_empty(), "memory still holds {}", told(&left));
    let lives = |name: &str| after[name].0 > 0;
    demand!(
        lives("host key") && lives("bystander: record key"),
        "another guest's keys are gone: {}",
        told(&after)
    );
    Ok(format!(
        "maps held: {frames}; before: {}; after: nothing of the destroyed guest's",
        summary(&before)
    ))
}

/// The search must find, before, everything that is kept, and nothing that is not.
fn missing(before: &Found) -> Result<(), Problem> {
    let missing: Vec<_> = kept(before).filter(|name| before[*name].0 == 0).collect();
    demand!(
        missing.is_empty(),
        "not found in a machine that uses it: {}",
        missing.join(", ")
    );
    let passing: Found = before
        .iter()
        .filter(|(name, (windows, _))| name.contains(PASSING) && *windows > 0)
        .map(|(name, count)| (name.clone(), *count))
        .collect();
    demand!(
        passing.is_empty(),
        "left behind by a computation: {}",
        told(&passing)
    );
    Ok(())
}

/// Names of what is in memory as long as it is in use.
fn kept(found: &Found) -> impl Iterator<Item = &str> {
    found
        .keys()
        .map(String::as_str)
        .filter(|name| !name.contains(PASSING))
}

fn told(found: &Found) -> String {
    let parts: Vec<_> = found
        .iter()
        .filter(|(_, (windows, _))| *windows > 0)
        .map(|(name, (windows, times))| format!("{name} ({windows} pieces, {times} places)"))
        .collect();
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}

/// The same in few words.
fn summary(found: &Found) -> String {
    let kinds = found.values().filter(|(windows, _)| *windows > 0).count();
    let pieces: usize = found.values().map(|(windows, _)| windows).sum();
    let places: usize = found.values().map(|(_, places)| places).sum();
    format!("{pieces} pieces of {kinds} kinds of secrets in {places} places")
}

/// Where the machine's memory is written to, for a moment.
struct Dump {
    file: PathBuf,
    bytes: u64,
}

impl Dump {
    fn new(dom0: &mut Dom0, config: Config) -> Dump {
        Dump {
            file: dom0.machine().out().with_file_name("memory.dump"),
            bytes: u64::from(config.memory_mib) << 20,
        }
    }

    fn taken<T>(&self, dom0: &mut Dom0, use_it: impl FnOnce() -> Result<T>) -> Result<T> {
        dom0.machine().dump_memory(self.bytes, &self.file)?;
        let result = use_it();
        fs::remove_file(&self.file)?;
        result
    }

    fn host(&self, dom0: &mut Dom0, status: &Value) -> Result<Root> {
        let id = sixteen(status["host"]["key_id"].as_str().context("no host key")?)?;
        self.taken(dom0, || Root::find(&self.file, id))
    }

    fn keys_in_registers(&self, dom0: &mut Dom0, needles: &Needles) -> Result<bool> {
        dom0.machine().dump_vectors(&self.file)?;
        let found = needles.find(&self.file)?;
        fs::remove_file(&self.file)?;
        Ok(found.values().any(|(windows, _)| *windows > 0))
    }

    fn look(&self, dom0: &mut Dom0, needles: &Needles) -> Result<Found> {
        self.taken(dom0, || needles.find(&self.file))
    }
}

/// The open session of the guest that was asked about.
fn session(status: &Value) -> Result<[u8; 16]> {
    sixteen(status["domains"][0]["session"].as_str().context("no session")?)
}

fn sixteen(hex: &str) -> Result<[u8; 16]> {
    let number = u128::from_str_radix(hex, 16).with_context(|| format!("{hex} is no identifier"))?;
    Ok(number.to_be_bytes())
}
