//! How large VMCrypt is.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, SectionFlags, elf::SHF_ALLOC};
use vmcrypt_host::paths;
use walkdir::WalkDir;

use crate::xen::{Flavour, patches_dir, tree};

/// Print the sizes that a reviewer asks for.
pub fn print() -> Result<()> {
    println!("sizes");
    for name in ["vmcrypt-core", "ffi"] {
        println!(
            "  {:<42}{:>8}",
            format!("lines of Rust in {name}, without tests"),
            rust_lines(name)?
        );
    }
    let mut hooks = (0, 0);
    for name in tree::series()? {
        let text =
            fs::read_to_string(patches_dir().join(&name)).with_context(|| format!("cannot read {name}"))?;
        hooks.0 += text
            .lines()
            .filter(|line| line.starts_with('+') && !line.starts_with("+++ "))
            .count();
        hooks.1 += text
            .lines()
            .filter(|line| line.starts_with('-') && !line.starts_with("--- "))
            .count();
    }
    println!("  {:<42}{:>8}", "lines of Xen added by patches", hooks.0);
    println!("  {:<42}{:>8}", "lines of Xen removed by patches", hooks.1);
    let mut overlay = (0, 0);
    for path in tree::overlay_files()? {
        let lines = fs::read_to_string(patches_dir().join("overlay").join(&path))?
            .lines()
            .count();
        let generated = path.ends_with("vmcrypt-rust.h");
        *(if generated { &mut overlay.1 } else { &mut overlay.0 }) += lines;
    }
    println!("  {:<42}{:>8}", "lines of new Xen files", overlay.0);
    println!("  {:<42}{:>8}", "lines of the generated header", overlay.1);
    let xen_syms = |flavour: Flavour| loaded(&flavour.dir().join("xen-syms"));
    let own = loaded(
        &Flavour::Product
            .dir()
            .join("source/xen/arch/x86/vmcrypt/built_in.o"),
    )?;
    match (xen_syms(Flavour::Stock)?, xen_syms(Flavour::Product)?, own) {
        (Some(stock), Some(product), Some(own)) => {
            println!("  {:<42}{:>8}", "bytes that VMCrypt's files add to Xen", own);
            println!("  {:<42}{:>8}", "bytes of stock Xen", stock);
            println!(
                "  {:<42}{:>8}  (KEXEC, LIVEPATCH and others are off)",
                "bytes of Xen with VMCrypt", product
            );
        }
        _ => println!("  bytes added to Xen: not known until both hypervisors are built"),
    }
    Ok(())
}

/// Lines that are neither blank nor comment nor test.
fn rust_lines(directory: &str) -> Result<usize> {
    let mut lines = 0;
    for entry in WalkDir::new(paths::workspace_root().join(directory)) {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "rs") && !is_test(path) {
            lines += code_lines(&fs::read_to_string(path)?);
        }
    }
    Ok(lines)
}

fn is_test(path: &Path) -> bool {
    let directory = path.components().any(|part| {
        ["tests", "benches", "examples", "fuzz"]
            .iter()
            .any(|name| part.as_os_str() == *name)
    });
    directory
        || path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"))
}

fn code_lines(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"));
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            count += 1;
            continue;
        }
        // Skip the item that follows: to its semicolon, or to the brace that closes it.
        let mut depth = 0;
        for line in lines.by_ref() {
            let (open, close) = (line.matches('{').count(), line.matches('}').count());
            depth += open;
            depth = depth.saturating_sub(close);
            if depth == 0 && (close > 0 || line.ends_with(';')) {
                break;
            }
        }
    }
    count
}

/// Bytes of memory that a hypervisor or an object of it occupies, once it is built.
fn loaded(path: &Path) -> Result<Option<u64>> {
    let Ok(data) = fs::read(path) else {
        return Ok(None);
    };
    let file = object::File::parse(&*data)?;
    let in_memory = |section: &object::Section<'_, '_>| matches!(section.flags(), SectionFlags::Elf { sh_flags, .. } if sh_flags.contains(SHF_ALLOC));
    Ok(Some(
        file.sections()
            .filter(in_memory)
            .map(|section| section.size())
            .sum(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_comments_and_blanks_do_not_count() {
        let text = "//! Doc.\n\nfn one() {\n    two(); // why\n}\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\n\
                    #[cfg(test)]\nmod more;\nconst X: u8 = 1;\n";
        assert_eq!(code_lines(text), 4);
        assert!(is_test(Path::new("a/tests/x.rs")) && is_test(Path::new("a/src/image_tests.rs")));
        assert!(!is_test(Path::new("a/src/attest.rs")));
    }
}
