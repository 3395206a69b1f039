//! What the Rust part needs from Xen.

use vmcrypt_core::entropy::Source;

/// Functions that Xen provides.
#[cfg(vmc_bare)]
pub mod xen {
    unsafe extern "C" {
        /// Draws 64 bits from RDSEED or RDRAND; false if the hardware gave none.
        pub fn vmc_c_random(word: *mut u64) -> bool;
        /// The time stamp counter.
        pub fn vmc_c_cycles() -> u64;
        /// Stops the machine: an impossible state was reached.
        pub fn vmc_c_panic() -> !;
    }

    /// Reached only if the compiler could not prove a check superfluous; the link gate lists how often.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        // SAFETY: takes nothing, never returns.
        unsafe { vmc_c_panic() }
    }
}

/// The machine's generator and clock.
pub struct Machine;

#[cfg(vmc_bare)]
impl Source for Machine {
    fn word(&mut self) -> Option<u64> {
        let mut word = 0;
        // SAFETY: `word` lives through the call.
        unsafe { xen::vmc_c_random(&mut word) }.then_some(word)
    }

    fn cycles(&mut self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { xen::vmc_c_cycles() }
    }
}

/// On a development host: the standard library's per-process random state, and no clock.
#[cfg(not(vmc_bare))]
impl Source for Machine {
    fn word(&mut self) -> Option<u64> {
        use std::hash::{BuildHasher, Hasher, RandomState};
        Some(RandomState::new().build_hasher().finish())
    }

    fn cycles(&mut self) -> u64 {
        0
    }
}
