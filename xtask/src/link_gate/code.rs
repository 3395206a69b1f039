//! Reading machine code.

use anyhow::Result;
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use object::{File, Object, ObjectSection, ObjectSymbol, SectionIndex, SectionKind, SymbolKind};

/// One instruction and where it stands.
pub struct Place<'a> {
    /// The instruction.
    pub instruction: Instruction,
    function: &'a str,
}

impl Place<'_> {
    /// As people read it.
    pub fn show(&self) -> String {
        let mut text = String::new();
        IntelFormatter::new().format(&self.instruction, &mut text);
        format!("{} at {:#x}: {text}", self.function(), self.instruction.ip())
    }

    /// Path of the function that it is part of.
    pub fn function(&self) -> String {
        format!("{:#}", rustc_demangle::demangle(self.function))
    }
}

/// Call `visit` with every instruction of every section of code.
pub fn each(file: &File<'_>, mut visit: impl FnMut(&Place<'_>)) -> Result<()> {
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let data = section.data()?;
        range(file, section.index(), data, section.address(), &mut visit);
    }
    Ok(())
}

/// Call `visit` with every instruction of `code`, which starts at `address` in the section `index`.
pub fn range(
    file: &File<'_>,
    index: SectionIndex,
    code: &[u8],
    address: u64,
    mut visit: impl FnMut(&Place<'_>),
) {
    let mut functions: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.section_index() == Some(index))
        .filter(|symbol| {
            matches!(
                symbol.kind(),
                SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown
            )
        })
        .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?)))
        .filter(|(_, name)| !name.is_empty())
        .collect();
    functions.sort_unstable();
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let next = functions.partition_point(|(start, _)| *start <= instruction.ip());
        let function = next.checked_sub(1).map_or("(no symbol)", |at| functions[at].1);
        visit(&Place {
            instruction,
            function,
        });
    }
}
