//! Runs cases: boots what they need, keeps their logs, counts verdicts.

use crate::case::{Body, Case, Config, Hypervisor, Problem, Verdict};
use crate::cases;
use crate::dom0::{Dom0, SHORT};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;
use vmcrypt_host::{Tally, paths, progress};
use vmcrypt_testbed::{Boot, Image, Machine};

/// Where the hypervisors are, and how talkative to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The hypervisor under test.
    pub vmcrypt: PathBuf,
    /// The unpatched one.
    pub stock: PathBuf,
    /// The one under test, built with assertions.
    pub debug: PathBuf,
    /// Show on stderr what happens in dom0.
    pub echo: bool,
    /// After this moment no further case is begun: those left are skipped, and said to be.
    pub until: Option<Instant>,
    /// Skip the cases of [`cases::ON_DEMAND`], and say so.
    pub skip_on_demand: bool,
}

/// The cases with these names; all when none is given. A name ending in `*` stands for all that begin so.
pub fn select(names: &[String]) -> Result<Vec<&'static Case>> {
    let matches = |case: &Case, name: &str| match name.strip_suffix('*') {
        Some(start) => case.name.starts_with(start),
        None => case.name == name,
    };
    for name in names {
        ensure!(
            cases::ALL.iter().any(|case| matches(case, name)),
            "there is no case named {name}; `cargo xtask e2e --list` names them"
        );
    }
    Ok(cases::ALL
        .iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| matches(case, name)))
        .collect())
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Verdicts, counted.
    pub tally: Tally,
    /// Cases for which there was no time left.
    pub late: Vec<&'static str>,
}

impl From<Tally> for Outcome {
    fn from(tally: Tally) -> Self {
        Self {
            tally,
            late: Vec::new(),
        }
    }
}

/// Runs cases and prints a line for each.
///
/// What runs on VMCrypt comes before the controls on stock Xen, so that a run which ends early has shown what it could of
/// what matters; among equals the order is that of the table. One machine per CPU of this one runs at a time; cases that
/// bring their own machines follow, alone.
pub fn run(selected: &[&'static Case], options: &Options) -> Result<Outcome> {
    let image = Image::ensure()?;
    let mut outcome = Outcome::default();
    let (controls, judged): (Vec<_>, Vec<_>) = selected.iter().copied().partition(|case| case.is_control());
    for part in [judged, controls] {
        let (free, shared) = part.into_iter().partition(|case| case.machine().is_none());
        let queue = Queue {
            waiting: Mutex::new(by_machine(shared)),
            machines: Mutex::new(Vec::new()),
            outcome: Mutex::new(outcome),
            options,
            image: &image,
        };
        queue.run(free)?;
        outcome = queue.outcome.into_inner().expect("no lane panicked");
    }
    println!("{}", outcome.tally);
    Ok(outcome)
}

/// Cases for one machine together; machines in the order in which the cases first ask for them.
fn by_machine(mut cases: Vec<&'static Case>) -> Vec<&'static Case> {
    let order: Vec<_> = cases.iter().map(|case| case.machine()).collect();
    // Stable: within one boot the order of the table stays.
    cases.sort_by_key(|case| order.iter().position(|machine| *machine == case.machine()));
    cases
}

/// Machines that run at once, at most; each takes some 3 GiB of memory.
const MAX_LANES: usize = 4;

/// The cases that no lane has begun yet, and what came out of the others.
struct Queue<'a> {
    waiting: Mutex<Vec<&'static Case>>,
    /// What each lane has booted. Locked after `waiting`.
    machines: Mutex<Vec<Option<Config>>>,
    outcome: Mutex<Outcome>,
    options: &'a Options,
    image: &'a Image,
}

impl Queue<'_> {
    /// Runs all cases that wait, then those that bring their own machines.
    fn run(&self, free: Vec<&'static Case>) -> Result<()> {
        let lanes = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MAX_LANES));
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes)
                .map(|number| scope.spawn(move || self.lane(number)))
                .collect();
            lanes
                .into_iter()
                .try_for_each(|lane| lane.join().expect("a lane returns its errors"))
        })?;
        for case in free {
            let Body::Free(_, body) = case.body else { continue };
            self.judge(case, |_| body(self.image, self.options))?;
        }
        Ok(())
    }

    /// Runs cases until none is left, on the machine that is up as long as there are cases for it.
    fn lane(&self, number: usize) -> Result<()> {
        let mut running: Option<(Config, Dom0)> = None;
        while let Some(case) = self.next(number, running.as_ref().map(|(config, _)| *config)) {
            let Body::In(config, body) = case.body else {
                continue;
            };
            let up = running.take().filter(|(old, _)| *old == config);
            self.judge(case, |dir| {
                let boot_dir = dir.with_file_name(format!("boot-for-{}", case.name));
                let mut dom0 = match up {
                    Some((_, dom0)) => dom0,
                    None => boot(self.image, config, self.options, &boot_dir)?,
                };
                let verdict = attempt(&mut dom0, body, dir);
                let _ = fs::write(dir.join("xen.log"), dom0.machine().console());
                // A machine that saw a case fail proves nothing for the next one.
                running = verdict.is_ok().then_some((config, dom0));
                verdict
            })?;
        }
        Ok(())
    }

    /// The next case for a lane: one for the machine that it has up, or else for one that no other lane has.
    fn next(&self, lane: usize, up: Option<Config>) -> Option<&'static Case> {
        let mut waiting = self.waiting.lock().expect("no lane panicked");
        let mut machines = self.machines.lock().expect("no lane panicked");
        if machines.len() <= lane {
            machines.resize(lane + 1, None);
        }
        machines[lane] = up;
        let taken = choose(&waiting, up, &machines).map(|place| waiting.remove(place));
        machines[lane] = taken.and_then(Case::machine);
        taken
    }

    /// Runs one case, prints its line, keeps its verdict.
    fn judge(&self, case: &'static Case, body: impl FnOnce(&Path) -> Verdict) -> Result<()> {
        let start = Instant::now();
        let dir = paths::target_subdir("testbed/logs")?.join(case.name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let verdict = if self.options.skip_on_demand && cases::ON_DEMAND.contains(&case.name) {
            Err(Problem::Skip("a measurement, or long; run it by name".to_owned()))
        } else if self.options.until.is_some_and(|end| start > end) {
            Err(Problem::Late)
        } else {
            body(&dir)
        };
        let time = progress::seconds(start.elapsed());
        let (word, one, text) = match &verdict {
            Ok(evidence) => ("ok", Tally::PASS, evidence.clone()),
            Err(problem @ Problem::Fail(_)) => ("FAIL", Tally::FAIL, problem.to_string()),
            Err(problem @ Problem::Error(_)) => ("ERROR", Tally::FAIL, problem.to_string()),
            Err(problem @ (Problem::Skip(_) | Problem::Late)) => ("SKIP", Tally::SKIP, problem.to_string()),
        };
        println!(
            "{word:<5} {:<24} {time:>8}  {}",
            case.name,
            text.replace('\n', " | ")
        );
        fs::write(dir.join("verdict"), format!("{word}\n{text}\n"))?;
        let mut outcome = self.outcome.lock().expect("no lane panicked");
        outcome.tally += one;
        if matches!(verdict, Err(Problem::Late)) {
            outcome.late.push(case.name);
        }
        Ok(())
    }
}

