//! The sealed record, written at export and read at restore.

use core::slice;

use vmcrypt_core::domain::Digests;
use vmcrypt_core::ids::{KeyId, SessionId};
use vmcrypt_core::record::{self, FACTS, Facts, HEADER, Header, STATES, TAG};
use vmcrypt_core::seal::{Opener, SealTag, Sealer};
use vmcrypt_core::{Pfn, PfnSet, Refusal};
use zeroize::Zeroize;

use crate::domain::{VmcDomain, locked};
use crate::{Verdict, host, key, stack, verdict};

/// Offset of the states in a record.
pub const VMC_RECORD_STATES: usize = 320;
const _: () = assert!(VMC_RECORD_STATES == STATES && STATES == HEADER + FACTS);

/// What a record says about its domain.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmcFacts {
    /// Domain handle.
    pub uuid: [u8; 16],
    /// Pages that the domain owns.
    pub pages: u64,
    /// Those among them whose content the record does not bind: rings and P2M leaves. Not recorded.
    pub unbound: u64,
    /// PFNs are below this number.
    pub pfns: u64,
    /// The `start_info` page.
    pub start_info: u64,
    /// Console ring.
    pub console: u64,
    /// Xenstore ring.
    pub store: u64,
    /// Root of the page tables in which the P2M is mapped.
    pub p2m_root: u64,
    /// Guest virtual address of the P2M.
    pub p2m_address: u64,
    /// The P2M covers PFNs below this number.
    pub p2m_end: u64,
    /// Launch measurement.
    pub measurement: [u8; 32],
    /// Number of states.
    pub states: u32,
    /// Bytes of one state.
    pub state_size: u32,
    /// Session of the pages.
    pub session: SessionId,
    /// Number of the record in its session: the last one of a suspend is the good one.
    pub sequence: u64,
}

/// Largest number of bytes that the domain's record can take.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_capacity(domain: *mut VmcDomain, states: u32, state_size: u32) -> u64 {
    // SAFETY: by the caller's promise.
    record::capacity(unsafe { locked(domain) }.pfns(), states, state_size)
}

/// Whether `bytes` begin like a record of any version.
///
/// # Safety
/// `bytes` is valid for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_is(bytes: *const u8, len: usize) -> bool {
    // SAFETY: by the caller's promise.
    Header::is_record(unsafe { slice::from_raw_parts(bytes, len) })
}

/// Seals the record in `buffer`, where the states stand already, and gives its size through
/// `size`, its session and number through `facts`.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin); `buffer` is Xen's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_seal(
    domain: *mut VmcDomain,
    facts: *mut VmcFacts,
    buffer: *mut u8,
    capacity: usize,
    size: *mut usize,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, facts, buffer, size) = unsafe {
        (
            locked(domain),
            &mut *facts,
            slice::from_raw_parts_mut(buffer, capacity),
            &mut *size,
        )
    };
    verdict(stack::wiped(|| seal(domain, facts, buffer)).map(|len| *size = len))
}

fn seal(domain: &mut VmcDomain, facts: &mut VmcFacts, buffer: &mut [u8]) -> Result<usize, Refusal> {
    let own = domain.accounts();
    let bound = facts.pages.saturating_sub(facts.unbound);
    let (session, sequence, digests) = own.control.export(bound, own.exported, own.fresh)?;
    facts.session = session;
    facts.sequence = sequence;
    let facts = Facts {
        uuid: facts.uuid,
        pages: facts.pages,
        pfns: domain.pfns(),
        start_info: Pfn(facts.start_info),
        console: Pfn(facts.console),
        store: Pfn(facts.store),
        p2m_root: Pfn(facts.p2m_root),
        p2m_address: facts.p2m_address,
        p2m_end: facts.p2m_end,
        digests,
        measurement: facts.measurement,
        states: facts.states,
        state_size: facts.state_size,
        boot: host::key().key_id(),
    };
    let total = facts.write(buffer, domain.plain()).ok_or(Refusal::RecordSize)?;
    let header = Header {
        total: total as u64,
        key: domain.key_id(),
        epoch: domain.owner.map_or(0, |owned| owned.epoch),
        session,
        sequence,
    };
    header.write(buffer).ok_or(Refusal::RecordSize)?;
    let (clear, rest) = buffer.split_at_mut_checked(HEADER).ok_or(Refusal::RecordSize)?;
    let (body, tag) = rest
        .get_mut(..total.saturating_sub(HEADER))
        .and_then(|sealed| sealed.split_last_chunk_mut::<TAG>())
        .ok_or(Refusal::RecordSize)?;
    let mut sealer = Sealer::empty();
    sealer.begin(domain.keys.record(), sequence, clear);
    sealer.update(body);
    *tag = sealer.finish().0;
    host::intact()?;
    Ok(total)
}

