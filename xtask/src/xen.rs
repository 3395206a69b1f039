//! `cargo xtask xen`: fetch, patch and build the hypervisor.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use vmcrypt_host::{cmd, hostpkg, paths, progress::Step};

pub mod doors;
mod kconfig;
pub mod off;
mod pin;
pub mod rust;
pub mod tree;

/// Fetch, patch and build Xen
///
/// Leaves `xen` (the multiboot image) and `xen-syms` in target/xen, with --stock in target/xen-stock.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Build Debian's Xen without the patches, for comparison
    #[arg(long, conflicts_with_all = ["debug", "kconfig_off"])]
    stock: bool,
    /// Build with Xen's own assertions and VMCrypt's oracle, into target/xen-debug
    #[arg(long, conflicts_with = "kconfig_off")]
    debug: bool,
    /// Build the patched source with VMCRYPT=n, into target/xen-off, and compare its code with stock Xen's
    #[arg(long)]
    kconfig_off: bool,
}

/// A way to build the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Debian's source as it is.
    Stock,
    /// The product.
    Product,
    /// The product with assertions.
    Debug,
    /// Patched source, option off, otherwise configured as stock.
    Off,
}

impl Flavour {
    /// Directory of this flavour's products and logs.
    pub fn dir(self) -> PathBuf {
        paths::target_dir().join(match self {
            Self::Stock => "xen-stock",
            Self::Product => "xen",
            Self::Debug => "xen-debug",
            Self::Off => "xen-off",
        })
    }

    fn patched(self) -> bool {
        self != Self::Stock
    }

    fn with_rust(self) -> bool {
        matches!(self, Self::Product | Self::Debug)
    }

    /// Lines of Xen's `.config` that this flavour insists on.
    fn fragment(self) -> Result<String> {
        let read = |name: &str| {
            let path = patches_dir().join("config").join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", paths::short(&path)))
        };
        Ok(match self {
            Self::Stock => read("stock.config")?,
            Self::Product => read("vmcrypt.config")?,
            Self::Debug => read("vmcrypt.config")?.replace("# CONFIG_DEBUG is not set", "CONFIG_DEBUG=y"),
            Self::Off => read("stock.config")? + "# CONFIG_VMCRYPT is not set\n",
        })
    }
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    let flavour = match args {
        Args { stock: true, .. } => Flavour::Stock,
        Args { debug: true, .. } => Flavour::Debug,
        Args {
            kconfig_off: true, ..
        } => Flavour::Off,
        _ => Flavour::Product,
    };
    if flavour == Flavour::Off {
        let tally = off::run()?;
        ensure!(
            tally.failed == 0,
            "with VMCRYPT=n the patched source is not Xen again"
        );
        return Ok(());
    }
    let dir = build(flavour)?;
    println!(
        "{} and {}",
        paths::short(&dir.join("xen")),
        paths::short(&dir.join("xen-syms"))
    );
    Ok(())
}

/// Build one flavour, as far as its inputs changed, and return the directory of its products.
pub fn build(flavour: Flavour) -> Result<PathBuf> {
    hostpkg::ensure(&[
        "binutils",
        "bison",
        "flex",
        "gcc",
        "libc6-dev",
        "make",
        "patch",
        "python3",
        "xz-utils",
    ])?;
    hostpkg::ensure_disk(4)?;
    let dir = flavour.dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;

    let _lock = paths::lock("xen")?;
    let source = tree::materialise(&dir, flavour.patched())?;
    if flavour.with_rust() {
        doors::check(&source)?;
    }
    let rust_object = flavour.with_rust().then(|| rust::build(&dir)).transpose()?;

    let step = Step::new(format!("build {}", paths::short(&dir)));
    let make = Make {
        source: &source,
        rust_object: rust_object.as_deref(),
    };
    kconfig::configure(&make, &flavour.fragment()?, &dir, &step)?;
    let jobs = thread::available_parallelism().map_or(1, |n| n.get());
    cmd::logged(
        make.command().arg(format!("-j{jobs}")),
        &dir.join("make.log"),
        &step,
    )?;
    for product in ["xen", "xen-syms"] {
        copy_if_changed(&source.join("xen").join(product), &dir.join(product))?;
    }
    step.done(size_note(&dir.join("xen"))?);
    Ok(dir)
}

/// Directory of everything that is done to Debian's source.
pub fn patches_dir() -> PathBuf {
    paths::workspace_root().join("xen-patches")
}

/// Xen's own build, always called the same way.
struct Make<'a> {
    source: &'a Path,
    rust_object: Option<&'a Path>,
}

impl Make<'_> {
    fn command(&self) -> Command {
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(self.source.join("xen"))
            .arg("XEN_TARGET_ARCH=x86_64");
        if let Some(object) = self.rust_object {
            make.arg(format!("VMCRYPT_RUST_OBJ={}", object.display()));
        }
        // The same input gives the same hypervisor: no date, user or host name of this machine goes in.
        make.env("SOURCE_DATE_EPOCH", tree::source_date(self.source).to_string())
            .envs([
                ("XEN_WHOAMI", "vmcrypt"),
                ("XEN_DOMAIN", "localdomain"),
                ("XEN_BUILD_HOST", "localhost"),
            ])
            .env("LC_ALL", "C");
        // What cargo tells its children is not meant for Xen's makefiles.
        for name in ["MAKEFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS", "debug"] {
            make.env_remove(name);
        }
        make
    }
}

/// Copy, unless the target already holds the same bytes: whoever depends on its date need not start again.
pub fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", paths::short(from)))?;
    write_if_changed(to, &new)
}

/// Write, unless the file already holds these bytes.
pub fn write_if_changed(to: &Path, new: &[u8]) -> Result<bool> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", paths::short(to)))?;
    Ok(true)
}

fn size_note(image: &Path) -> Result<String> {
    let bytes = fs::metadata(image)?.len();
    ensure!(bytes > 0, "{} is empty", paths::short(image));
    Ok(format!("{} bytes", bytes))
}
