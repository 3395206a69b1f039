//! What the page cipher leaves on Xen's stack: `tests/c/stack.c`, run in the machine code that Xen is linked from.

use std::process::Command;

use anyhow::Result;
use vmcrypt_host::{Tally, cmd, paths, progress::Step};

use crate::c_program;

/// Build the program and run it.
pub fn run() -> Result<Tally> {
    let step = Step::new("stack");
    let program = c_program::with_hypervisor_code("stack", "stack.c", &step)?;
    let log = paths::target_subdir("test")?.join("stack.log");
    let ended = cmd::logged(&mut Command::new(program), &log, &step);
    let tally = c_program::verdicts(&log, ended)?;
    if tally.failed == 0 {
        step.done("");
    }
    Ok(tally)
}
