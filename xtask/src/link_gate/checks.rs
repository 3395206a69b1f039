//! The checks. Each carries the assembly that must trip it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use iced_x86::{CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{
    Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionKind,
    elf::{R_X86_64_64, R_X86_64_PC32, R_X86_64_PC64, R_X86_64_PLT32},
};

use super::{
    Subject,
    code::{self, Place},
};
use crate::xen::rust::exports_of;

/// Which object a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// `ffi`, ordinary code.
    Soft,
    /// `ffi/simd`, vector code.
    Simd,
    /// Both, as Xen links them.
    Joined,
    /// The hypervisor.
    Linked,
}

/// One check.
pub struct Check {
    /// Short name.
    pub name: &'static str,
    /// What holds when it passes.
    pub about: &'static str,
    /// What it looks at.
    pub on: &'static [On],
    /// Returns what it found.
    pub run: fn(&Subject<'_>) -> Result<Vec<String>>,
    /// Assembly that must trip it.
    pub canaries: &'static [&'static str],
}

/// Every check.
pub const CHECKS: &[Check] = &[
    Check {
        name: "relocations",
        about: "code reaches everything relative to itself, without tables",
        on: &[On::Joined],
        run: relocations,
        canaries: &[
            "mov vmc_far@GOTPCREL(%rip), %rax",
            "mov $vmc_far, %eax",
            "movl vmc_far, %eax",
            "movabs $vmc_far, %rax",
        ],
    },
    Check {
        name: "sections",
        about: "no section that Xen does not place",
        on: &[On::Joined],
        run: sections,
        canaries: &[
            ".section .init_array,\"aw\"\n.quad 1",
            ".section .tdata,\"awT\",@progbits\n.quad 1",
            ".section .eh_frame,\"a\"\n.quad 1",
            ".section .text.one,\"ax\"\nnop",
        ],
    },
    Check {
        name: "undefined symbols",
        about: "Xen provides every symbol, and each is listed",
        on: &[On::Joined],
        run: undefined,
        canaries: &["call vmc_nobody_has_this"],
    },
    Check {
        name: "sizes",
        about: "every section is within its budget",
        on: &[On::Joined],
        run: sizes,
        canaries: &[".text\n.fill 5000, 1, 0x90", ".bss\n.quad 0"],
    },
    Check {
        name: "no vector code",
        about: "ordinary code leaves SSE, AVX, MMX and x87 registers to the guests",
        on: &[On::Soft],
        run: no_vectors,
        canaries: &[
            "pxor %xmm0, %xmm0",
            "vpxor %ymm1, %ymm1, %ymm1",
            "vpxorq %zmm20, %zmm20, %zmm20",
            "emms",
            "fld1",
            "movq %mm0, %rax",
            "kmovw %eax, %k1",
        ],
    },
    Check {
        name: "vector registers",
        about: "vector code uses legacy SSE, and each wide backend what Xen saves for it",
        on: &[On::Simd],
        run: vector_registers,
        canaries: &[
            "vaesenc %xmm1, %xmm1, %xmm1",
            "vmc_wide_not: vpxor %ymm1, %ymm1, %ymm1",
            "vmc_wide: vpxorq %zmm1, %zmm1, %zmm1",
            "vmc_wide: vpxorq %xmm20, %xmm20, %xmm20",
            "vmc_widest: kmovw %eax, %k1",
            "vmc_widest: vpxorq %zmm1, %zmm1, %zmm1{%k1}",
            "vmc_widest: vldmxcsr (%rax)",
            "ldmxcsr (%rax)",
            "fld1",
            "movq %mm0, %rax",
        ],
    },
    Check {
        name: "red zone",
        about: "nothing is kept below the stack pointer",
        on: &[On::Soft, On::Simd],
        run: red_zone,
        canaries: &[
            "mov %rax, -8(%rsp)",
            "movups %xmm0, -0x88(%rsp)",
            "mov -16(%rsp,%rcx,8), %rax",
        ],
    },
    Check {
        name: "branches",
        about: "every return and indirect branch goes through Xen's thunks",
        on: &[On::Soft, On::Simd],
        run: branches,
        canaries: &["ret", "jmp *%rax", "call *8(%rdi)", "jmp *table(,%rcx,8)\ntable:"],
    },
    Check {
        name: "stack frames",
        about: "no function takes more of Xen's small stack than the rules allow",
        on: &[On::Soft, On::Simd],
        run: frames,
        canaries: &[
            "sub $4096, %rsp",
            "sub %rax, %rsp",
            "lea -4096(%rsp), %rsp",
            "add $-4096, %rsp",
        ],
    },
    Check {
        name: "panics",
        about: "no path leads to a panic but those that are listed with a reason",
        on: &[On::Soft, On::Simd],
        run: panics,
        canaries: &[
            "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE:\nnop",
            "_ZN4core6option13unwrap_failed17h0123456789abcdefE:\nnop",
            "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE:\nnop",
            "_RNvNtCs1234_4core9panicking5panic:\nnop",
        ],
    },
    Check {
        name: "tables",
        about: "the hypervisor has no GOT, PLT or run-time relocation",
        on: &[On::Linked],
        run: tables,
        canaries: &[
            ".globl vmc_clean\nvmc_clean: nop\n.section .got,\"aw\"\n.quad 1",
            ".globl vmc_clean\nvmc_clean: nop\n.section .plt,\"ax\"\nnop",
        ],
    },
    Check {
        name: "targets",
        about: "every direct branch of the linked Rust code lands in Xen's text",
        on: &[On::Linked],
        run: targets,
        canaries: &[
            ".globl vmc_clean, _stext, _etext\n_stext: nop\nvmc_clean: call 1f\n_etext:\nnop\n1: nop",
        ],
    },
];

