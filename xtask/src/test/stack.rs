//! What work with keys leaves on Xen's stack: `tests/c/stack.c`, run in the machine code that Xen is linked from.

use std::{fmt::Write, fs, process::Command};

use anyhow::{Context, Result, ensure};
use vmcrypt_host::{Tally, cmd, paths, progress::Step};

use crate::{c_program, xen::patches_dir};

/// Build the program and run it.
pub fn run() -> Result<Tally> {
    let step = Step::new("stack");
    let dir = paths::target_subdir("test")?;
    let header = patches_dir().join("overlay/xen/include/xen/vmcrypt-rust.h");
    let header =
        fs::read_to_string(&header).with_context(|| format!("cannot read {}", paths::short(&header)))?;
    let exports = exports(&header);
    ensure!(!exports.is_empty(), "the header declares no functions");
    let counters = dir.join("stack-exports.s");
    fs::write(&counters, notes(&exports))
        .with_context(|| format!("cannot write {}", paths::short(&counters)))?;
    let wraps: Vec<String> = exports.iter().map(|name| format!("-Wl,--wrap={name}")).collect();
    let wraps: Vec<&str> = wraps.iter().map(String::as_str).collect();
    let program = c_program::with_hypervisor_code("stack", "stack.c", &[counters], &wraps, &step)?;
    let key = c_program::owners_key(&program)?;
    let log = dir.join("stack.log");
    let ended = cmd::logged(Command::new(program).arg(key), &log, &step);
    let tally = c_program::verdicts(&log, ended)?;
    if tally.failed == 0 {
        step.done("");
    }
    Ok(tally)
}

/// The functions that Xen calls: what the header declares, but for those that it gives to Rust.
fn exports(header: &str) -> Vec<&str> {
    let declared = |line: &'_ str| !line.starts_with([' ', '/', '#']) && !line.starts_with("extern ");
    let lines = header.lines().filter(|line| declared(line));
    lines
        .filter_map(|line| {
            let (before, _) = line.split_once('(')?;
            let name = before.rsplit([' ', '*']).next()?;
            name.starts_with("vmc_").then_some(name)
        })
        .collect()
}

/// Code through which the program's calls of these functions go: each leaves a note that it was called and jumps on, with
/// stack and registers as they are. The names stand in `exports`, the notes in `called`.
fn notes(exports: &[&str]) -> String {
    let mut text = String::from(".text\n");
    for (index, name) in exports.iter().enumerate() {
        _ = writeln!(
            text,
            ".globl __wrap_{name}\n__wrap_{name}:\n\tmovb $1, called+{index}(%rip)\n\tjmp __real_{name}"
        );
    }
    text.push_str(".section .rodata\n");
    for (index, name) in exports.iter().enumerate() {
        _ = writeln!(text, "name{index}: .asciz \"{name}\"");
    }
    text.push_str(".section .data.rel.ro, \"aw\"\n.balign 8\n.globl exports\nexports:\n");
    for index in 0..exports.len() {
        _ = writeln!(text, "\t.quad name{index}");
    }
    _ = writeln!(
        text,
        "\t.quad 0\n.bss\n.globl called\ncalled: .zero {}\n.section .note.GNU-stack, \"\", @progbits",
        exports.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found() {
        let header = "/**\n * As for `vmc_not(this)`.\n */\nbool vmc_one(uint32_t a,\n             bool *vmc_two(void));\n\
                      extern bool vmc_c_random(uint64_t *word);\n#define vmc_three(x) x\nvoid *vmc_four(void);\n\
                      Verdict other(void);\n";
        assert_eq!(exports(header), ["vmc_one", "vmc_four"]);
    }
}
