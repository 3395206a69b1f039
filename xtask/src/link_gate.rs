//! `cargo xtask link-gate`: what the compiler and the linker really made of the Rust part.
//!
//! A hypervisor is no ordinary program: vector registers belong to guests, interrupts overwrite what lies below the
//! stack pointer, and the linker fails to report some of what it cannot do. Flags ask for the right code; this reads
//! the code itself.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use object::{File, Object, ObjectSection, ObjectSymbol};
use vmcrypt_host::{Tally, cmd, paths};

use crate::xen::{
    Flavour,
    rust::{Part, exports_of},
};

mod checks;
mod code;
mod rules;

use checks::{CHECKS, Check, On};
pub use rules::Rules;

/// Check the linked hypervisor for code that must not be in it
#[derive(clap::Args, Default)]
pub struct Args {
    /// Show that every check trips on an object made to trip it
    #[arg(long)]
    self_test: bool,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    let tally = if args.self_test { self_test()? } else { gate()? };
    ensure!(
        tally.failed == 0,
        "the link gate refuses this hypervisor ({tally})"
    );
    Ok(())
}

/// Run every check on what `cargo xtask xen` built.
pub fn gate() -> Result<Tally> {
    let rules = Rules::of_the_project()?;
    let read = |path: &Path| {
        fs::read(path)
            .with_context(|| format!("cannot read {}; run `cargo xtask xen` first", paths::short(path)))
    };
    let soft = read(&Part::Soft.object())?;
    let simd = read(&Part::Simd.object())?;
    let joined = read(&Flavour::Product.dir().join("vmcrypt-rust.o"))?;
    let linked = read(&Flavour::Product.dir().join("xen-syms"))?;
    let (soft, simd, joined, linked) = (
        File::parse(&*soft)?,
        File::parse(&*simd)?,
        File::parse(&*joined)?,
        File::parse(&*linked)?,
    );
    let mut tally = Tally::default();
    for check in CHECKS {
        let mut findings = Vec::new();
        for on in check.on {
            let (name, file) = match on {
                On::Soft => ("soft part", &soft),
                On::Simd => ("vector part", &simd),
                On::Joined => ("vmcrypt-rust.o", &joined),
                On::Linked => ("xen-syms", &linked),
            };
            let subject = Subject {
                file,
                joined: &joined,
                rules: &rules,
            };
            let found = (check.run)(&subject)?;
            findings.extend(found.into_iter().map(|finding| format!("{name}: {finding}")));
        }
        tally += verdict(check, &findings);
    }
    println!("{}", summary(&joined));
    Ok(tally)
}

/// Run every check on its canary, which must trip it, and on a clean object, which must not.
pub fn self_test() -> Result<Tally> {
    let rules = Rules::parse(CANARY_RULES)?;
    let dir = tempfile::tempdir()?;
    let mut tally = Tally::default();
    for check in CHECKS {
        let judge = |name: &str, source: &str| -> Result<Vec<String>> {
            let object = assemble(dir.path(), name, source)?;
            let data = fs::read(&object)?;
            let joined = File::parse(&*data)?;
            let linked = if check.on == [On::Linked] {
                fs::read(link(&object)?)?
            } else {
                data.clone()
            };
            let file = File::parse(&*linked)?;
            (check.run)(&Subject {
                file: &file,
                joined: &joined,
                rules: &rules,
            })
        };
        let mut problems = Vec::new();
        for (number, canary) in check.canaries.iter().enumerate() {
            if judge(&format!("canary-{number}"), canary)?.is_empty() {
                problems.push(format!("did not trip on its canary:\n{canary}"));
            }
        }
        let clean = if check.on == [On::Simd] {
            [CLEAN, CLEAN_VECTORS].concat()
        } else {
            CLEAN.to_owned()
        };
        problems.extend(
            judge("clean", &clean)?
                .into_iter()
                .map(|alarm| format!("false alarm: {alarm}")),
        );
        tally += verdict(check, &problems);
    }
    Ok(tally)
}

/// What a check looks at.
pub struct Subject<'a> {
    /// The object or program itself.
    pub file: &'a File<'a>,
    /// The object that was linked into it; the same when it is an object.
    pub joined: &'a File<'a>,
    /// What is allowed.
    pub rules: &'a Rules,
}

fn verdict(check: &Check, findings: &[String]) -> Tally {
    println!(
        "{:>4}  {}: {}",
        if findings.is_empty() { "ok" } else { "FAIL" },
        check.name,
        check.about
    );
    const SHOWN: usize = 12;
    for finding in findings.iter().take(SHOWN) {
        println!("        {finding}");
    }
    if findings.len() > SHOWN {
        println!("        and {} more", findings.len() - SHOWN);
    }
    if findings.is_empty() {
        Tally::PASS
    } else {
        Tally::FAIL
    }
}

fn summary(joined: &File<'_>) -> String {
    let sections = joined.sections().filter(|section| section.size() > 0);
    let sizes = sections.filter_map(|section| Some((section.name().ok()?.to_owned(), section.size())));
    let sizes = sizes.filter(|(name, _)| {
        [".text", ".rodata", ".data", ".bss"]
            .iter()
            .any(|known| name.starts_with(known))
    });
    let sizes: Vec<_> = sizes.map(|(name, size)| format!("{name} {size}")).collect();
    let undefined = joined
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .count()
        .saturating_sub(1);
    format!(
        "      {} exports, {undefined} imports, bytes: {}",
        exports_of(joined).len(),
        sizes.join(", ")
    )
}

/// Passes every check.
const CLEAN: &str = "
    .text
    .globl _stext, _etext, vmc_clean, vmc_other
_stext:
vmc_clean:
    sub $64, %rsp
    call vmc_other
    add $64, %rsp
    jmp vmc_other
vmc_other:
    lea vmc_table(%rip), %rax
    mov 8(%rsp), %rax
    jmp vmc_clean
_etext:
    .section .data.rel.ro,\"aw\"
vmc_table:
    .quad vmc_clean
    .text
";

/// Passes the checks of the vector part as well.
const CLEAN_VECTORS: &str = "
    movdqu (%rax), %xmm0
vmc_wide:
    vpaddq (%rax), %ymm0, %ymm0
vmc_widest:
    vpxorq %zmm20, %zmm20, %zmm20
    vzeroupper
";

const CANARY_RULES: &str = "
vex vmc_wide: a backend
evex vmc_widest: another one
frame 128: small
section .text 4096: small
section .data.rel.ro 64: small
section .bss 0: none
";

fn assemble(dir: &Path, name: &str, source: &str) -> Result<std::path::PathBuf> {
    let (text, object) = (dir.join(format!("{name}.s")), dir.join(format!("{name}.o")));
    fs::write(&text, source)?;
    cmd::output(Command::new("as").arg("--64").arg("-o").arg(&object).arg(&text))?;
    Ok(object)
}

fn link(object: &Path) -> Result<std::path::PathBuf> {
    let linked = object.with_extension("linked");
    let mut ld = Command::new("ld");
    ld.args(["-melf_x86_64", "--no-warn-rwx-segments", "-e", "vmc_clean", "-o"])
        .arg(&linked)
        .arg(object);
    match cmd::output(&mut ld) {
        Ok(_) => Ok(linked),
        Err(error) => bail!("a canary does not link: {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_check_trips_on_its_canary() {
        let tally = super::self_test().unwrap();
        assert_eq!(tally.failed, 0);
        assert!(super::CHECKS.iter().all(|check| !check.canaries.is_empty()));
    }
}
