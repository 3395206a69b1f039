//! Patterns held in CPU registers while the clock runs, and looked at afterwards.
#![allow(unsafe_code)] // Inline assembly is the only way to say which value is in which register.

use super::heartbeat;
use anyhow::{Result, ensure};
use std::arch::{asm, is_x86_feature_detected};
use vmcrypt_guest::{Role, pattern};

const GENERAL: usize = 8;
const VECTORS: usize = 16;
/// Long enough that the process is in the loop at nearly every instant, short enough for a heartbeat a second.
const SPINS: u64 = 30_000_000;

pub fn play() -> Result<()> {
    let avx = is_x86_feature_detected!("avx");
    let wanted = Registers::pattern();
    heartbeat(Role::Regs, |round| {
        let mut seen = wanted.clone();
        if avx {
            hold_avx(&mut seen)
        } else {
            hold_sse(&mut seen)
        }
        let general = differing(&wanted.general, &seen.general);
        let lanes = differing(wanted.vector.as_flattened(), seen.vector.as_flattened());
        ensure!(
            general.is_empty() && lanes.is_empty(),
            "changed general registers {general:x?}, vector lanes {lanes:x?}"
        );
        Ok(format!("checks={} avx={avx}", round + 1))
    })
}

/// Memory from which the registers are loaded and to which they are stored back.
#[derive(Clone)]
#[repr(C, align(32))]
struct Registers {
    vector: [[u64; 4]; VECTORS],
    general: [u64; GENERAL],
}

impl Registers {
    fn pattern() -> Self {
        let mut registers = Registers {
            vector: [[0; 4]; VECTORS],
            general: [0; GENERAL],
        };
        for (n, value) in registers.general.iter_mut().enumerate() {
            *value = pattern::general(n as u8);
        }
        for (n, lanes) in registers.vector.iter_mut().enumerate() {
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = pattern::vector(n as u8, lane as u8);
            }
        }
        registers
    }
}

/// Index, wanted and seen value of every difference.
fn differing(wanted: &[u64], seen: &[u64]) -> Vec<(usize, u64, u64)> {
    let pairs = wanted.iter().zip(seen).enumerate();
    pairs
        .filter(|(_, (w, s))| w != s)
        .map(|(i, (w, s))| (i, *w, *s))
        .collect()
}

/// Loads every register, spins, stores every register. `$mov` moves a vector register.
macro_rules! hold {
    ($registers:expr, $mov:literal, $reg:literal) => {
        // SAFETY: rdi points to a live, aligned `Registers`; every register touched is declared; no stack is used.
        unsafe {
            asm!(
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                concat!($mov, " ", $reg, "\\n, [rdi + 32 * \\n]"),
                ".endr",
                ".irp n, 8,9,10,11,12,13,14,15",
                "mov r\\n, [rdi + 512 + 8 * (\\n - 8)]",
                ".endr",
                "2:",
                "dec rcx",
                "jnz 2b",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                concat!($mov, " [rdi + 32 * \\n], ", $reg, "\\n"),
                ".endr",
                ".irp n, 8,9,10,11,12,13,14,15",
                "mov [rdi + 512 + 8 * (\\n - 8)], r\\n",
                ".endr",
                in("rdi") $registers,
                inout("rcx") SPINS => _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack),
            )
        }
    };
}

fn hold_sse(registers: &mut Registers) {
    hold!(registers as *mut Registers, "movaps", "xmm");
}

fn hold_avx(registers: &mut Registers) {
    hold!(registers as *mut Registers, "vmovaps", "ymm");
    // SAFETY: AVX is there (the caller asked); clears the upper halves, which no Rust code relies on.
    unsafe { asm!("vzeroupper", options(nomem, nostack)) }
}
