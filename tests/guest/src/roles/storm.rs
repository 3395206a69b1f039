//! Page tables of every level that come and go all the time: processes that map, touch and unmap far apart, and others that
//! are forked and end.
#![allow(unsafe_code)] // A process that lives in a loop of system calls, on addresses of its own choice.

use super::{fail, fork, heartbeat};
use anyhow::{Result, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::io;
use std::thread;
use vmcrypt_guest::Role;

/// Processes that map.
const MAPPERS: u64 = 12;
/// Threads that fork, beside them.
const FORKERS: u32 = 2;
/// What they leave to others: all that these ask for.
const LEAST: i32 = 19;
/// Bytes that are mapped at a time, so many pages of which are touched.
const AREA: usize = 4 << 20;
const TOUCHED: usize = 8;
/// Nothing of a program lies there; between two places an L3 table ends, an L2 table, or an L1 table.
const PLACE: usize = 0x1000_0000_0000;
const STEPS: [usize; 3] = [1 << 39, 1 << 30, 1 << 21];

pub fn play() -> Result<()> {
    let mut mappers = Vec::new();
    for number in 1..=MAPPERS {
        // SAFETY: the child allocates nothing and takes no lock: it makes system calls, and ends by one.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::nice(LEAST);
                libc::_exit(map(number));
            }
            child
        };
        ensure!(child > 0, "fork: {}", io::Error::last_os_error());
        mappers.extend(Pid::from_raw(child));
    }
    for _ in 1..FORKERS {
        thread::spawn(|| {
            // SAFETY: it is this thread alone that waits, and its children.
            unsafe { libc::nice(LEAST) };
            loop {
                if let Err(error) = fork::fork() {
                    fail(Role::Storm, &format!("{error:#}"));
                }
            }
        });
    }
    heartbeat(Role::Storm, |_| {
        fork::fork()?;
        for mapper in &mappers {
            let ended = waitpid(Some(*mapper), WaitOptions::NOHANG)?;
            ensure!(ended.is_none(), "a process that maps ended: {ended:?}");
        }
        Ok(format!("mappers={MAPPERS} forkers={FORKERS}"))
    })
}

/// Maps, touches, looks and unmaps until something is wrong: what, by number.
fn map(number: u64) -> i32 {
    let mut state = number;
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
