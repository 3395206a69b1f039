//! What dom0 may ask of Xen beside mapping pages.

use vmcrypt_core::weakness::Weakness;
use vmcrypt_core::{State, doors};

/// The hypercall that debug keys pass for.
pub const VMC_DEBUG_KEYS: u32 = 63;
/// The hypercall that operations of domctl `shadow_op` pass for.
pub const VMC_SHADOW_OPS: u32 = 61;

// The generator of the C header sees constants of this crate alone.
const _: () = assert!(VMC_DEBUG_KEYS == doors::KEYS && VMC_SHADOW_OPS == doors::SHADOW_OPS);

/// Whether `operation` of the hypercall `family` is denied: to dom0 if it concerns a protected domain in `state`, else,
/// `state` being 0, for the machine.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_door_denies(family: u32, operation: u64, state: u32) -> bool {
    doors::denies(family, operation, State::from_number(state))
}

/// Whether `operation` of the hypercall `family` is denied for every domain, protected or not.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_door_denies_all(family: u32, operation: u64) -> bool {
    doors::denies_all(family, operation)
}

/// Name of a hypercall for the log: its length, and the characters through `text`.
///
/// # Safety
/// `text` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_door_name(family: u32, text: *mut *const u8) -> usize {
    let name = doors::name(family);
    // SAFETY: by the caller's promise.
    unsafe { text.write(name.as_ptr()) };
    name.iter().position(|&byte| byte == 0).unwrap_or(name.len())
}

/// Text of a weakness for the log: its length, and the characters through `text`.
///
/// # Safety
/// `text` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_weakness_text(weakness: u32, text: *mut *const u8) -> usize {
    let words = Weakness::from_number(weakness).map_or("", Weakness::text);
    // SAFETY: by the caller's promise.
    unsafe { text.write(words.as_ptr()) };
    words.len()
}
