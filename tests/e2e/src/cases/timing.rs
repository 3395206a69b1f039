//! Times on real Xen. Under TCG they mean something only as ratios between hypervisors, measured in turns.

use crate::case::{Config, Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use crate::runner::{Options, boot};
use serde_json::{Value, json};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vmcrypt_guest::Role;
use vmcrypt_host::paths;
use vmcrypt_testbed::Image;

/// Boots of each hypervisor, in turns.
const TURNS: usize = 3;
/// Cycles in each boot; the first warms dom0's caches and does not count.
const CYCLES: usize = 2;
/// Forks of a guest that are counted, at least.
const FORKS: f64 = 1000.0;
/// Forks before those.
const WARM: f64 = 100.0;
/// Before the first look at how many there were: a look takes instructions of dom0's, too.
const LOOK: Duration = Duration::from_secs(60);

/// What is measured, and in which unit.
const WHAT: [(&str, &str); 4] = [
    ("boot", "s until dom0 is up"),
    ("start", "s from xl create to the first sign of life, 256 MiB"),
    ("save", "s of xl save, 256 MiB"),
    ("restore", "s of xl restore, 256 MiB"),
];
type Times = [Vec<f64>; WHAT.len()];

/// Measures, and writes `target/testbed/timing.json`.
pub fn measure(image: &Image, options: &Options) -> Verdict {
    let logs = paths::target_subdir("testbed/logs/timing")?;
    let (mut stock, mut vmcrypt) = (Times::default(), Times::default());
    for turn in 0..TURNS {
        for (name, config, times) in [
            ("stock", Config::STOCK, &mut stock),
            ("vmcrypt", Config::VMCRYPT, &mut vmcrypt),
        ] {
            let begin = Instant::now();
            let mut dom0 = boot(image, config, options, &logs.join(format!("{name}-{turn}")))?;
            times[0].push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            let mut guest = dom0.create(Spec::main("timed"))?;
            dom0.await_alive(&mut guest)?;
            times[1].push(begin.elapsed().as_secs_f64());
            for cycle in 0..=CYCLES {
                let save = dom0.save(&guest)?.time.as_secs_f64();
                let restore = dom0.restore(&mut guest)?.time.as_secs_f64();
                if cycle > 0 {
                    times[2].push(save);
                    times[3].push(restore);
                }
            }
        }
    }
    let rows: Vec<Value> = WHAT
        .iter()
        .zip(stock.iter().zip(&vmcrypt))
        .map(|((name, unit), (stock, vmcrypt))| {
            json!({
                "name": name, "unit": unit, "stock": stock, "vmcrypt": vmcrypt,
                "median_stock": median(stock), "median_vmcrypt": median(vmcrypt), "ratio": ratio(vmcrypt, stock),
            })
        })
        .collect();
    let report = json!({ "what": "QEMU TCG, in turns", "times": rows });
    fs::write(
        paths::target_subdir("testbed")?.join("timing.json"),
        format!("{report:#}\n"),
    )?;
    let finite = rows.iter().all(|row| row["ratio"].is_f64());
    demand!(finite, "something was not measured: {report}");
    let words = rows.iter().map(|row| {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        let (vmcrypt, stock, ratio) = (number("median_vmcrypt"), number("median_stock"), number("ratio"));
        let name = row["name"].as_str().unwrap_or_default();
        format!("{name} {vmcrypt:.2} against {stock:.2} ({ratio:.3}x)")
    });
    Ok(format!("medians: {}", words.collect::<Vec<_>>().join(", ")))
}

/// What VMCrypt costs a guest that nobody maps, and that makes and drops page tables as fast as it can: instructions of the
/// whole machine for a fork, against stock Xen.
pub fn unmapped(image: &Image, options: &Options) -> Verdict {
    let logs = paths::target_subdir("testbed/logs/unmapped")?;
    let mut forks = Vec::new();
    for (name, config) in [("stock", Config::STOCK), ("vmcrypt", Config::VMCRYPT)] {
        let config = Config {
            counted: true,
            ..config
        };
        let mut dom0 = boot(image, config, options, &logs.join(name))?;
        forks.push(instructions(&mut dom0)?);
    }
    let &[stock, vmcrypt] = forks.as_slice() else {
        unreachable!("two hypervisors")
    };
    demand!(stock > 0.0 && vmcrypt > 0.0, "nothing was counted: {forks:?}");
    Ok(format!(
        "{vmcrypt:.0} instructions a fork against {stock:.0} ({:+.2} %)",
        100.0 * (vmcrypt / stock - 1.0)
    ))
}

/// A million of them is a millisecond of the machine's clock.
fn instructions(dom0: &mut Dom0) -> Result<f64, Problem> {
    let mut guest = dom0.create(Spec::new("forks").roles(&[Role::Fork]))?;
    dom0.await_alive(&mut guest)?;
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        sleep(LOOK);
        let text = dom0
            .must("grep -o 'forks=.*' /var/log/xen/console/guest-forks.log", SHORT)?
            .text();
        let counts: Vec<_> = text
            .lines()
            .filter_map(count)
            .filter(|(forks, _)| *forks >= WARM)
            .collect();
        let (Some((first, begin)), Some((last, end))) = (counts.first(), counts.last()) else {
            continue;
        };
        if last - first >= FORKS {
            dom0.must("xl destroy forks", LONG)?;
            return Ok((end - begin) * 1e6 / (last - first));
        }
        demand!(Instant::now() < deadline, "{} forks in ten minutes", last - first);
    }
}

/// Forks so far, and milliseconds, from a line of the guest's.
fn count(line: &str) -> Option<(f64, f64)> {
    let number = |name: &str| -> Option<f64> {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name))?;
        word.trim_end_matches('.').parse().ok()
    };
    number("forks=").zip(number("milliseconds="))
}

fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(a) / median(b)
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    // Of an even number, half-way between the two in the middle.
    let middle = [times.len().saturating_sub(1) / 2, times.len() / 2];
    let [low, high] = middle.map(|at| times.get(at).copied().unwrap_or(f64::NAN));
    f64::midpoint(low, high)
}
