//! Runs cases: boots what they need, keeps their logs, counts verdicts.

use crate::case::{Body, Case, Config, Hypervisor, Problem, Verdict};
use crate::cases;
use crate::dom0::{Dom0, SHORT};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
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
    /// Show on stderr what happens in dom0.
    pub echo: bool,
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

/// Runs cases and prints a line for each.
pub fn run(selected: &[&'static Case], options: &Options) -> Result<Tally> {
    let image = Image::ensure()?;
    let logs = paths::target_subdir("testbed/logs")?;
    let mut order: Vec<&Case> = selected.to_vec();
    // Stable: within one boot the order of the table stays.
    order.sort_by_key(|case| case.machine());
    let mut tally = Tally::default();
    let mut running: Option<(Config, Dom0)> = None;
    for case in order {
        let start = Instant::now();
        let dir = logs.join(case.name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let verdict = match case.body {
            Body::Free(_, body) => {
                running = None;
                body(&image, options)
            }
            Body::In(config, body) => {
                let reusable = running
                    .take()
                    .filter(|(old, _)| *old == config)
                    .map(|(_, dom0)| dom0);
                let dom0 = reusable.map_or_else(
                    || {
                        boot(
                            &image,
                            config,
                            options,
                            &logs.join(format!("boot-for-{}", case.name)),
                        )
                    },
                    Ok,
                );
                match dom0 {
                    Err(error) => Err(Problem::Error(error)),
                    Ok(mut dom0) => {
                        let verdict = attempt(&mut dom0, body, &dir);
                        let _ = fs::write(dir.join("xen.log"), dom0.machine().console());
                        // A machine that saw a case fail proves nothing for the next one.
                        running = verdict.is_ok().then_some((config, dom0));
                        verdict
                    }
                }
            }
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
        tally += one;
    }
    println!("{tally}");
    Ok(tally)
}

/// Boots the machine that a configuration describes; its console goes to `dir`.
pub fn boot(image: &Image, config: Config, options: &Options, dir: &Path) -> Result<Dom0> {
    let Config {
        hypervisor,
        xen_arguments,
        aes_ni,
        cpus,
        memory_mib,
        store,
    } = config;
    let file = match hypervisor {
        Hypervisor::Stock => &options.stock,
        Hypervisor::VmCrypt => &options.vmcrypt,
    };
    let boot = Boot {
        xen_arguments: xen_arguments.to_owned(),
        aes_ni,
        cpus,
        memory_mib,
        store,
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
