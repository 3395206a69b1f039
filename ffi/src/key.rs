//! The keys of domains' owners.
//!
//! Everything here, and what looks into the keyring elsewhere, is called with Xen's lock around the keyring held;
//! it is taken before a domain's.

use core::cell::UnsafeCell;
use core::slice;

use vmcrypt_core::Refusal;
use vmcrypt_core::abi::KeyLoad;
use vmcrypt_core::keyring::{Keyring, Owners};
use vmcrypt_core::keys::RootKey;
use vmcrypt_core::sealed_key::SealedKey;
use zeroize::Zeroize;

use crate::domain::{VmcDomain, locked};
use crate::{Verdict, host, stack, verdict};

struct Guarded<T>(UnsafeCell<T>);

// SAFETY: reached by one CPU at a time, which holds Xen's lock around the keyring, or is the only one yet.
unsafe impl<T> Sync for Guarded<T> {}

static KEYRING: Guarded<Keyring> = Guarded(UnsafeCell::new(Keyring::new()));
static OWNERS: Guarded<Owners> = Guarded(UnsafeCell::new(Owners::new()));

/// Names an owner whose keys are taken, by the 64 hexadecimal digits of his public key; false if `text` is something else,
/// or one owner too many.
///
/// # Safety
/// `text` is valid for `len` bytes. Called at boot, before the first domain is created.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_owner_add(text: *const u8, len: usize) -> bool {
    // SAFETY: by the caller's promise.
    let (owners, text) = unsafe { (&mut *OWNERS.0.get(), slice::from_raw_parts(text, len)) };
    owners.add(text).is_some()
}

/// Takes the sealed key in `load` into the keyring, and notes the answer there.
///
/// # Safety
/// `load` is Xen's own; the caller holds the lock around the keyring.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_key_load(load: *mut KeyLoad) -> Verdict {
    // SAFETY: by the caller's promise.
    let load = unsafe { &mut *load };
    load.refusal = verdict(stack::wiped(|| take(load)));
    load.refusal
}

fn take(load: &KeyLoad) -> Result<(), Refusal> {
    let bytes = load.bytes.get(..load.size as usize).ok_or(Refusal::KeyFormat)?;
    let sealed = SealedKey::read(bytes)?;
    // SAFETY: by the promise of the caller of `vmc_key_load`.
    let owners = unsafe { &*OWNERS.0.get() };
    if !owners.has(&sealed.header().owner) {
        return Err(Refusal::KeyOwner);
    }
    let mut root = RootKey::empty();
    sealed.open(host::pair(), &mut root)?;
    // SAFETY: as above.
    unsafe { ring() }.load(sealed.header(), &root)
}

/// Forgets every owner's key.
///
/// # Safety
/// Called when the machine goes down; nobody else is in the keyring.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_keyring_wipe() {
    // SAFETY: by the caller's promise.
    unsafe { ring() }.zeroize();
}

/// Decides which key a fresh domain begins its life under: its owner's, if he gave one for its handle, or the host's.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin); the caller holds the lock around the keyring.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_own(
    domain: *mut VmcDomain,
    uuid: *const [u8; 16],
    measurement: *const [u8; 32],
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, uuid, measurement, ring) = unsafe { (locked(domain), &*uuid, &*measurement, ring()) };
    domain.disown();
    let key = ring.begin(uuid, measurement, &mut domain.root);
    verdict(key.map(|key| domain.owner = key))
}

/// Whether a record may be restored that Xen does not know to be the domain's latest, and to be restored for the first
/// time. It may by its owner's leave alone: always, if he allows many restores, else as often as he says and if another
/// boot sealed it; `done` counts it.
///
/// # Safety
/// As for [`vmc_domain_own`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_unvouched(
    domain: *mut VmcDomain,
    uuid: *const [u8; 16],
    done: bool,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, uuid, ring) = unsafe { (locked(domain), &*uuid, ring()) };
    verdict(match domain.owner {
        Some((_, policy)) if policy.restores == 0 => Ok(()),
        Some((id, _)) if domain.foreign => ring.restore(uuid, id, done),
        _ => Err(Refusal::Spent),
    })
}

/// The keyring.
///
/// # Safety
/// The caller holds the lock around it, and no other reference to it.
pub(crate) unsafe fn ring() -> &'static mut Keyring {
    // SAFETY: by the caller's promise.
    unsafe { &mut *KEYRING.0.get() }
}
