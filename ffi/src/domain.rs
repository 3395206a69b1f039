//! Life of a protected domain.

use core::mem::{MaybeUninit, size_of};
use core::sync::atomic::AtomicU64;
use core::{ptr, slice};

use vmcrypt_core::abi::{Answer, DomainInfo};
use vmcrypt_core::answer;
use vmcrypt_core::cipher::PageTag;
use vmcrypt_core::domain::{Digests, Domain};
use vmcrypt_core::ids::{KeyId, SessionId};
use vmcrypt_core::keyring::Owned;
use vmcrypt_core::keys::{RootKey, SessionKeys};
use vmcrypt_core::measure::Measurement;
use vmcrypt_core::{PfnSet, Refusal, State};
use zeroize::Zeroize;

use crate::{Verdict, host, stack, verdict};

/// Protection state of one domain. Opaque to C.
pub struct VmcDomain {
    pub(crate) control: Domain,
    /// Keys of the open session, or of the record being restored. Read without the lock while a
    /// page is in flight, changed under the lock when none is.
    pub(crate) keys: SessionKeys,
    /// The owner's key, if there is one.
    pub(crate) root: RootKey,
    /// Which one that is. What its owner allows is in the keyring. None: keys follow from the host key.
    pub(crate) owner: Option<Owned>,
    /// Digests of the pages taken in so far by a restore.
    pub(crate) restored: Digests,
    /// Of a new domain, while its first unpause is under way.
    pub(crate) measurement: Measurement,
    /// The record being restored was sealed in another boot, of this host or another one.
    pub(crate) foreign: bool,
    plain: *const AtomicU64,
    exported: *const AtomicU64,
    fresh: *const AtomicU64,
    tags: *mut PageTag,
    pfns: u64,
}

impl VmcDomain {
    pub(crate) fn plain(&self) -> PfnSet<'_> {
        set(self.plain, self.pfns)
    }

    pub(crate) fn exported(&self) -> PfnSet<'_> {
        set(self.exported, self.pfns)
    }

    /// Pages whose latest content was exported, if they were exported at all.
    pub(crate) fn fresh(&self) -> PfnSet<'_> {
        set(self.fresh, self.pfns)
    }

    pub(crate) const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// Derives the keys of `session` from the key that the domain is under.
    pub(crate) fn derive(&mut self, session: &SessionId) {
        let root = match self.owner {
            Some(_) => &self.root,
            None => host::key(),
        };
        self.keys.derive(root, session);
    }

    /// Identifier of the key that the domain is under.
    pub(crate) fn key_id(&self) -> KeyId {
        self.owner.map_or_else(|| host::key().key_id(), |owned| owned.id)
    }

    /// Puts the domain under the host key.
    pub(crate) fn disown(&mut self) {
        self.owner = None;
        self.root.zeroize();
    }

    /// Forgets what a restore brought: keys, the owner's key, digests.
    pub(crate) fn forget_record(&mut self) {
        self.keys.zeroize();
        self.disown();
        self.restored = Digests::EMPTY;
        self.foreign = false;
    }

    /// The parts that accounting needs, borrowed apart.
    pub(crate) fn accounts(&mut self) -> Accounts<'_> {
        Accounts {
            exported: set(self.exported, self.pfns),
            fresh: set(self.fresh, self.pfns),
            tags: if self.tags.is_null() {
                &mut []
            } else {
                // SAFETY: `vmc_domain_attach` was given that many tags, which live as long as the domain and are
                // reached through it alone.
                unsafe { slice::from_raw_parts_mut(self.tags, self.pfns as usize) }
            },
            control: &mut self.control,
        }
    }
}

/// One of a domain's sets; its lifetime is that of the borrow of the domain at each call.
fn set<'a>(words: *const AtomicU64, pfns: u64) -> PfnSet<'a> {
    PfnSet::new(if words.is_null() {
        &[]
    } else {
        // SAFETY: `vmc_domain_attach` was given that many words, which live as long as the domain.
        unsafe { slice::from_raw_parts(words, PfnSet::words_for(pfns) as usize) }
    })
}

/// What is kept of the pages exported in a session.
pub(crate) struct Accounts<'a> {
    pub control: &'a mut Domain,
    pub exported: PfnSet<'a>,
    pub fresh: PfnSet<'a>,
    pub tags: &'a mut [PageTag],
}

/// The domain behind a pointer from C.
///
/// # Safety
/// `domain` went through [`vmc_domain_init`] and the caller holds its lock.
pub(crate) unsafe fn locked<'a>(domain: *mut VmcDomain) -> &'a mut VmcDomain {
    // SAFETY: by the caller's promise.
    unsafe { &mut *domain }
}

/// Bytes that Xen must provide for one domain, aligned to 16.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_domain_size() -> usize {
    size_of::<VmcDomain>()
}

