//! The Rust part of the hypervisor: one relocatable object that Xen's build links like any other.
//!
//! Two parts are built, each against a `core` of its own, because rustc's targets leave no other way:
//! `ffi` for a soft-float target, since ordinary hypervisor code must not touch vector registers, and `ffi/simd` for
//! a hard-float one, since LLVM cannot compile vector intrinsics otherwise. Only pointers and integers cross.
//! Stable rustc does it, with its unstable flags unlocked; nothing but its own source of `core` is needed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSymbol, read::archive::ArchiveFile};
use vmcrypt_host::{apt::PrivateApt, cmd, paths, progress::Step};

use super::{copy_if_changed, pin::Pin, write_if_changed};

/// Oldest compiler that has every flag below.
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// Code that Xen's linker script and Xen's place in memory accept: relative to itself, with neither GOT nor PLT,
/// hardened like Xen's own C code.
const FLAGS: &[&str] = &[
    "-Crelocation-model=pie",
    "-Ccode-model=small",
    "-Zplt=yes",
    "-Zdirect-access-external-data=yes",
    "-Cpanic=abort",
    "-Cforce-unwind-tables=no",
    "-Cno-redzone=yes",
    "-Zretpoline-external-thunk=yes",
    "-Zfunction-return=thunk-extern",
    "-Cjump-tables=no",
    "-Zcf-protection=branch",
];

/// Configuration of our own crates, and of those that would pick vector code by themselves.
const CFGS: &[&str] = &[
    "vmc_bare",
    "vmc_return_thunk",
    "sha2_backend=\"soft\"",
    "cpufeatures_disabled",
];

/// Xen's linker script collects sections by their plain names when live patching is off.
const JOIN_SCRIPT: &str = "SECTIONS {
    .text : { *(.text .text.*) }
    .rodata : { *(.rodata .rodata.*) }
    .data.rel.ro : { *(.data.rel.ro .data.rel.ro.*) }
    .data : { *(.data .data.*) }
    .bss : { *(.bss .bss.* COMMON) }
    /DISCARD/ : { *(.eh_frame .eh_frame_hdr .gcc_except_table* .comment .llvmbc .llvmcmd .note.GNU-stack) }
}
";

/// One of the two crates, and the target that it is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but vector code.
    Soft,
    /// Vector code.
    Simd,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Soft, Self::Simd];

    fn target(self) -> &'static str {
        match self {
            Self::Soft => "x86_64-unknown-none",
            Self::Simd => "x86_64-unknown-linux-gnu",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Soft => "vmcrypt-ffi",
            Self::Simd => "vmcrypt-simd",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Simd => "simd",
        }
    }

    /// The part alone, with every symbol name that the compiler gave: what the link gate reads.
    pub fn object(self) -> PathBuf {
        rust_dir().join(format!("{}.o", self.name()))
    }
}

/// Build the object and leave it as `vmcrypt-rust.o` in `dir`.
pub fn build(dir: &Path) -> Result<PathBuf> {
    let step = Step::new("build the Rust part");
    fs::create_dir_all(rust_dir())?;
    let toolchain = Toolchain::find(&step)?;
    let mut stripped = Vec::new();
    for part in Part::ALL {
        step.note(format!("core for {}", part.target()));
        let sysroot = toolchain.sysroot(part, &step)?;
        step.note(part.package());
        stripped.push(toolchain.part(part, &sysroot, &step)?);
    }
    let joined = rust_dir().join("vmcrypt-rust.o");
    cmd::output(
        ld().arg("-r")
            .arg("-T")
            .arg(script()?)
            .arg("-o")
            .arg(&joined)
            .args(&stripped),
    )?;
    let product = dir.join("vmcrypt-rust.o");
    copy_if_changed(&joined, &product)?;
    step.done(format!("{} bytes", fs::metadata(&product)?.len()));
    Ok(product)
}

/// A compiler and the source of its `core`.
struct Toolchain {
    version: String,
    library: PathBuf,
}

