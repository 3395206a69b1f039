//! Which pages dom0 may see in clear.

use core::slice;
use core::sync::atomic::AtomicU64;

use vmcrypt_core::p2m::{self, LEAF_ENTRIES, M2p};
use vmcrypt_core::{Pfn, PlainClass};

use crate::domain::{VmcDomain, locked};

/// Takes note that page `pfn` is of plain class `class` from now on; true if it was private.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_plain_gain(domain: *mut VmcDomain, pfn: u64, class: u32) -> bool {
    // SAFETY: by the caller's promise.
    let domain = unsafe { locked(domain) };
    if let Some(class) = PlainClass::from_number(class)
        && domain.plain().insert(Pfn(pfn))
    {
        domain.control.plain_gained(class);
        let own = domain.accounts();
        own.control.forget_page(Pfn(pfn), false, own.exported, own.tags);
        return true;
    }
    false
}

/// Takes note that page `pfn`, of `class` so far, is private from now on.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_plain_lose(domain: *mut VmcDomain, pfn: u64, class: u32) {
    // SAFETY: by the caller's promise.
    lose(unsafe { locked(domain) }, Pfn(pfn), class);
}

pub(crate) fn lose(domain: &mut VmcDomain, pfn: Pfn, class: u32) {
    if let Some(class) = PlainClass::from_number(class)
        && domain.plain().remove(pfn)
    {
        domain.control.plain_lost(class);
        let own = domain.accounts();
        own.control.forget_page(pfn, true, own.exported, own.tags);
    }
}

/// Whether page `pfn` is noted as plain.
///
/// # Safety
/// As for [`vmc_page_begin`](crate::page::vmc_page_begin).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_plain_has(domain: *mut VmcDomain, pfn: u64) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.plain().contains(Pfn(pfn))
}

/// Whether `leaf` is a P2M leaf, for the PFNs from `base` on unless that is all ones, judged by the M2P of
/// `mfns` entries.
///
/// # Safety
/// `leaf` holds 512 entries that do not change during the call; `m2p` holds `mfns` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_p2m_is_leaf(leaf: *const u64, base: u64, m2p: *const u64, mfns: u64) -> bool {
    // SAFETY: by the caller's promise.
    let (leaf, m2p) = unsafe {
        (
            &*leaf.cast::<[u64; LEAF_ENTRIES]>(),
            slice::from_raw_parts(m2p.cast::<AtomicU64>(), mfns as usize),
        )
    };
    p2m::is_leaf(leaf, (base != u64::MAX).then_some(Pfn(base)), M2p(m2p))
}

/// PFNs below this number are saved of a guest whose P2M covers those below `end`; the last page table that maps it and
/// differs from the one before it is number `change`, the last of all stands in `slot` of the table above.
#[unsafe(no_mangle)]
pub extern "C" fn vmc_p2m_saved_end(end: u64, change: u64, slot: u64) -> u64 {
    p2m::saved_end(end, change, slot)
}
