//! With the option off, the patched source must be Xen again.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind};
use object::{File, Object, ObjectSection, ObjectSymbol, SymbolKind};
use vmcrypt_host::{Tally, paths};

use super::{Flavour, build};
use crate::link_gate::Rules;

/// Build it and stock Xen, and compare the code of every function.
pub fn run() -> Result<Tally> {
    let stock = build(Flavour::Stock)?.join("xen-syms");
    let off = build(Flavour::Off)?.join("xen-syms");
    let read = |path| fs::read(path).context("cannot read a hypervisor that was just built");
    let (off, stock) = (read(&off)?, read(&stock)?);
    let (off, stock) = (
        functions(&File::parse(&*off)?)?,
        functions(&File::parse(&*stock)?)?,
    );
    let mut differ: Vec<&String> = off
        .iter()
        .filter(|(name, code)| stock.get(*name) != Some(code))
        .map(|(name, _)| name)
        .collect();
    differ.extend(stock.keys().filter(|name| !off.contains_key(*name)));
    let rules = Rules::of_the_project()?;
    let (listed, unlisted): (Vec<_>, Vec<_>) = differ.into_iter().partition(|name| rules.off.contains(*name));
    println!(
        "{:>4}  {} functions compared with {}: {} differ, of which {} are listed with a reason",
        if unlisted.is_empty() { "ok" } else { "FAIL" },
        off.len(),
        paths::short(&Flavour::Stock.dir()),
        listed.len() + unlisted.len(),
        listed.len(),
    );
    unlisted
        .iter()
        .take(20)
        .for_each(|name| println!("        {name} differs"));
    Ok(Tally {
        passed: 1 + usize::from(unlisted.is_empty()),
        failed: usize::from(!unlisted.is_empty()),
        skipped: 0,
    })
}

/// Code of each function. A name may stand for several static functions.
fn functions(file: &File<'_>) -> Result<BTreeMap<String, Vec<Vec<Instruction>>>> {
    let mut functions: BTreeMap<String, Vec<Vec<Instruction>>> = BTreeMap::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
    {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = file.section_by_index(index)?;
        if let Some(code) = section.data_range(symbol.address(), symbol.size())? {
            functions
                .entry(symbol.name()?.to_owned())
                .or_default()
                .push(instructions(code, symbol.address()));
        }
    }
    functions
        .values_mut()
        .for_each(|same_name| same_name.sort_by_key(Vec::len));
    Ok(functions)
}

/// Instructions without what changes when a line is added anywhere before them: addresses, and the line numbers that
/// messages carry.
fn instructions(code: &[u8], address: u64) -> Vec<Instruction> {
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    const LAST_LINE: u32 = 0xffff;
    let without_place = |mut instruction: Instruction| {
        if instruction.is_ip_rel_memory_operand() {
            instruction.set_memory_displacement64(0);
        }
        if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64 {
            instruction.set_near_branch64(0);
        }
        if instruction.code() == Code::Mov_r32_imm32 && instruction.immediate32() <= LAST_LINE {
            instruction.set_immediate32(0);
        }
        instruction.set_ip(0);
        instruction
    };
    decoder.into_iter().map(without_place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_are_left_out() {
        // mov edx, 5 / mov rax, [rip+16] / call +0 / add ecx, 1
        let code = [
            0xba, 5, 0, 0, 0, 0x48, 0x8b, 0x05, 16, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x83, 0xc1, 1,
        ];
        let with = |at: usize, value: u8| {
            let mut other = code;
            other[at] = value;
            instructions(&other, 0x2000)
        };
        let original = instructions(&code, 0x1000);
        assert_eq!(original.len(), 4);
        // A line number, a variable's and a function's address.
        for place in [1, 8, 13] {
            assert!(original == with(place, 9), "byte {place}");
        }
        // Registers, operations, other constants, and constants that are no line number.
        for place in [0, 3, 7, 18, 19] {
            assert!(original != with(place, code[place] ^ 8), "byte {place}");
        }
    }
}
