//! Programs in C that call the Rust library: `tests/c`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use vmcrypt_core::{hpke::PublicKey, sealed_key::Policy};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};
use vmcrypt_tools::owner::OwnerKey;

use crate::xen::{
    Flavour, patches_dir,
    rust::{self, Part},
};

/// Compile a program of `sources` in `tests/c` and these objects.
pub fn compile(
    name: &str,
    sources: &[&str],
    objects: &[PathBuf],
    options: &[&str],
    step: &Step,
) -> Result<PathBuf> {
    hostpkg::ensure(&["gcc", "libc6-dev"])?;
    let dir = paths::target_subdir("test")?;
    let tests = paths::workspace_root().join("tests/c");
    let program = dir.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"]);
    gcc.arg("-I").arg(patches_dir().join("overlay/xen/include"));
    gcc.args(sources.iter().map(|source| tests.join(source)));
    gcc.args(objects).args(options).arg("-o").arg(&program);
    cmd::logged(&mut gcc, &dir.join(format!("{name}-compile.log")), step)?;
    Ok(program)
}

/// Compile a program with the very objects that Xen is linked from: what it runs is the hypervisor's machine code. What
/// else it is made of is in `more`.
pub fn with_hypervisor_code(
    name: &str,
    source: &str,
    more: &[PathBuf],
    options: &[&str],
    step: &Step,
) -> Result<PathBuf> {
    hostpkg::ensure(&["binutils"])?;
    step.note("the Rust part as for Xen");
    {
        let _lock = paths::lock("xen")?;
        rust::build(&Flavour::Product.dir())?;
    }
    let objects = [&Part::ALL.map(Part::object)[..], more].concat();
    let options = [&["-O2", "-z", "noexecstack"], options].concat();
    compile(name, &[source, "xen.c"], &objects, &options, step)
}

/// The domain's handle in `tests/c/guest.h`.
const UUID: [u8; 16] = *b"a guest's handle";

/// Seal a new owner's key to the host of such a program, which draws the same keys at each start: a file.
pub fn owners_key(program: &Path) -> Result<PathBuf> {
    let host = cmd::output(Command::new(program).arg("public-key"))?;
    let key = OwnerKey::draw()?.seal(UUID, 0, Policy::default(), &[public_key(host.trim())?])?;
    let sealed = program.with_extension("key");
    fs::write(&sealed, key).with_context(|| format!("cannot write {}", paths::short(&sealed)))?;
    Ok(sealed)
}

fn public_key(digits: &str) -> Result<PublicKey> {
    ensure!(digits.len() == 64, "`{digits}` is no public key");
    let mut key = PublicKey::default();
    for (byte, pair) in key.0.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(pair)?;
        *byte = u8::from_str_radix(text, 16).with_context(|| format!("`{digits}` is no public key"))?;
    }
    Ok(key)
}

/// Print the verdicts that such a program left in `log`, and count them by its last line. `ended` is how it ended.
pub fn verdicts(log: &Path, ended: Result<()>) -> Result<Tally> {
    let text = fs::read_to_string(log)?;
    let (details, count) = text.trim_end().rsplit_once('\n').unwrap_or_default();
    let Some((passed, failed)) = count
        .strip_suffix(" failed")
        .and_then(|count| count.split_once(" passed, "))
    else {
        // It did not come to its end.
        ended?;
        bail!("a program ended without its count; see {}", paths::short(log));
    };
    println!("{details}");
    let number = |text: &str| text.parse().with_context(|| format!("`{text}` is no count"));
    let tally = Tally {
        passed: number(passed)?,
        failed: number(failed)?,
        skipped: details.lines().filter(|line| line.starts_with("SKIP")).count(),
    };
    if tally.failed == 0 {
        ended?;
    }
    Ok(tally)
}
