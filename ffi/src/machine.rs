//! What of the machine itself dom0 may have.

use vmcrypt_core::doors;
use vmcrypt_core::machine::{self, Frames, Right};

/// Whole pages of RAM from 1 MiB on.
pub const VMC_FRAMES_RAM: u32 = 1;
/// What CPUs run when they come up.
pub const VMC_FRAMES_TRAMPOLINE: u32 = 2;
/// What Xen calls of the firmware.
pub const VMC_FRAMES_FIRMWARE: u32 = 4;
/// No right to frames.
pub const VMC_RIGHT_NOTHING: u32 = 0;
/// The right to read them.
pub const VMC_RIGHT_READ: u32 = 1;
/// The right to read and to write them.
pub const VMC_RIGHT_ALL: u32 = 2;
/// The bit that puts the machine to sleep, in the byte that has it.
pub const VMC_SLEEP_ENABLE: u8 = 32;

// The generator of the C header sees constants of this crate alone.
const _: () = assert!(
    VMC_FRAMES_RAM == Frames::RAM.0
        && VMC_FRAMES_TRAMPOLINE == Frames::TRAMPOLINE.0
        && VMC_FRAMES_FIRMWARE == Frames::FIRMWARE.0
        && VMC_RIGHT_NOTHING == Right::Nothing as u32
        && VMC_RIGHT_READ == Right::Read as u32
        && VMC_RIGHT_ALL == Right::All as u32
        && VMC_SLEEP_ENABLE == machine::SLEEP_ENABLE
);

/// Whether `operation` of the hypercall `family` is denied the frames at which `frames` lies, whoever its target is.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_door_denies_frames(family: u32, operation: u64, frames: u32) -> bool {
    doors::denies_frames(family, operation, Frames(frames))
}

/// What dom0 may do with frames at which `frames` lies.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_machine_right(frames: u32) -> u32 {
    Frames(frames).right() as u32
}
