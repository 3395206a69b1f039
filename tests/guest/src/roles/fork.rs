//! Processes, one after the other: each gets page tables of its own and gives them back.
#![allow(unsafe_code)] // Nothing but fork() itself makes page tables for a process that does nothing else.

use super::heartbeat;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::hint::black_box;
use std::io;
use std::time::Instant;
use vmcrypt_guest::Role;

/// Between two looks at the clock.
const BATCH: u64 = 16;
/// Bytes whose page tables a process inherits.
const MEMORY: usize = 16 << 20;

pub fn play() -> Result<()> {
    let memory = black_box(vec![1u8; MEMORY]);
    let begin = Instant::now();
    heartbeat(Role::Fork, |round| {
        for _ in 0..BATCH {
            fork()?;
        }
        ensure!(memory[MEMORY / 2] == 1, "a child changed its parent's memory");
        let forks = (round + 1) * BATCH;
        Ok(format!(
            "forks={forks} milliseconds={}",
            begin.elapsed().as_millis()
        ))
    })
}

pub fn fork() -> Result<()> {
    // SAFETY: the child ends at once, by a system call.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        child
    };
    ensure!(child > 0, "fork: {}", io::Error::last_os_error());
    let ended = waitpid(Pid::from_raw(child), WaitOptions::empty()).context("waitpid")?;
    let (_, status) = ended.context("a child that did not end")?;
    ensure!(status.exit_status() == Some(0), "a child ended with {status:?}");
    Ok(())
}
