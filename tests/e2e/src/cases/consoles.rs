//! What Xen says of a guest on its console, which dom0 reads.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use std::fmt;
use vmcrypt_guest::{Role, pattern};

/// Keys that end the machine, that stop the console from telling, that trigger what is not a dump, or that are not dom0's.
const LEFT_OUT: &str = "RCNA%+-GTOK";

/// Nothing of what guests held in their registers and on their stacks.
pub fn consoles(dom0: &mut Dom0) -> Verdict {
    let shown = show(dom0)?;
    demand!(
        shown.running + shown.paused + shown.crashed == 0,
        "Xen's console shows guests' registers: {shown}"
    );
    Ok(shown.to_string())
}

/// All of it.
pub fn canary(dom0: &mut Dom0) -> Verdict {
    let shown = show(dom0)?;
    demand!(
        shown.running > 0 && shown.paused > 0 && shown.crashed > 0,
        "stock Xen's console does not show guests' registers: {shown}"
    );
    Ok(shown.to_string())
}

/// How often the pattern stood on Xen's console.
struct Shown {
    keys: String,
    running: usize,
    paused: usize,
    crashed: usize,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown {
            keys,
            running,
            paused,
            crashed,
        } = self;
        write!(
            f,
            "pattern shown {running} times by keys {keys} while the guest ran, {paused} times while it was paused, \
             {crashed} times when a guest crashed"
        )
    }
}

fn show(dom0: &mut Dom0) -> Result<Shown, Problem> {
    let mut guest = dom0.create(Spec::new("shown").roles(&[Role::Regs]))?;
    // A CPU of its own, so that what the guest had in its registers stays on that CPU's stack when it is paused.
    dom0.run("xl vcpu-pin 0 all 0; xl vcpu-pin shown all 1")?;
    let keys = keys(dom0)?;
    let every = keys.chars().map(|key| format!("xl debug-keys '{key}'"));
    let every = every.collect::<Vec<_>>().join("; ");
    let (running, _) = shown_by(
        dom0,
        &format!("{every}; for n in $(seq 10); do xl debug-keys d; done"),
    )?;
    let (paused, _) = shown_by(
        dom0,
        &format!(
            "for n in $(seq 5); do xl pause shown; xl debug-keys d; xl unpause shown; sleep 0.3; done; \
             xl pause shown; {every}; xl unpause shown"
        ),
    )?;
    dom0.await_alive(&mut guest)?;
    dom0.run("xl vcpu-pin 0 all all")?;

    dom0.machine().give(&crasher(), "/root/crasher", SHORT)?;
    let config = "name = \"crasher\"\ntype = \"pv\"\nkernel = \"/root/crasher\"\nmemory = 32\non_crash = \"preserve\"\n";
    dom0.run(&format!("cat >/root/crasher.cfg <<'EOF'\n{config}EOF"))?;
    let (crashed, told) = shown_by(
        dom0,
        "xl create -q /root/crasher.cfg; for try in $(seq 50); do \
         xl list crasher | grep -q 'c- ' && exit 0; sleep 0.2; done; xl list; exit 1",
    )?;
    demand!(
        told.contains("crashed on cpu"),
        "Xen's log does not tell of the crash: {told}"
    );
    dom0.run("xl destroy crasher; rm /root/crasher")?;
    Ok(Shown {
        keys,
        running,
        paused,
        crashed,
    })
}

/// How often the pattern comes up on Xen's console, serial line and ring, while a command runs; and what the ring holds.
fn shown_by(dom0: &mut Dom0, command: &str) -> Result<(usize, String), Problem> {
    dom0.xen_log()?;
    let before = dom0.machine().console().len();
    dom0.run_for(command, LONG)?;
    let ring = dom0.xen_log()?;
    let console = dom0.machine().console();
    // The varying half-word is the last four digits.
    let digits = &format!("{:016x}", pattern::general(0))[..12];
    let serial = console.get(before..).unwrap_or(&console);
    let count = serial.matches(digits).count().max(ring.matches(digits).count());
    Ok((count, ring))
}

/// The keys that this Xen knows.
fn keys(dom0: &mut Dom0) -> Result<String, Problem> {
    dom0.xen_log()?;
    dom0.run("xl debug-keys h")?;
    let log = dom0.xen_log()?;
    // " key 'd' (ascii '64') => dump registers"
    let keys: String = log
        .lines()
        .filter_map(|line| line.split_once(" key '")?.1.chars().next())
        .filter(|key| !LEFT_OUT.contains(*key))
        .collect();
    demand!(
        ["0", "d", "q", "*"].iter().all(|key| keys.contains(key)),
        "Xen's help names only the keys {keys}"
    );
    Ok(keys)
}

/// A kernel that puts the pattern into registers and on its stack, and then does what it has no handler for.
fn crasher() -> Vec<u8> {
    const ADDRESS: u64 = 0xffff_ffff_8010_0000;
    const BASE: u64 = 0xffff_ffff_8000_0000;
    let mut code = Vec::new();
    for n in 0..8 {
        // mov r8+n, imm64
        code.extend([0x49, 0xb8 + n]);
        code.extend(pattern::general(n).to_le_bytes());
    }
    for n in (0..8).cycle().take(64) {
        // push r8+n
        code.extend([0x41, 0x50 + n]);
    }
    code.extend([0x0f, 0x0b]); // ud2

    // Xen's `public/elfnote.h`: number and value.
    let notes: Vec<u8> = [
        (1, ADDRESS.to_le_bytes().to_vec()), // entry
        (3, BASE.to_le_bytes().to_vec()),    // virtual base
        (4, 0u64.to_le_bytes().to_vec()),    // of physical addresses in the file
        (5, b"xen-3.0\0".to_vec()),
        (6, b"crasher\0".to_vec()),
        (8, b"generic\0".to_vec()), // loader
    ]
    .into_iter()
    .flat_map(|(number, value)| {
        let head: [u32; 3] = [4, value.len() as u32, number];
        let head: Vec<u8> = head.into_iter().flat_map(u32::to_le_bytes).collect();
        [head, b"Xen\0".to_vec(), value].concat()
    })
    .collect();

    // ELF-64: header, two program headers, notes, code.
    const HEADERS: u64 = 64 + 2 * 56;
    let segment = |kind: u32, flags: u32, words: [u64; 6]| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(flags.to_le_bytes());
        bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
        bytes
    };
    let code_at = HEADERS + notes.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64, version 1.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend([ADDRESS, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    // Flags; sizes and numbers of headers: no sections.
    elf.extend([0; 4]);
    elf.extend([64u16, 56, 2, 64, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    let size = code.len() as u64;
    elf.extend(segment(1, 7, [code_at, ADDRESS, ADDRESS - BASE, size, size, 1]));
    let size = notes.len() as u64;
    elf.extend(segment(4, 4, [HEADERS, 0, 0, size, size, 4]));
    [elf, notes, code].concat()
}
