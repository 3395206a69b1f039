//! Times of save and restore. Under TCG they mean something only as a ratio between hypervisors, measured in turns.

use crate::case::{Config, Verdict, demand};
use crate::guest::Spec;
use crate::runner::{Options, boot};
use serde_json::json;
use std::fs;
use vmcrypt_host::paths;
use vmcrypt_testbed::Image;

/// Boots of each hypervisor, in turns.
const TURNS: usize = 2;
/// Cycles in each boot; the first warms dom0's caches and does not count.
const CYCLES: usize = 2;

/// Measures, and writes `target/testbed/timing.json`.
pub fn measure(image: &Image, options: &Options) -> Verdict {
    let logs = paths::target_subdir("testbed/logs/timing")?;
    let (mut stock, mut vmcrypt) = (Times::default(), Times::default());
    for turn in 0..TURNS {
        for (name, config, times) in [
            ("stock", Config::STOCK, &mut stock),
            ("vmcrypt", Config::VMCRYPT, &mut vmcrypt),
        ] {
            let mut dom0 = boot(image, config, options, &logs.join(format!("{name}-{turn}")))?;
            let mut guest = dom0.create(Spec::main("timed"))?;
            for cycle in 0..=CYCLES {
                let save = dom0.save(&guest)?.time.as_secs_f64();
                let restore = dom0.restore(&mut guest)?.time.as_secs_f64();
                if cycle > 0 {
                    times.save.push(save);
                    times.restore.push(restore);
                }
            }
        }
    }
    let (save, restore) = (
        ratio(&vmcrypt.save, &stock.save),
        ratio(&vmcrypt.restore, &stock.restore),
    );
    let report = json!({
        "what": "seconds of xl save and xl restore of a 256 MiB guest, QEMU TCG, in turns",
        "stock": { "save": stock.save, "restore": stock.restore },
        "vmcrypt": { "save": vmcrypt.save, "restore": vmcrypt.restore },
        "ratio_of_medians": { "save": save, "restore": restore },
    });
    fs::write(
        paths::target_subdir("testbed")?.join("timing.json"),
        format!("{report:#}\n"),
    )?;
    demand!(save.is_finite() && restore.is_finite(), "nothing was measured");
    Ok(format!(
        "medians: save {:.1} s against {:.1} s stock ({save:.2}x), restore {:.1} s against {:.1} s ({restore:.2}x)",
        median(&vmcrypt.save),
        median(&stock.save),
        median(&vmcrypt.restore),
        median(&stock.restore)
    ))
}

#[derive(Default)]
struct Times {
    save: Vec<f64>,
    restore: Vec<f64>,
}

fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(a) / median(b)
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
