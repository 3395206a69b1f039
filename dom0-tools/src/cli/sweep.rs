//! `vmcrypt sweep`

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::sweep::{self, Manner, Report};
use vmcrypt_tools::xen::{self, Domain};

use super::args::{Common, exit, print_class, print_json, print_needles};

/// Map every frame of a guest, as an attacker in dom0 would, and search what is seen
#[derive(Args)]
pub struct Sweep {
    /// Number of the domain, as `xl list` shows it
    domid: u16,
    /// Map the pages writable (nothing is written)
    #[arg(long)]
    writable: bool,
    /// Try every frame of the machine, not only those in the guest's P2M; slow
    #[arg(long)]
    every_frame: bool,
    #[command(flatten)]
    common: Common,
}

impl Sweep {
    pub fn run(self) -> Result<ExitCode> {
        let needles = self.common.needles()?;
        let xen = Privcmd::open()?;
        let domain = find(&xen, self.domid)?;
        if domain.id.0 == 0 {
            bail!("domain 0 is dom0 itself: it sees its own memory without any map");
        }
        let bar = ProgressBar::new(domain.pages).with_style(
            ProgressStyle::with_template("frames {bar:40} {human_pos}/{human_len} {eta}")
                .expect("a valid template"),
        );
        let manner = Manner {
            writable: self.writable,
            every_frame: self.every_frame,
        };
        let report = sweep::sweep(&xen, &domain, &needles, manner, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();

        if self.common.json {
            print_json(&report)?;
        } else {
            print(&domain, &report);
        }
        self.common
            .draw(&format!("domain {} from dom0", domain.id), &report.map)?;
        exit(self.common.verdict(report.needles))
    }
}

/// Finds a domain, or says which there are.
pub fn find(xen: &Privcmd, id: u16) -> Result<Domain> {
    let all = xen::domains(xen).context("cannot list domains")?;
    let ids: Vec<String> = all.iter().map(|domain| domain.id.to_string()).collect();
    all.into_iter()
        .find(|domain| domain.id.0 == id)
        .with_context(|| format!("no domain {id}; `xl list` shows: {}", ids.join(", ")))
}

fn print(domain: &Domain, report: &Report) {
    let guest = if domain.hvm { "fully virtualised" } else { "PV" };
    say!(
        "domain      {} ({guest}, {}), {} pages",
        domain.id,
        domain.state,
        domain.pages
    );
    say!(
        "frames      {} tried, {} mapped and read",
        report.frames_tried,
        report.mapped
    );
    for (&errno, count) in &report.refused {
        say!(
            "  {:<28} {count:>10}",
            format!("refused: {}", std::io::Error::from_raw_os_error(errno))
        );
    }
    print_class("look random (ciphertext)", report.random, report.mapped);
    print_class("page tables", report.page_tables, report.mapped);
    print_class("P2M", report.p2m, report.mapped);
    print_class("descriptor tables", report.descriptor, report.mapped);
    print_class("start_info", report.start_info, report.mapped);
    print_class("console and xenstore rings", report.ring, report.mapped);
    if report.xen > 0 {
        print_class("Xen's own (grants...)", report.xen, report.mapped);
    }
    print_class("zero", report.zero, report.mapped);
    print_class("other content in clear", report.other, report.mapped);
    let first: Vec<String> = report
        .first_frames
        .iter()
        .take(4)
        .map(|frame| format!("{:#x}", frame.0))
        .collect();
    let first = if first.is_empty() {
        String::new()
    } else {
        format!(", frame {}...", first.join(" "))
    };
    print_needles(report.needles, report.with_needle, &first);
}
