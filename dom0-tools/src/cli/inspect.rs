//! `vmcrypt inspect`

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use vmcrypt_tools::image::{self, Kind, Report};

use super::args::{Common, exit, print_class, print_json, print_needles};

/// Read a save image or a recorded migration stream: records, pages by class, needles, a picture
#[derive(Args)]
pub struct Inspect {
    /// Image that `xl save` wrote, or what went over the wire of `xl migrate`
    image: PathBuf,
    #[command(flatten)]
    common: Common,
}

impl Inspect {
    pub fn run(self) -> Result<ExitCode> {
        let needles = self.common.needles()?;
        let name = self.image.display();
        let file = File::open(&self.image).with_context(|| format!("cannot open {name}"))?;
        let meta = file.metadata().with_context(|| format!("cannot read {name}"))?;
        anyhow::ensure!(!meta.is_dir(), "{name} is a directory, not a save image");

        let bar = ProgressBar::new(meta.len()).with_style(
            ProgressStyle::with_template("reading {bar:40} {bytes}/{total_bytes} {eta}")
                .expect("a valid template"),
        );
        let source = std::io::BufReader::with_capacity(1 << 20, bar.wrap_read(file));
        let report = image::inspect(source, &needles).with_context(|| format!("cannot read {name}"))?;
        bar.finish_and_clear();

        if self.common.json {
            print_json(&report)?;
        } else {
            print(&self.image.display().to_string(), &report);
        }
        self.common.draw(
            &self.image.file_name().unwrap_or_default().to_string_lossy(),
            &report.map,
        )?;
        if let Some(defect) = &report.defect {
            complain!("{name}: {defect}");
            return Ok(ExitCode::FAILURE);
        }
        exit(self.common.verdict(report.needles))
    }
}

fn print(name: &str, report: &Report) {
    let kind = match report.kind {
        Some(Kind::XlSaved) => "xl save file or migration stream",
        Some(Kind::XlReceiver) => "migration stream with the receiver's banner",
        Some(Kind::Libxl) => "libxl stream without xl's header",
        Some(Kind::Libxc) => "libxc stream without libxl's",
        None => "not a save image",
    };
    say!("image       {name}, {}, {kind}", HumanBytes(report.bytes));
    if let Some(domain) = report.domain {
        let guest = match (domain.pv, domain.word) {
            (false, _) => "fully virtualised",
            (true, 4) => "32-bit PV",
            (true, _) => "PV",
        };
        say!(
            "guest       {guest}, {} vCPUs with registers, saved by Xen {}.{}",
            report.vcpus,
            domain.xen_major,
            domain.xen_minor
        );
    }
    match &report.sealed_record {
        None => say!("sealed      no VMCrypt record"),
        Some(record) => {
            say!(
                "sealed      record of {} at offset {:#x}",
                HumanBytes(record.bytes),
                record.offset
            );
            match record.refusal {
                Some(why) => say!(
                    "            version {}, cipher {}: {why}",
                    record.version,
                    record.cipher
                ),
                None => say!(
                    "            version {}, cipher {}, key {}, epoch {}, session {}, number {}",
                    record.version,
                    record.cipher,
                    record.key_id,
                    record.epoch,
                    record.session,
                    record.sequence
                ),
            }
        }
    }

    say!(
        "records     {:>12}  {:>7}  {:>14}  type",
        "first at",
        "count",
        "bytes"
    );
    for run in &report.records {
        say!(
            "            {:>#12x}  {:>7}  {:>14}  {}",
            run.offset,
            run.count,
            run.bytes,
            run.name
        );
    }
    if report.records_unlisted > 0 {
        say!("            and {} more", report.records_unlisted);
    }
    if report.trailing_bytes > 0 {
        say!(
            "            {} bytes after the end of the stream",
            report.trailing_bytes
        );
    }

    let (pages, total) = (&report.pages, report.pages.total());
    say!("pages       {total} with content, {} sent", report.pages_sent);
    print_class("look random (ciphertext)", pages.random, total);
    for (level, &count) in (1..).zip(&pages.page_tables) {
        print_class(&format!("page tables L{level}"), count, total);
    }
    print_class("P2M", pages.p2m, total);
    print_class("descriptor tables", pages.descriptor, total);
    print_class("start_info", pages.start_info, total);
    print_class("console and xenstore rings", pages.ring, total);
    print_class("zero", pages.zero, total);
    print_class("other content in clear", pages.other, total);
    print_class("in clear altogether", pages.in_clear(), total);
    if pages.without_content > 0 {
        say!("  {:<28} {:>10}", "without content", pages.without_content);
    }
    let first: Vec<String> = report
        .first_pfns
        .iter()
        .take(4)
        .map(|pfn| format!("{pfn:#x}"))
        .collect();
    let first = if first.is_empty() {
        String::new()
    } else {
        format!(", PFN {}...", first.join(" "))
    };
    print_needles(report.needles, pages.with_needle, &first);
    if report.occurrences_outside_pages > 0 {
        say!(
            "            {} of them outside of any page",
            report.occurrences_outside_pages
        );
    }
}