impl Toolchain {
    fn find(step: &Step) -> Result<Self> {
        let version = cmd::output(Command::new("rustc").arg("-vV")).context("VMCrypt is built by rustc")?;
        let release = version
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .unwrap_or_default();
        let mut numbers = release
            .split(['.', '-'])
            .map(|number| number.parse().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        ensure!(
            found >= OLDEST_RUSTC,
            "rustc {release} is too old: VMCrypt needs {}.{} or newer; update it, for example with `rustup update stable`",
            OLDEST_RUSTC.0,
            OLDEST_RUSTC.1
        );
        let library = library(release, step)?;
        Ok(Self { version, library })
    }

    /// A sysroot with nothing but `core`, compiled with our own flags: precompiled ones use SSE and the red zone.
    fn sysroot(&self, part: Part, step: &Step) -> Result<PathBuf> {
        let root = rust_dir().join(format!("sysroot-{}", part.name()));
        let lib = root.join("lib/rustlib").join(part.target()).join("lib");
        let stub = include_str!("stub_compiler_builtins.rs");
        let flags = self.flags();
        let stamp_path = root.join("stamp");
        let stamp = format!(
            "{}\n{}\n{}\n{stub}",
            self.version,
            self.library.display(),
            flags.join(" ")
        );
        if fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
            return Ok(root);
        }
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&lib)?;
        let stub_path = root.join("compiler_builtins.rs");
        fs::write(&stub_path, stub)?;
        let rustc = |name: &str, source: &Path| {
            let mut rustc = Command::new("rustc");
            rustc.env("RUSTC_BOOTSTRAP", "1").args([
                "--edition=2024",
                "--crate-type=rlib",
                "--crate-name",
                name,
            ]);
            rustc.arg(source).args([
                "--target",
                part.target(),
                "--sysroot=/nonexistent",
                "--cap-lints=allow",
            ]);
            rustc.args([
                "-Copt-level=3",
                "-Ccodegen-units=1",
                "-Cembed-bitcode=yes",
                "-Zforce-unstable-if-unmarked",
            ]);
            rustc
                .arg(format!("-Cmetadata=vmcrypt-{}", part.name()))
                .args(&flags)
                .arg("--out-dir")
                .arg(&lib);
            rustc
        };
        let log = |name: &str| rust_dir().join(format!("{}-{name}.log", part.name()));
        // Floating point has no place here, so its formatting is left out as Linux leaves it out.
        let mut core = rustc("core", &self.library.join("core/src/lib.rs"));
        cmd::logged(core.args(["--cfg", "no_fp_fmt_parse"]), &log("core"), step)?;
        let mut builtins = rustc("compiler_builtins", &stub_path);
        builtins
            .arg("-L")
            .arg(&lib)
            .arg("--extern")
            .arg(format!("core={}", lib.join("libcore.rlib").display()));
        cmd::logged(&mut builtins, &log("compiler_builtins"), step)?;
        fs::write(stamp_path, stamp)?;
        Ok(root)
    }

    /// Compile one part, keep what its exports reach, and hide every other symbol from Xen.
    fn part(&self, part: Part, sysroot: &Path, step: &Step) -> Result<PathBuf> {
        let target_dir = rust_dir().join(format!("cargo-{}", part.name()));
        let mut flags = self.flags();
        flags.push(format!("--sysroot={}", sysroot.display()));
        flags.extend(CFGS.iter().map(|cfg| format!("--cfg={cfg}")));
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(paths::workspace_root())
            .env("RUSTC_BOOTSTRAP", "1");
        cargo
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo.args([
            "rustc",
            "--lib",
            "--release",
            "--locked",
            "--crate-type",
            "staticlib",
        ]);
        cargo
            .args([
                "--package",
                part.package(),
                "--target",
                part.target(),
                "--target-dir",
            ])
            .arg(&target_dir);
        cmd::logged(&mut cargo, &rust_dir().join(format!("{}.log", part.name())), step)?;

        let archive_name = format!("lib{}.a", part.package().replace('-', "_"));
        let archive = target_dir.join(part.target()).join("release").join(archive_name);
        let exports = exports(&archive)?;
        ensure!(
            !exports.is_empty(),
            "{} exports nothing: its functions for C are named vmc_*",
            part.package()
        );
        let object = part.object();
        let mut join = ld();
        join.args(["-r", "--gc-sections", "-e", &exports[0], "-T"])
            .arg(script()?)
            .arg("-o")
            .arg(&object);
        join.args(exports.iter().flat_map(|name| ["-u", name]))
            .arg(&archive);
        cmd::output(&mut join)?;

        let keep = rust_dir().join(format!("{}.exports", part.name()));
        write_if_changed(&keep, (exports.join("\n") + "\n").as_bytes())?;
        let stripped = rust_dir().join(format!("{}.stripped.o", part.name()));
        let mut objcopy = Command::new("objcopy");
        objcopy
            .arg(format!("--keep-global-symbols={}", keep.display()))
            .arg("--strip-unneeded");
        cmd::output(objcopy.arg(&object).arg(&stripped))?;
        Ok(stripped)
    }

    fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| flag.to_string()).collect();
        // Panic messages name source files; they are the same wherever the hypervisor is built.
        for (from, to) in [
            (paths::workspace_root(), ""),
            (self.library.clone(), "rust"),
            (cargo_home(), "cargo"),
        ] {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
        flags
    }
}

