//! With the option off, the patched source must be Xen again.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use object::{File, Object, ObjectSection, ObjectSymbol, SymbolKind};
use vmcrypt_host::{Tally, paths};

use crate::xen::{self, Flavour};

/// Build it, and compare every function with stock Xen's.
pub fn run() -> Result<Tally> {
    let off = xen::build(Flavour::Off)?.join("xen-syms");
    let stock = Flavour::Stock.dir().join("xen-syms");
    let read = |path| fs::read(path).with_context(|| "cannot read a hypervisor that was just built");
    let (off_data, stock_data) = (read(&off)?, read(&stock)?);
    let (off, stock) = (
        functions(&File::parse(&*off_data)?)?,
        functions(&File::parse(&*stock_data)?)?,
    );
    let mut differ: Vec<String> = Vec::new();
    for (name, code) in &off {
        match stock.get(name) {
            Some(other) if other == code => {}
            Some(_) => differ.push(format!("{name} differs in length or instructions")),
            None => differ.push(format!("{name} is new")),
        }
    }
    differ.extend(
        stock
            .keys()
            .filter(|name| !off.contains_key(*name))
            .map(|name| format!("{name} is gone")),
    );
    let same = format!(
        "{} functions compared with {}",
        off.len(),
        paths::short(&Flavour::Stock.dir())
    );
    if differ.is_empty() {
        println!("  ok  {same}: all equal");
        return Ok(Tally {
            passed: 2,
            ..Tally::default()
        });
    }
    println!("FAIL  {same}: {} differ", differ.len());
    differ.iter().take(20).for_each(|line| println!("        {line}"));
    Ok(Tally {
        passed: 1,
        failed: 1,
        skipped: 0,
    })
}

/// Code of each function. A name may stand for several static functions.
fn functions<'a>(file: &File<'a>) -> Result<BTreeMap<String, Vec<&'a [u8]>>> {
    let mut functions: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
    {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = file.section_by_index(index)?;
        if let Some(code) = section.data_range(symbol.address(), symbol.size())? {
            functions.entry(symbol.name()?.to_owned()).or_default().push(code);
        }
    }
    Ok(functions)
}
