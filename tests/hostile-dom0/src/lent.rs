//! dom0's own vector registers, which Xen borrows whenever dom0 maps a page: filled with a pattern before the system call
//! that maps, looked at after it.
//!
//! The kernel leaves them alone meanwhile: Linux saves them only when it runs another program.
#![allow(unsafe_code)] // Only inline assembly can say what is in which register across a system call.

use std::arch::{asm, is_x86_feature_detected};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::{io, ptr};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vmcrypt_guest::pattern;
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::xen::{DomId, Frame};

const REGISTERS: usize = 16;

/// Content of all registers: two lanes of 64 bits are SSE's, two AVX's upper half.
#[repr(C, align(32))]
#[derive(Clone, PartialEq, Eq)]
struct Registers([[u64; 4]; REGISTERS]);

/// `struct privcmd_mmapbatch_v2` of Linux (`include/uapi/xen/privcmd.h`).
#[repr(C)]
struct MmapBatch {
    num: u32,
    dom: u16,
    addr: u64,
    frames: *const u64,
    errors: *mut i32,
}

/// Maps these frames one after the other, and tells how often a register came back changed.
pub fn over_maps(domain: DomId, frames: &[Frame], rounds: u32) -> Result<Value> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/xen/privcmd")?;
    let avx = is_x86_feature_detected!("avx");
    let lanes = if avx { 4 } else { 2 };
    let mut wanted = Registers([[0; 4]; REGISTERS]);
    for (n, register) in (0u8..).zip(&mut wanted.0) {
        for (lane, value) in (0u8..).zip(register).take(lanes) {
            *value = pattern::vector(n, lane);
        }
    }
    let (mut mapped, mut changed, mut example) = (0u64, 0u64, None);
    for _ in 0..rounds {
        for frame in frames {
            let mut seen = wanted.clone();
            mapped += u64::from(map(&device, domain, *frame, avx, &mut seen)?);
            if seen != wanted {
                changed += 1;
                example.get_or_insert_with(|| differing(&wanted, &seen));
            }
        }
    }
    Ok(json!({ "mapped": mapped, "changed": changed, "avx": avx, "example": example }))
}

/// Register, lane, and what is there instead.
fn differing(wanted: &Registers, seen: &Registers) -> Vec<(usize, usize, String)> {
    let lanes = (0..REGISTERS).flat_map(|n| (0..4).map(move |lane| (n, lane)));
    lanes
        .filter(|&(n, lane)| wanted.0[n][lane] != seen.0[n][lane])
        .map(|(n, lane)| (n, lane, format!("{:#x}", seen.0[n][lane])))
        .collect()
}

/// Maps a frame while the registers hold `registers`, stores there what they hold afterwards, and unmaps it.
fn map(device: &File, domain: DomId, frame: Frame, avx: bool, registers: &mut Registers) -> Result<bool> {
    let fd = device.as_raw_fd();
    // SAFETY: a mapping of a length and place that nobody else has.
    let memory = unsafe { libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
    ensure!(
        memory != libc::MAP_FAILED,
        "mapping the device: {}",
        io::Error::last_os_error()
    );
    let mut error = 0;
    let batch = MmapBatch {
        num: 1,
        dom: domain.0,
        addr: memory as u64,
        frames: &frame.0,
        errors: &mut error,
    };
    let request = (size_of::<MmapBatch>() as u64) << 16 | u64::from(b'P') << 8 | 4;
    let result = if avx {
        ioctl_avx(fd, request, &batch, registers)
    } else {
        ioctl_sse(fd, request, &batch, registers)
    };
    // SAFETY: mapped above, and used by nobody.
    unsafe { libc::munmap(memory, PAGE) };
    Ok(result == 0 && error == 0)
}

/// Defines a system call around which every vector register is loaded and stored. `$mov` moves one.
macro_rules! ioctl {
    ($name:ident, $mov:literal, $register:literal, $after:literal) => {
        fn $name(fd: i32, request: u64, batch: &MmapBatch, registers: &mut Registers) -> i64 {
            let result: i64;
            // SAFETY: the driver reads one frame number and writes one answer, which live in the caller; r8 points to
            // live registers and is kept by the kernel; all that changes is declared.
            unsafe {
                asm!(
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($mov, " ", $register, "\\n, [r8 + 32 * \\n]"),
                    ".endr",
                    "syscall",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($mov, " [r8 + 32 * \\n], ", $register, "\\n"),
                    ".endr",
                    $after,
                    inout("rax") libc::SYS_ioctl => result,
                    in("rdi") i64::from(fd),
                    in("rsi") request,
                    in("rdx") ptr::from_ref(batch),
                    in("r8") registers,
                    out("rcx") _, out("r11") _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
            result
        }
    };
}

ioctl!(ioctl_sse, "movups", "xmm", "");
ioctl!(ioctl_avx, "vmovups", "ymm", "vzeroupper");