/// Source of the standard library of exactly this release: the toolchain's own, or Debian's.
fn library(release: &str, step: &Step) -> Result<PathBuf> {
    let sysroot = cmd::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let own = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if own.join("core/src/lib.rs").exists() {
        return Ok(own);
    }
    let unpacked = paths::target_subdir("rust-src")?.join(release);
    let library = unpacked.join(format!("usr/src/rustc-{release}/library"));
    if library.join("core/src/lib.rs").exists() {
        return Ok(library);
    }
    step.note("rust-src");
    let deb = debian_rust_src(release).with_context(|| {
        format!(
            "rustc {release} comes without its source of `core`. Install it with `rustup component add rust-src`, \
             or use a rustc for which Debian has a rust-src of the same version"
        )
    })?;
    let partial = unpacked.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    cmd::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&partial))?;
    let _ = fs::remove_dir_all(&unpacked);
    fs::rename(&partial, &unpacked)?;
    ensure!(
        library.exists(),
        "{} holds no {}",
        paths::short(&deb),
        paths::short(&library)
    );
    Ok(library)
}

fn debian_rust_src(release: &str) -> Result<PathBuf> {
    let pin = Pin::read("RUST-SRC")?;
    if pin.field("version")? == release {
        return pin.fetch();
    }
    let suites: Vec<_> = pin.field("suites")?.split_whitespace().collect();
    let apt = PrivateApt::new(&suites)?;
    let versions = apt.versions("rust-src")?;
    match versions
        .iter()
        .find(|version| version.starts_with(&format!("{release}+")))
    {
        Some(version) => apt.fetch_deb("rust-src", version),
        None => bail!(
            "Debian ({}) has rust-src {}, and not {release}",
            suites.join(", "),
            versions.join(", ")
        ),
    }
}

/// Names that a static library offers to C.
fn exports(archive: &Path) -> Result<Vec<String>> {
    let data = fs::read(archive).with_context(|| format!("cannot read {}", paths::short(archive)))?;
    let mut names = Vec::new();
    for member in ArchiveFile::parse(&*data)?.members() {
        // Members that are not objects (metadata) hold no symbols.
        let Ok(object) = object::File::parse(member?.data(&*data)?) else {
            continue;
        };
        names.extend(exports_of(&object));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Names that an object offers to C.
pub fn exports_of(object: &object::File<'_>) -> Vec<String> {
    let defined = object
        .symbols()
        .filter(|symbol| symbol.is_global() && symbol.is_definition());
    let names = defined
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| name.starts_with("vmc"));
    names.map(str::to_owned).collect()
}

fn rust_dir() -> PathBuf {
    paths::target_dir().join("xen-rust")
}

fn script() -> Result<PathBuf> {
    let path = rust_dir().join("join.lds");
    write_if_changed(&path, JOIN_SCRIPT.as_bytes())?;
    Ok(path)
}

fn ld() -> Command {
    let mut ld = Command::new("ld");
    ld.arg("-melf_x86_64");
    ld
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}