/// Begins the life of a domain.
///
/// # Safety
/// `domain` is valid for writes of [`vmc_domain_size`] bytes, aligned to 16, and not in use yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_init(domain: *mut VmcDomain) {
    // SAFETY: by the caller's promise.
    let slot = unsafe { &mut *domain.cast::<MaybeUninit<VmcDomain>>() };
    slot.write(
        const {
            VmcDomain {
                control: Domain::new(),
                keys: SessionKeys::empty(),
                root: RootKey::empty(),
                owner: None,
                foreign: false,
                restored: Digests::EMPTY,
                measurement: Measurement::new(),
                plain: ptr::null(),
                exported: ptr::null(),
                fresh: ptr::null(),
                tags: ptr::null_mut(),
                pfns: 0,
            }
        },
    );
}

/// The domain is being destroyed: nothing of it is exported any more. False as long as pages are in flight: come
/// again. Then its keys can be wiped, and its tags, which it no longer uses.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_kill(domain: *mut VmcDomain) -> bool {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    domain.control.enter(State::Dying);
    let quiet = domain.control.is_quiet();
    if quiet {
        domain.tags = ptr::null_mut();
    }
    quiet
}

/// Wipes every key of the domain, and the digests of what was exported or restored.
///
/// # Safety
/// `domain` went through [`vmc_domain_init`]. The lock need not be held if nothing follows, or if the host's key was
/// wiped before: then whoever still uses these keys throws away what comes out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_wipe(domain: *mut VmcDomain) {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    domain.forget_record();
    domain.control.wipe_session();
}

/// Gives the domain the memory that grows with its size: three sets of `pfns` bits each, rounded up to
/// 64, and `pfns` tags. The tags and the last two sets are zero. No memory ends the count of plain pages.
///
/// # Safety
/// The memory is valid until the domain is wiped and reached through the domain alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_attach(
    domain: *mut VmcDomain,
    plain: *mut u64,
    exported: *mut u64,
    fresh: *mut u64,
    tags: *mut u8,
    pfns: u64,
) {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    domain.plain = plain.cast();
    domain.exported = exported.cast();
    domain.fresh = fresh.cast();
    domain.tags = tags.cast();
    domain.pfns = pfns;
    if plain.is_null() {
        domain.control.plain_reset();
    }
}

/// Where the domain is in its life: a [`State`] as a number.
///
/// # Safety
/// `domain` went through [`vmc_domain_init`] and the caller holds its lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_state(domain: *mut VmcDomain) -> u32 {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.control.state() as u32
}

/// Moves the domain to another state; false if there is no such step.
///
/// # Safety
/// As for [`vmc_domain_state`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_enter(domain: *mut VmcDomain, state: u32) -> bool {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    let entered = State::from_number(state).is_some_and(|next| domain.control.enter(next));
    if entered && domain.control.is_quiet() {
        match domain.control.state() {
            // A session that is over needs no keys. Before the domain is sealed they may be those of a record.
            State::Running => domain.keys.zeroize(),
            // What never runs needs none at all.
            State::Refused => {
                domain.forget_record();
                domain.control.wipe_session();
            }
            _ => {}
        }
    }
    entered
}

/// Whether pages were exported that may still become part of a record; ends the session if the domain is `idle`.
///
/// # Safety
/// As for [`vmc_domain_state`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_exporting(domain: *mut VmcDomain, idle: bool) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.control.exporting(idle)
}

/// Counts a refusal, given as its number, and says which errno answers it (positive).
///
/// # Safety
/// As for [`vmc_domain_state`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_refuse(domain: *mut VmcDomain, refusal: u32) -> i32 {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    Refusal::from_number(refusal).map_or(22, |refusal| domain.control.refuse(refusal).errno() as i32)
}

/// Text of a refusal for the log: its length, and the characters through `text`.
///
/// # Safety
/// `text` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_refusal_text(refusal: u32, text: *mut *const u8) -> usize {
    let words = Refusal::from_number(refusal).map_or("", Refusal::text);
    // SAFETY: by the caller's promise.
    unsafe { *text = words.as_ptr() };
    words.len()
}

/// Fills what the Rust part knows into `info`.
///
/// # Safety
/// As for [`vmc_domain_state`]; `info` is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_describe(domain: *mut VmcDomain, info: *mut DomainInfo) {
    // SAFETY: by the caller's promise.
    let (domain, info) = unsafe { (locked(domain), &mut *info) };
    domain.control.describe(info);
    info.owner = domain.owner.map_or([0; 16], |owned| owned.id.0);
}

/// Tells the domain of itself, under its owner's key if it is under one. Its handle, measurement and nonce are in `answer`.
///
/// # Safety
/// As for [`vmc_domain_state`]; `answer` is valid and Xen's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_domain_answer(domain: *mut VmcDomain, answer: *mut Answer) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, answer) = unsafe { (locked(domain), &mut *answer) };
    answer.state = domain.control.state() as u32;
    answer.host = host::pair().public().0;
    answer.owner = [0; 16];
    answer.tag = [0; 32];
    if let Some(owned) = domain.owner {
        answer.owner = owned.id.0;
        stack::wiped(|| answer.tag = answer::tag(&domain.root, answer));
    }
    verdict(host::intact().inspect_err(|_| answer.tag = [0; 32]))
}
