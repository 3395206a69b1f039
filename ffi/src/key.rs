//! The keys of domains' owners.
//!
//! Everything here, and what looks into the keyring elsewhere, is called with Xen's lock around the keyring held;
//! it is taken before a domain's.

use core::cell::UnsafeCell;
use core::slice;

use vmcrypt_core::Refusal;
use vmcrypt_core::abi::KeyLoad;
use vmcrypt_core::attempts::Attempts;
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

/// Puts a domain that was restored from an image under its owner's key under his latest one: what is saved from here on is
/// sealed under that. A domain under the host's key stays there.
///
/// # Safety
/// As for [`vmc_domain_own`]; the record was verified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_renew(
    domain: *mut VmcDomain,
    uuid: *const [u8; 16],
    measurement: *const [u8; 32],
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, uuid, measurement, ring) = unsafe { (locked(domain), &*uuid, &*measurement, ring()) };
    let Some(old) = domain.owner else { return 0 };
    let key = ring.renew(uuid, old.id, measurement, &mut domain.root);
    verdict(key.map(|key| domain.owner = key))
}

/// How far a restore came that the ledger does not vouch for: its record was opened.
pub const VMC_RESTORE_OPENED: u32 = 0;
/// Its pages will be decrypted next.
pub const VMC_RESTORE_BEGINS: u32 = 1;
/// It succeeded.
pub const VMC_RESTORE_DONE: u32 = 2;

/// Whether a record of `pages` pages may be restored that Xen does not know to be the domain's latest, and to be restored
/// for the first time. It may by its owner's leave alone, as the keyring has it at this moment. One that begins is counted
/// as an attempt, one that is done as a restore.
///
/// # Safety
/// As for [`vmc_domain_own`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_unvouched(
    domain: *mut VmcDomain,
    uuid: *const [u8; 16],
    pages: u64,
    stage: u32,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, uuid, ring) = unsafe { (locked(domain), &*uuid, ring()) };
    let Some(owned) = domain.owner else {
        return verdict(Err(Refusal::Spent));
    };
    verdict(match stage {
        VMC_RESTORE_OPENED => ring.may_restore(uuid, owned.id, domain.foreign),
        VMC_RESTORE_BEGINS => ring.try_restore(uuid, owned.id, domain.foreign, pages),
        _ => ring.restored(uuid, owned.id, domain.foreign),
    })
}

/// Counts a restore of a session that begins, and decrypts `pages`; refuses one too many.
///
/// # Safety
/// `attempts` is zero at first, and the caller holds the lock that guards it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_restore_attempt(attempts: *mut Attempts, pages: u64) -> Verdict {
    // SAFETY: by the caller's promise.
    verdict(unsafe { &mut *attempts }.begin(pages))
}

/// The keyring.
///
/// # Safety
/// The caller holds the lock around it, and no other reference to it.
pub(crate) unsafe fn ring() -> &'static mut Keyring {
    // SAFETY: by the caller's promise.
    unsafe { &mut *KEYRING.0.get() }
}