/// Opens the record in `buffer`, which must belong to the domain with handle `uuid`, in place: afterwards
/// its parts stand there in clear. The domain's keys
/// are those of the record's session from now on, and it is under the key that the record was sealed under. After
/// [`Refusal::RecordDomain`] `facts` says whose record it is.
///
/// # Safety
/// As for [`vmc_domain_own`](crate::key::vmc_domain_own); `buffer` is Xen's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_open(
    domain: *mut VmcDomain,
    uuid: *const [u8; 16],
    buffer: *mut u8,
    len: usize,
    facts: *mut VmcFacts,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, uuid, buffer, out) = unsafe {
        (
            locked(domain),
            &*uuid,
            slice::from_raw_parts_mut(buffer, len),
            &mut *facts,
        )
    };
    let opened = stack::wiped(|| open(domain, uuid, buffer, &mut out.uuid));
    if opened.is_err() {
        domain.forget_record();
    }
    verdict(opened.map(|facts| *out = facts))
}

fn open(
    domain: &mut VmcDomain,
    uuid: &[u8; 16],
    buffer: &mut [u8],
    recorded: &mut [u8; 16],
) -> Result<VmcFacts, Refusal> {
    domain.forget_record();
    let header = Header::read(buffer)?;
    take_key(domain, uuid, header.key)?;
    decrypt(domain, &header, buffer)?;
    let facts = Facts::open(buffer)?;
    *recorded = facts.uuid;
    if facts.uuid != *uuid {
        return Err(Refusal::RecordDomain);
    }
    domain.foreign = facts.boot != host::key().key_id();
    admitted(domain, uuid, &facts.measurement)?;
    Ok(VmcFacts {
        uuid: facts.uuid,
        pages: facts.pages,
        unbound: 0,
        pfns: facts.pfns,
        start_info: facts.start_info.0,
        console: facts.console.0,
        store: facts.store.0,
        p2m_root: facts.p2m_root.0,
        p2m_address: facts.p2m_address,
        p2m_end: facts.p2m_end,
        measurement: facts.measurement,
        states: facts.states,
        state_size: facts.state_size,
        session: header.session,
        sequence: header.sequence,
    })
}

/// Opens the record under the key that the domain is under, in a stack frame of its own.
#[inline(never)]
fn decrypt(domain: &mut VmcDomain, header: &Header, buffer: &mut [u8]) -> Result<(), Refusal> {
    let (clear, rest) = buffer.split_at_mut_checked(HEADER).ok_or(Refusal::RecordSize)?;
    let (body, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(Refusal::RecordSize)?;
    domain.derive(&header.session);
    let mut opener = Opener::empty();
    opener.begin(domain.keys.record(), header.sequence, clear);
    opener.check(body);
    opener
        .verify(&SealTag(*tag))
        .and_then(|()| opener.open(body))
        .map_err(|_| Refusal::RecordChanged)?;
    host::intact()
}

/// Puts the domain under the key that a record names, the host's or its owner's.
#[inline(never)]
fn take_key(domain: &mut VmcDomain, uuid: &[u8; 16], id: KeyId) -> Result<(), Refusal> {
    if id != host::key().key_id() {
        // SAFETY: by the promise of the caller of `vmc_record_open`.
        domain.owner = Some(unsafe { key::ring() }.reopen(uuid, id, &mut domain.root)?);
    }
    Ok(())
}

/// Whether the owner of a domain that was launched as `measurement` lets it have his key; without an owner it needs none.
fn admitted(domain: &VmcDomain, uuid: &[u8; 16], measurement: &[u8; 32]) -> Result<(), Refusal> {
    match domain.owner {
        // SAFETY: by the promise of the caller of `vmc_record_open`.
        Some(_) => unsafe { key::ring() }.admits(uuid, measurement),
        None => Ok(()),
    }
}

/// Forgets the record that was opened: it will not be restored.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_forget(domain: *mut VmcDomain) {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.forget_record();
}

/// Begins a restore: decodes the recorded set of plain pages into `words`, and starts the digests anew.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin); `buffer` was opened; `words` holds `count` zero words of Xen's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_begin(
    domain: *mut VmcDomain,
    buffer: *const u8,
    len: usize,
    words: *mut u64,
    count: usize,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, buffer, words) = unsafe {
        (
            locked(domain),
            slice::from_raw_parts(buffer, len),
            slice::from_raw_parts(words.cast(), count),
        )
    };
    domain.restored = Digests::EMPTY;
    verdict(stack::wiped(|| {
        Facts::read(buffer).and_then(|facts| facts.read_plain(buffer, PfnSet::new(words)))
    }))
}

/// Compares the plain pages that were restored with those that were exported.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin); `buffer` was opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_verify_plain(
    domain: *mut VmcDomain,
    buffer: *const u8,
    len: usize,
) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, buffer) = unsafe { (locked(domain), slice::from_raw_parts(buffer, len)) };
    verdict(stack::wiped(|| {
        Facts::read(buffer).and_then(|facts| {
            let same = facts.digests.plain == domain.restored.plain;
            same.then_some(()).ok_or(Refusal::TablesDiffer)
        })
    }))
}

/// Compares the private pages that were restored with those that were exported, and wipes the keys.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin); `buffer` was opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_record_verify(domain: *mut VmcDomain, buffer: *const u8, len: usize) -> Verdict {
    // SAFETY: by the caller's promise.
    let (domain, buffer) = unsafe { (locked(domain), slice::from_raw_parts(buffer, len)) };
    domain.keys.zeroize();
    verdict(stack::wiped(|| {
        Facts::read(buffer).and_then(|facts| {
            let same = facts.digests == domain.restored;
            same.then_some(()).ok_or(Refusal::PagesDiffer)
        })
    }))
}