/// Which of the cases that wait fits a lane that has `up` running, where all lanes have `machines`.
fn choose(waiting: &[&Case], up: Option<Config>, machines: &[Option<Config>]) -> Option<usize> {
    let place = |fits: &dyn Fn(Option<Config>) -> bool| waiting.iter().position(|case| fits(case.machine()));
    place(&|machine| up.is_some() && machine == up)
        .or_else(|| place(&|machine| !machines.contains(&machine)))
        .or((!waiting.is_empty()).then_some(0))
}

/// Boots the machine that a configuration describes; its console goes to `dir`.
pub fn boot(image: &Image, config: Config, options: &Options, dir: &Path) -> Result<Dom0> {
    let Config {
        hypervisor,
        xen_arguments,
        vectors,
        cpus,
        memory_mib,
        store,
        counted,
        iommu,
        efi,
    } = config;
    let file = match hypervisor {
        Hypervisor::Stock => &options.stock,
        Hypervisor::VmCrypt => &options.vmcrypt,
        Hypervisor::Debug => &options.debug,
    };
    let boot = Boot {
        xen_arguments: xen_arguments.to_owned(),
        vectors,
        cpus,
        memory_mib,
        store,
        counted,
        iommu,
        efi,
        ..Boot::new(file)
    };
    let machine = Machine::boot(image, &boot, dir).with_context(|| {
        format!(
            "booting {}; its console is in {}",
            file.display(),
            paths::short(dir)
        )
    })?;
    let mut dom0 = Dom0::new(machine, options.echo);
    dom0.log_to(&dir.join("dom0.log"));
    Ok(dom0)
}

fn attempt(dom0: &mut Dom0, body: fn(&mut Dom0) -> Verdict, dir: &Path) -> Verdict {
    dom0.log_to(&dir.join("dom0.log"));
    dom0.clean()?;
    let verdict = body(dom0);
    if let Err(problem) = &verdict {
        dom0.note(&format!("verdict: {problem}"));
        // For whoever reads the log; the verdict stands whatever comes of it.
        let _ = dom0.try_run(
            "xl list; xl dmesg | tail -n 40; tail -n 20 /var/log/xen/console/*",
            SHORT,
        );
        return verdict;
    }
    // The case is only good if it left a healthy machine behind.
    dom0.clean()?;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_of_one_machine_stand_together_in_the_order_of_the_table() {
        let names = ["no-xsave", "canary-image", "save-restore", "off", "five-cycles"].map(str::to_owned);
        let cases: Vec<_> = names
            .iter()
            .flat_map(|name| select(std::slice::from_ref(name)).unwrap())
            .collect();
        let sorted: Vec<_> = by_machine(cases).iter().map(|case| case.name).collect();
        assert_eq!(
            sorted,
            ["no-xsave", "canary-image", "save-restore", "five-cycles", "off"]
        );
    }

    #[test]
    fn a_lane_leaves_to_another_what_that_has_booted() {
        let names = ["restore-cpus", "race", "save-restore", "maxmem"].map(str::to_owned);
        let waiting = select(&names).unwrap();
        let [two, _, one, _] = [0, 1, 2, 3].map(|number| waiting[number].machine());
        assert_eq!(choose(&waiting, None, &[None]), Some(0));
        assert_eq!(choose(&waiting, None, &[two, None]), Some(2));
        assert_eq!(choose(&waiting, one, &[two, one]), Some(2));
        assert_eq!(choose(&waiting[..2], one, &[two, one]), Some(0));
        assert_eq!(choose(&waiting[..2], None, &[two, None]), Some(0));
        assert_eq!(choose(&[], two, &[two]), None);
    }

    #[test]
    fn controls_are_told_apart() {
        let control = |name: &str| select(&[name.to_owned()]).unwrap()[0].is_control();
        assert!(["canary-image", "canary-backend"].into_iter().all(control));
        assert!(!["save-restore", "timing", "off"].into_iter().any(control));
    }
}
