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

/// Runs cases and prints a line for each. One machine per CPU of this one runs at a time; cases that
/// bring their own machines, or measure, come last and alone.
pub fn run(selected: &[&'static Case], options: &Options) -> Result<Tally> {
    let image = Image::ensure()?;
    let (free, mut shared): (Vec<_>, Vec<_>) = selected
        .iter()
        .copied()
        .partition(|case| case.machine().is_none());
    // Stable: within one boot the order of the table stays.
    shared.sort_by_key(|case| case.machine());
    let queue = Queue {
        waiting: Mutex::new(shared),
        tally: Mutex::default(),
        options,
        image: &image,
    };
    let lanes = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MAX_LANES));
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(|| queue.lane())).collect();
        lanes
            .into_iter()
            .try_for_each(|lane| lane.join().expect("a lane returns its errors"))
    })?;
    for case in free {
        let Body::Free(_, body) = case.body else { continue };
        queue.judge(case, |_| body(&image, options))?;
    }
    let tally = queue.tally.into_inner().expect("no lane panicked");
    println!("{tally}");
    Ok(tally)
}

/// Machines that run at once, at most; each takes some 3 GiB of memory.
const MAX_LANES: usize = 4;

/// The cases that no lane has begun yet, and what came out of the others.
struct Queue<'a> {
    waiting: Mutex<Vec<&'static Case>>,
    tally: Mutex<Tally>,
    options: &'a Options,
    image: &'a Image,
}

impl Queue<'_> {
    /// Runs cases until none is left, on the machine that is up as long as there are cases for it.
    fn lane(&self) -> Result<()> {
        let mut running: Option<(Config, Dom0)> = None;
        while let Some(case) = self.next(running.as_ref().map(|(config, _)| *config)) {
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

    /// The next case: one for the machine that is up, if there is one.
    fn next(&self, up: Option<Config>) -> Option<&'static Case> {
        let mut waiting = self.waiting.lock().expect("no lane panicked");
        let fits = waiting
            .iter()
            .position(|case| up.is_some() && case.machine() == up);
        (!waiting.is_empty()).then(|| waiting.remove(fits.unwrap_or(0)))
    }

    /// Runs one case, prints its line, keeps its verdict.
    fn judge(&self, case: &Case, body: impl FnOnce(&Path) -> Verdict) -> Result<()> {
        let start = Instant::now();
        let dir = paths::target_subdir("testbed/logs")?.join(case.name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let verdict = if self.options.skip_on_demand && cases::ON_DEMAND.contains(&case.name) {
            Err(Problem::Skip("a measurement, or long; run it by name".to_owned()))
        } else if self.options.until.is_some_and(|end| start > end) {
            let why = "the time for end-to-end cases is used up; `cargo xtask e2e` runs them all";
            Err(Problem::Skip(why.to_owned()))
        } else {
            body(&dir)
        };
        let time = progress::seconds(start.elapsed());
        let (word, one, text) = match &verdict {
            Ok(evidence) => ("ok", Tally::PASS, evidence.clone()),
            Err(problem @ Problem::Fail(_)) => ("FAIL", Tally::FAIL, problem.to_string()),
            Err(problem @ Problem::Error(_)) => ("ERROR", Tally::FAIL, problem.to_string()),
            Err(problem @ Problem::Skip(_)) => ("SKIP", Tally::SKIP, problem.to_string()),
        };
        println!(
            "{word:<5} {:<24} {time:>8}  {}",
            case.name,
            text.replace('\n', " | ")
        );
        fs::write(dir.join("verdict"), format!("{word}\n{text}\n"))?;
        *self.tally.lock().expect("no lane panicked") += one;
        Ok(())
    }
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
