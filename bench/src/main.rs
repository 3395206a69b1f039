//! What VMCrypt costs per page on Xen's hot paths, measured natively: `docs/BENCHMARKS.md`.
//!
//! The Rust part is the real one, called in the order of the C bodies. What surrounds it in Xen is a model
//! ([`model`]), so the figures say how the parts compare and not what a save takes.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use vmcrypt_ffi::host::{VMC_BACKEND_AESNI, VMC_BACKEND_AVX2, VMC_BACKEND_AVX512, VMC_BACKEND_PORTABLE};
use vmcrypt_simd::{avx2::Avx2, avx512::Avx512, ni::AesNi};

use crate::{
    measures::{Size, World},
    report::Report,
};

mod guest;
mod measures;
mod model;
mod picture;
mod report;

/// Measure what VMCrypt costs per page on this CPU.
#[derive(Parser)]
struct Cli {
    /// A few rounds only: for trying it out, not for quoting
    #[arg(long)]
    quick: bool,

    /// Where figures.json and pages.svg go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let report = run(Size::FULL, if cli.quick { 5 } else { 150 })?;
    report.save(&cli.out)?;
    print!("{report}");
    println!("{}", cli.out.display());
    Ok(())
}

/// Makes sure that what is measured works, and measures it. Each round runs every measure once, in an order of
/// its own, so that other load on the machine falls on all alike.
fn run(size: Size, rounds: usize) -> Result<Report> {
    measures::check(VMC_BACKEND_PORTABLE, |_| ()).context("portable backend")?;
    if AesNi::detect().is_some() {
        measures::check(VMC_BACKEND_AESNI, |_| ()).context("AES-NI backend")?;
    }
    if Avx2::detect().is_some() {
        measures::check(VMC_BACKEND_AVX2, |_| ()).context("backend of 256 bits")?;
    }
    if Avx512::detect().is_some() {
        measures::check(VMC_BACKEND_AVX512, |_| ()).context("backend of 512 bits")?;
    }
    let list = measures::all();
    let mut world = World::new(size)?;
    let mut samples = vec![Vec::with_capacity(rounds); list.len()];
    let mut order: Vec<usize> = (0..list.len()).collect();
    // The first round only warms up.
    for round in 0..=rounds {
        fastrand::shuffle(&mut order);
        for &index in &order {
            let measure = &list[index];
            let time = (measure.run)(&mut world).context(measure.name)?;
            if round > 0 {
                samples[index].push(time);
            }
        }
    }
    Report::new(&list, &samples)
}

impl Report {
    fn save(&self, dir: &std::path::Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let json = dir.join("figures.json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&json, text).with_context(|| format!("cannot write {}", json.display()))?;
        picture::draw(self, &dir.join("pages.svg"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::measures::CHECKED_TABLE;

    /// There is one host key in a process: one test at a time.
    static MACHINE: Mutex<()> = Mutex::new(());

    const TINY: Size = Size {
        pfns: 4096,
        frames: 64,
        batch: 16,
        records: [1024, 4096],
    };

    #[test]
    fn every_measure_runs_and_is_reported() {
        let _alone = MACHINE.lock();
        let dir = tempfile::tempdir().unwrap();
        run(TINY, 3).unwrap().save(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("figures.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(json["machine"]["cpu"].as_str().is_some_and(|cpu| !cpu.is_empty()));
        assert_eq!(json["rounds"], 3);
        let figures = json["figures"].as_array().unwrap();
        assert_eq!(figures.len(), measures::all().len());
        for figure in figures {
            let number = |name: &str| figure[name].as_f64().unwrap();
            assert!(number("lower_quartile") <= number("median"), "{figure}");
            assert!(number("median") <= number("upper_quartile"), "{figure}");
        }
        let picture = fs::read_to_string(dir.path().join("pages.svg")).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("map a private page"));
    }

    #[test]
    fn a_page_that_does_not_come_back_is_noticed() {
        let _alone = MACHINE.lock();
        for backend in [VMC_BACKEND_PORTABLE, VMC_BACKEND_AESNI] {
            if backend == VMC_BACKEND_AESNI && AesNi::detect().is_none() {
                continue;
            }
            measures::check(backend, |_| ()).unwrap();
            measures::check(backend, |image| image[3].0[17] ^= 1).unwrap_err();
            measures::check(backend, |image| image.swap(8, 9)).unwrap_err();
            // Another frame of the guest, in an entry of a table.
            measures::check(backend, |image| image[CHECKED_TABLE as usize].0[9] ^= 0x10).unwrap_err();
        }
    }
}
