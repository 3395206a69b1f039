//! Page tables of every level that come and go all the time: processes that map, touch and unmap far apart, and others that
//! are forked and end.
#![allow(unsafe_code)] // A process that lives in a loop of system calls, on addresses of its own choice.

use super::{fork, heartbeat};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::io;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::Role;

/// Processes that map.
const MAPPERS: u64 = 12;
/// Processes that fork, beside them.
const FORKERS: u64 = 2;
/// What they leave to others: all that these ask for.
const LEAST: i32 = 19;
/// Bytes that are mapped at a time, so many pages of which are touched.
const AREA: usize = 4 << 20;
const TOUCHED: usize = 8;
/// Nothing of a program lies there; between two places an L3 table ends, an L2 table, or an L1 table.
const PLACE: usize = 0x1000_0000_0000;
const STEPS: [usize; 3] = [1 << 39, 1 << 30, 1 << 21];

pub fn play() -> Result<()> {
    // Processes of their own: a fork would stop the other roles' threads for as long as it takes.
    let children = (0..MAPPERS + FORKERS).map(start).collect::<Result<Vec<Pid>>>()?;
    heartbeat(Role::Storm, |_| {
        sleep(Duration::from_millis(950));
        for child in &children {
            let ended = waitpid(Some(*child), WaitOptions::NOHANG)?;
            ensure!(ended.is_none(), "a process ended: {ended:?}");
        }
        Ok(format!("mappers={MAPPERS} forkers={FORKERS}"))
    })
}

fn start(number: u64) -> Result<Pid> {
    // SAFETY: the child allocates nothing and takes no lock: it makes system calls, and ends by one.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::nice(LEAST);
            libc::_exit(if number < MAPPERS { map(number) } else { fork_on() });
        }
        child
    };
    Pid::from_raw(child)
        .filter(|_| child > 0)
        .with_context(|| format!("fork: {}", io::Error::last_os_error()))
}

/// Forks until that fails.
fn fork_on() -> i32 {
    while fork::fork().is_ok() {}
    6
}

/// Maps, touches, looks and unmaps until something is wrong: what, by number.
fn map(number: u64) -> i32 {
    let mut state = number + 1;
    loop {
        let mut at = PLACE;
        for step in STEPS {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            at += step * (state >> 60) as usize;
        }
        // SAFETY: what is mapped there is this function's alone, and nobody else maps in the process.
        unsafe {
            let area = libc::mmap(
                at as *mut _,
                AREA,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            if area == libc::MAP_FAILED || area.is_null() {
                return 2;
            }
            let words = area.cast::<u64>();
            let places = (0..TOUCHED).map(|i| words.add(i * (AREA / TOUCHED) / 8));
            for place in places.clone() {
                if place.read_volatile() != 0 {
                    return 3;
                }
                place.write_volatile(state);
            }
            for place in places {
                if place.read_volatile() != state {
                    return 4;
                }
            }
            if libc::munmap(area, AREA) != 0 {
                return 5;
            }
        }
    }
}
