//! What belongs to the machine: the host key, the key pair of this boot and the choice of cipher backend.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use vmcrypt_core::Refusal;
use vmcrypt_core::abi::{self, HostInfo};
use vmcrypt_core::hpke::KeyPair;
use vmcrypt_core::keys::RootKey;
use zeroize::Zeroize;

use crate::imports::Machine;
use crate::{Verdict, stack, verdict};

/// Version of the structures that the hypercall fills.
pub const VMC_INTERFACE_VERSION: u32 = 4;
/// Sub-operation: fill a host information structure.
pub const VMC_OP_HOST_INFO: u32 = 0;
/// Sub-operation: fill a domain information structure.
pub const VMC_OP_DOMAIN_INFO: u32 = 1;
/// Sub-operation: take a sealed key.
pub const VMC_OP_KEY_LOAD: u32 = 2;
/// Mode in which every guest is protected.
pub const VMC_MODE_STRICT: u32 = 2;
/// Sub-operation of every domain: fill an answer about itself.
pub const VMC_OP_ASK: u32 = 3;
/// Room for a sealed key.
pub const KEY_BYTES: usize = 2040;
/// Slots in the counts of plain pages.
pub const PLAIN_CLASSES: usize = 8;
/// Slots in the counts of refusals.
pub const REFUSALS: usize = 64;

// The generator of the C header sees constants of this crate alone.
const _: () = assert!(
    VMC_INTERFACE_VERSION == abi::INTERFACE_VERSION
        && VMC_OP_HOST_INFO == abi::OP_HOST_INFO
        && VMC_OP_DOMAIN_INFO == abi::OP_DOMAIN_INFO
        && VMC_OP_KEY_LOAD == abi::OP_KEY_LOAD
        && VMC_MODE_STRICT == abi::MODE_STRICT
        && VMC_OP_ASK == abi::OP_ASK
        && KEY_BYTES == abi::KEY_BYTES
        && PLAIN_CLASSES == abi::PLAIN_CLASSES
        && REFUSALS == abi::REFUSALS
);

/// Portable page cipher.
pub const VMC_BACKEND_PORTABLE: u32 = 0;
/// Page cipher with AES-NI and PCLMULQDQ.
pub const VMC_BACKEND_AESNI: u32 = 1;
/// Page cipher with VAES on 256 bits, and PCLMULQDQ on half of them at a time.
pub const VMC_BACKEND_HALVES: u32 = 2;
/// Page cipher with VAES and VPCLMULQDQ on 256 bits.
pub const VMC_BACKEND_AVX2: u32 = 3;
/// Page cipher with VAES and VPCLMULQDQ on 512 bits.
pub const VMC_BACKEND_AVX512: u32 = 4;

/// The keys of this boot.
struct HostKeys {
    root: RootKey,
    pair: KeyPair,
}

struct HostCell(UnsafeCell<HostKeys>);

// SAFETY: written by `vmc_host_init` before any second CPU or domain can ask, and by `vmc_host_wipe`, which
// first sees to it that nothing made with what others read in that moment counts.
unsafe impl Sync for HostCell {}

static WIPED: AtomicBool = AtomicBool::new(false);
static KEY: HostCell = HostCell(UnsafeCell::new(HostKeys {
    root: RootKey::empty(),
    pair: KeyPair::empty(),
}));
static BACKEND: AtomicU32 = AtomicU32::new(VMC_BACKEND_PORTABLE);

/// Draws the host key and the key pair of this boot, and takes note of the backend. The `size` bytes at `facts` are
/// what Xen knows of this boot; keys follow from them, too.
///
/// # Safety
/// Called once, at boot, before the first domain is created; `facts` is valid for reads of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_host_init(backend: u32, facts: *const u8, size: usize) -> Verdict {
    vmc_backend_use(backend);
    WIPED.store(false, Ordering::Relaxed);
    // SAFETY: nobody else holds the key yet, by the caller's promise.
    let keys = unsafe { &mut *KEY.0.get() };
    // SAFETY: by the caller's promise.
    let facts = unsafe { core::slice::from_raw_parts(facts, size) };
    // Through memory, and a word of its own: what returns a few bits may have some of the drawn ones beside them.
    let mut answer = 0u64;
    stack::wiped(|| {
        let drawn = keys.root.draw(&mut Machine, facts);
        answer = verdict(drawn.and_then(|()| keys.pair.draw(&mut Machine, facts))).into();
    });
    answer as Verdict
}

/// From now on pages are encrypted by this backend. What is under way goes on with the one before: both must be allowed
/// on the CPUs that are at work.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_backend_use(backend: u32) {
    BACKEND.store(backend, Ordering::Relaxed);
}

/// Wipes the host key and the key pair; from now on nothing is encrypted, sealed or opened. Other CPUs may be at work,
/// and may stop anywhere: what they make of a key that is wiped under them is refused by [`intact`].
///
/// # Safety
/// Called when the machine goes down.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_host_wipe() {
    WIPED.store(true, Ordering::Relaxed);
    // Whoever reads a byte of what follows also reads the flag.
    fence(Ordering::SeqCst);
    // SAFETY: whoever still reads the keys asks `intact()` before the result is used.
    let keys = unsafe { &mut *KEY.0.get() };
    keys.root.zeroize();
    keys.pair.zeroize();
}

/// Whether no key was wiped up to now: asked after keys were used and before anybody sees what came out.
pub(crate) fn intact() -> Result<(), Refusal> {
    fence(Ordering::SeqCst);
    if WIPED.load(Ordering::Relaxed) {
        Err(Refusal::GoingDown)
    } else {
        Ok(())
    }
}

/// Fills what the Rust part knows into `info`; the replica pool is Xen's to add.
///
/// # Safety
/// `info` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_host_describe(info: *mut HostInfo) {
    // SAFETY: by the caller's promise.
    let info = unsafe { &mut *info };
    *info = HostInfo {
        version: VMC_INTERFACE_VERSION,
        mode: 1,
        backend: backend(),
        ..HostInfo::default()
    };
    info.key_id = stack::wiped(|| key().key_id().0);
    info.public_key = pair().public().0;
}

pub(crate) fn key() -> &'static RootKey {
    // SAFETY: after boot the key is only read.
    unsafe { &(*KEY.0.get()).root }
}

/// The key pair of this boot, to which owners seal their keys.
pub(crate) fn pair() -> &'static KeyPair {
    // SAFETY: after boot it is only read.
    unsafe { &(*KEY.0.get()).pair }
}

pub(crate) fn backend() -> u32 {
    BACKEND.load(Ordering::Relaxed)
}