fn relocations(subject: &Subject<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for section in subject.file.sections() {
        for (offset, relocation) in section.relocations() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else {
                bail!("this is no ELF object")
            };
            let allowed = match r_type {
                R_X86_64_PC32 | R_X86_64_PLT32 | R_X86_64_PC64 => true,
                // Tables of pointers: the linker fills them in, code holds none.
                R_X86_64_64 => section.kind() != SectionKind::Text,
                _ => false,
            };
            if !allowed {
                let target = match relocation.target() {
                    RelocationTarget::Symbol(index) => subject
                        .file
                        .symbol_by_index(index)?
                        .name()
                        .unwrap_or_default()
                        .to_owned(),
                    _ => String::new(),
                };
                found.push(format!(
                    "{}+{offset:#x}: relocation type {r_type:?} to {target}",
                    section.name()?
                ));
            }
        }
    }
    Ok(found)
}

fn sections(subject: &Subject<'_>) -> Result<Vec<String>> {
    const PLACED: [&str; 6] = [
        ".text",
        ".rodata",
        ".data.rel.ro",
        ".data",
        ".bss",
        ".note.gnu.property",
    ];
    let mut found = Vec::new();
    for section in subject.file.sections().filter(|section| section.size() > 0) {
        let object::SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            bail!("this is no ELF object")
        };
        let loaded = sh_flags.contains(object::elf::SHF_ALLOC);
        if loaded && !PLACED.contains(&section.name()?) {
            found.push(format!("section {} of {} bytes", section.name()?, section.size()));
        }
    }
    Ok(found)
}

fn undefined(subject: &Subject<'_>) -> Result<Vec<String>> {
    let names = subject
        .file
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .filter_map(|symbol| symbol.name().ok());
    let strange = names.filter(|name| !name.is_empty() && !subject.rules.undefined.contains(*name));
    Ok(strange
        .map(|name| {
            format!(
                "{} is not among the symbols that Xen provides",
                rustc_demangle::demangle(name)
            )
        })
        .collect())
}

fn sizes(subject: &Subject<'_>) -> Result<Vec<String>> {
    let sizes = subject
        .file
        .sections()
        .filter_map(|section| Some((section.name().ok()?.to_owned(), section.size())));
    let over = sizes.filter_map(|(name, size)| {
        let budget = *subject.rules.sections.get(&name)?;
        (size > budget).then(|| format!("{name} has {size} bytes, and its budget is {budget}"))
    });
    Ok(over.collect())
}

fn no_vectors(subject: &Subject<'_>) -> Result<Vec<String>> {
    offenders(subject, |instruction| {
        registers(instruction)
            .any(|register| register.is_vector_register() || is_legacy_fpu(register) || register.is_k())
            || uses_legacy_fpu(instruction)
    })
}

