//! `cargo xtask demo`.

use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;
use vmcrypt_e2e::case::{Config, Problem};
use vmcrypt_e2e::dom0::Dom0;
use vmcrypt_e2e::guest::Spec;
use vmcrypt_e2e::{Options, boot};
use vmcrypt_guest::{Role, secret};
use vmcrypt_host::paths;
use vmcrypt_host::progress::Step;
use vmcrypt_testbed::Image;
use vmcrypt_tools::map::{self, MemoryMap};

use crate::xen::{self, Flavour};

/// Show what VMCrypt does: the same guest on stock Xen and on VMCrypt, side by side.
///
/// Boots both hypervisors in QEMU, one after the other. On each, a guest of 256 MiB holds a secret file; dom0 sweeps
/// the guest's memory for it, saves the guest, searches the image, and restores the guest. The first run also
/// fetches and builds everything.
#[derive(clap::Args)]
pub struct Args {}

/// Run the verb.
pub fn run(_args: &Args) -> Result<()> {
    let options = Options {
        stock: xen::build(Flavour::Stock)?.join("xen"),
        vmcrypt: xen::build(Flavour::Product)?.join("xen"),
        debug: Flavour::Debug.dir().join("xen"),
        echo: false,
        until: None,
        skip_on_demand: false,
    };
    let image = Image::ensure()?;
    let stock = Side::watch("stock Xen", &image, Config::STOCK, &options)?;
    let vmcrypt = Side::watch("VMCrypt", &image, Config::VMCRYPT, &options)?;
    let picture = paths::target_subdir("demo")?.join("memory.png");
    map::picture(&[
        ("dom0's view of the guest in the image: stock Xen", &stock.map),
        ("the same guest on VMCrypt", &vmcrypt.map),
    ])
    .write_png(&picture)
    .with_context(|| format!("writing {}", picture.display()))?;
    print_table(&stock, &vmcrypt);
    println!(
        "\nThe guest's memory as the images show it: {}",
        paths::short(&picture)
    );
    anyhow::ensure!(
        stock.in_image > 0 && stock.swept > 0,
        "the search found nothing on stock Xen: it proves nothing"
    );
    anyhow::ensure!(
        vmcrypt.in_image == 0 && vmcrypt.swept == 0,
        "VMCrypt let the secret out"
    );
    Ok(())
}

/// What dom0 saw on one hypervisor.
struct Side {
    swept: u64,
    in_image: u64,
    clear: u64,
    pages: u64,
    map: MemoryMap,
    boot: Duration,
    create: Duration,
    save: Duration,
    restore: Duration,
    before: u64,
    after: u64,
}

impl Side {
    fn watch(name: &str, image: &Image, config: Config, options: &Options) -> Result<Side> {
        let step = Step::new(name);
        let side = Self::measure(&step, image, config, options).map_err(Problem::into_error);
        let side = side.with_context(|| format!("on {name}"))?;
        step.done(format!("{} lines of the secret in the image", side.in_image));
        Ok(side)
    }

    fn measure(step: &Step, image: &Image, config: Config, options: &Options) -> Result<Side, Problem> {
        let logs = paths::target_subdir("demo")?.join(format!("{:?}", config.hypervisor).to_lowercase());
        let mut watch = Stopwatch::new();
        step.note("booting Xen and dom0");
        let mut dom0: Dom0 = boot(image, config, options, &logs)?;
        let boot = watch.lap();
        step.note("starting the guest");
        let mut guest = dom0.create(Spec::main("demo"))?;
        let create = watch.lap();
        let before = guest.round(Role::Secret);
        step.note("sweeping the guest's memory");
        let swept = count(&dom0.sweep(&guest)?, &["needles", "occurrences"]);
        step.note("xl save");
        let save = dom0.save(&guest)?.time;
        step.note("searching the image");
        let in_image = dom0.secret_lines(&guest.image())?;
        let report = dom0.inspect(&guest.image())?;
        step.note("xl restore");
        // Checks on the way that the secret's hash is what it was.
        let restore = dom0.restore(&mut guest)?.time;
        let after = guest.round(Role::Secret);
        let pages = &report["pages"];
        let random = count(pages, &["random"]);
        let tables: u64 = pages["page_tables"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .sum();
        let others = ["p2m", "descriptor", "start_info", "ring", "zero", "other"];
        let clear = tables + others.iter().map(|class| count(pages, &[class])).sum::<u64>();
        let map = report["map"]
            .as_str()
            .and_then(|runs| MemoryMap::from_runs(runs, 1 << 24));
        let map = map.context("the report on the image has no map")?;
        Ok(Side {
            swept,
            in_image,
            clear,
            pages: random + clear,
            map,
            boot,
            create,
            save,
            restore,
            before,
            after,
        })
    }
}

fn print_table(stock: &Side, vmcrypt: &Side) {
    let row = |what: &str, of: &dyn Fn(&Side) -> String| {
        println!("{what:<44} {:>16} {:>16}", of(stock), of(vmcrypt))
    };
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    println!("\n{:<44} {:>16} {:>16}", "", "stock Xen", "VMCrypt");
    row("lines of the secret in the guest's memory", &|_| {
        secret::LINES.to_string()
    });
    row("  seen by a sweep from dom0", &|side| side.swept.to_string());
    row("  in the image that xl save wrote", &|side| {
        side.in_image.to_string()
    });
    row("pages in the image that are in clear", &|side| {
        format!(
            "{} ({:.1} %)",
            side.clear,
            100.0 * side.clear as f64 / side.pages.max(1) as f64
        )
    });
    row("restored guest goes on, secret's hash intact", &|side| {
        format!("round {} > {}", side.after, side.before)
    });
    row("time to boot Xen and dom0", &|side| seconds(side.boot));
    row("time to start the guest", &|side| seconds(side.create));
    row("time of xl save", &|side| seconds(side.save));
    row("time of xl restore", &|side| seconds(side.restore));
    println!("Times are an emulated CPU's: only their ratio means something.");
}

fn count(report: &Value, path: &[&str]) -> u64 {
    path.iter()
        .fold(report, |value, key| &value[*key])
        .as_u64()
        .unwrap_or(0)
}

struct Stopwatch(std::time::Instant);

impl Stopwatch {
    fn new() -> Self {
        Stopwatch(std::time::Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = std::time::Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
