//! Launch measurement of a new domain.
//!
//! One first unpause at a time measures a domain, and nothing else touches the state: no lock is needed.

use core::slice;

use vmcrypt_core::Pfn;
use vmcrypt_core::measure::{LaunchKind, Section};

use crate::domain::{VmcDomain, locked};

/// Begins a launch measurement.
///
/// # Safety
/// `domain` went through [`vmc_domain_init`](crate::domain::vmc_domain_init), and nobody else measures it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_measure_begin(domain: *mut VmcDomain, pages: u64, vcpus: u64) {
    // SAFETY: by the caller's promise.
    unsafe { locked(domain) }.measurement.begin(pages, vcpus);
}

/// Takes in a section; false if there is no such one.
///
/// # Safety
/// As for [`vmc_measure_begin`]; `content` is valid for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_measure_add(
    domain: *mut VmcDomain,
    section: u32,
    content: *const u8,
    len: usize,
) -> bool {
    // SAFETY: by the caller's promise.
    let (domain, content) = unsafe { (locked(domain), slice::from_raw_parts(content, len)) };
    Section::from_number(section).is_some_and(|section| {
        domain.measurement.add(section, content);
        true
    })
}

/// Takes in a page; false if there is no such kind.
///
/// # Safety
/// As for [`vmc_measure_begin`]; `content` is a page that nobody changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_measure_page(
    domain: *mut VmcDomain,
    pfn: u64,
    kind: u32,
    content: *const [u8; 4096],
) -> bool {
    // SAFETY: by the caller's promise.
    let (domain, content) = unsafe { (locked(domain), &*content) };
    LaunchKind::from_number(kind).is_some_and(|kind| {
        domain.measurement.page(Pfn(pfn), kind, content);
        true
    })
}

/// Ends the launch measurement.
///
/// # Safety
/// As for [`vmc_measure_begin`]; `value` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_measure_end(domain: *mut VmcDomain, value: *mut [u8; 32]) {
    // SAFETY: by the caller's promise.
    unsafe { *value = locked(domain).measurement.finish() };
}