fn vector_registers(subject: &Subject<'_>) -> Result<Vec<String>> {
    let rules = subject.rules;
    let listed = |set: &BTreeSet<String>, function: &str| {
        set.iter().any(|name| {
            function
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
    };
    let mut found = Vec::new();
    code::each(subject.file, |place| {
        let instruction = &place.instruction;
        let encoded = match instruction.encoding() {
            EncodingKind::Legacy => true,
            EncodingKind::VEX => {
                let function = place.function();
                listed(&rules.vex, &function) || listed(&rules.evex, &function)
            }
            EncodingKind::EVEX => listed(&rules.evex, &place.function()),
            _ => false,
        };
        // Xen saves neither masks nor the control register.
        let unsaved = instruction.has_op_mask()
            || registers(instruction).any(|register| is_legacy_fpu(register) || register.is_k())
            || uses_legacy_fpu(instruction)
            || matches!(instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr);
        if instruction.is_invalid() || !encoded || unsaved {
            found.push(place.show());
        }
    })?;
    Ok(found)
}

fn red_zone(subject: &Subject<'_>) -> Result<Vec<String>> {
    offenders(subject, |instruction| {
        let below =
            instruction.memory_base() == Register::RSP && (instruction.memory_displacement64() as i64) < 0;
        // `lea` computes an address and touches no memory.
        below && instruction.mnemonic() != Mnemonic::Lea
    })
}

fn branches(subject: &Subject<'_>) -> Result<Vec<String>> {
    offenders(subject, |instruction| {
        matches!(
            instruction.flow_control(),
            FlowControl::Return | FlowControl::IndirectBranch | FlowControl::IndirectCall
        )
    })
}

fn frames(subject: &Subject<'_>) -> Result<Vec<String>> {
    let limit = subject.rules.frame as i64;
    offenders(subject, |instruction| {
        let writes_rsp = instruction.op_count() > 0
            && instruction.op_kind(0) == OpKind::Register
            && instruction.op0_register() == Register::RSP;
        let immediate = || {
            let is_immediate = !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
            is_immediate.then(|| instruction.immediate(1) as i64)
        };
        writes_rsp
            && match instruction.mnemonic() {
                // A frame of a size that is computed has no bound that can be read here.
                Mnemonic::Sub => immediate().is_none_or(|size| size > limit),
                Mnemonic::Add => immediate().is_some_and(|size| -size > limit),
                Mnemonic::Lea => -(instruction.memory_displacement64() as i64) > limit,
                _ => false,
            }
    })
}

fn panics(subject: &Subject<'_>) -> Result<Vec<String>> {
    let mut found: Vec<_> = subject
        .file
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| name.starts_with("_ZN") || name.starts_with("_R"))
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .filter(|name| is_panic(name) && !subject.rules.panics.contains(name))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether a function of `core` panics, or formats text, which is only ever reached from a panic.
fn is_panic(name: &str) -> bool {
    const SIGNS: [&str; 5] = ["::panicking::", "_failed", "_fail", "::panic", "::fmt::"];
    let mut paths = name.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    paths.any(|path| path.starts_with("core::") && SIGNS.iter().any(|sign| path.contains(sign)))
}

fn tables(subject: &Subject<'_>) -> Result<Vec<String>> {
    const EMPTY: [&str; 8] = [
        ".got",
        ".got.plt",
        ".plt",
        ".plt.got",
        ".igot.plt",
        ".iplt",
        ".rela",
        ".rela.dyn",
    ];
    let sections = subject
        .file
        .sections()
        .filter_map(|section| Some((section.name().ok()?.to_owned(), section.size())));
    let filled = sections.filter(|(name, size)| *size > 0 && EMPTY.contains(&name.as_str()));
    Ok(filled
        .map(|(name, size)| format!("{name} has {size} bytes"))
        .collect())
}

fn targets(subject: &Subject<'_>) -> Result<Vec<String>> {
    let address = |name: &str| {
        let symbol = subject
            .file
            .symbol_by_name(name)
            .with_context(|| format!("xen-syms has no symbol {name}"))?;
        anyhow::Ok(symbol.address())
    };
    let text = address("_stext")?..address("_etext")?;
    let object = subject
        .joined
        .section_by_name(".text")
        .context("the Rust part has no code")?;
    // Where the object's text went, told by each of its exports.
    let mut start = None;
    let mut found = Vec::new();
    for name in exports_of(subject.joined) {
        let symbol = subject
            .joined
            .symbol_by_name(&name)
            .context("it was just listed")?;
        if symbol.section_index() != Some(object.index()) {
            continue;
        }
        let at = address(&name)?.wrapping_sub(symbol.address());
        if *start.get_or_insert(at) != at {
            found.push(format!(
                "{name} is not where the rest of the Rust part is: another definition took its place"
            ));
        }
    }
    let start = start.context("the Rust part exports no function")?;
    let section = subject.file.sections().find(|section| {
        (section.address()..section.address() + section.size()).contains(&start)
            && section.kind() == SectionKind::Text
    });
    let section = section.context("the Rust part is not in a section of code")?;
    let code = section
        .data_range(start, object.size())?
        .context("the Rust part reaches beyond its section")?;
    let mut inspect = |place: &Place<'_>| {
        let direct = matches!(
            place.instruction.flow_control(),
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
        );
        if direct && !text.contains(&place.instruction.near_branch_target()) {
            found.push(place.show());
        }
    };
    code::range(subject.file, section.index(), code, start, &mut inspect);
    Ok(found)
}

/// Every instruction that is invalid or that `bad` names.
fn offenders(subject: &Subject<'_>, bad: impl Fn(&Instruction) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    code::each(subject.file, |place| {
        if place.instruction.is_invalid() || bad(&place.instruction) {
            found.push(place.show());
        }
    })?;
    Ok(found)
}

fn registers(instruction: &Instruction) -> impl Iterator<Item = Register> {
    (0..instruction.op_count())
        .filter(|operand| instruction.op_kind(*operand) == OpKind::Register)
        .map(|operand| instruction.op_register(operand))
}

fn is_legacy_fpu(register: Register) -> bool {
    register.is_st() || register.is_mm()
}

/// x87 and MMX instructions may name no register.
fn uses_legacy_fpu(instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::FPU
                | CpuidFeature::FPU287
                | CpuidFeature::FPU387
                | CpuidFeature::MMX
                | CpuidFeature::D3NOW
        )
    })
}
