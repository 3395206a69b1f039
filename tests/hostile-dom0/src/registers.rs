//! A guest's registers, read and written.

use crate::calls::errno;
use anyhow::Result;
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::pattern;
use vmcrypt_tools::hypercall::{Buffer, Error, Privcmd};
use vmcrypt_tools::xen::{DomId, HYPERVISOR_DOMCTL, domctl};

/// Reads them again and again, hunting for the test guest's pattern.
pub fn watch(xen: &Privcmd, domain: DomId, reads: u32) -> Result<Value> {
    let (mut general, mut vector, mut refused) = (0, 0, 0);
    for _ in 0..reads {
        match get_context(xen, domain) {
            Ok(context) => general += u32::from(pattern::count(&context.bytes(0, CONTEXT_BYTES)) > 0),
            Err(Error::Refused { .. }) => refused += 1,
            Err(other) => return Err(other.into()),
        }
        match get_xsave(xen, domain) {
            Ok(state) => vector += u32::from(pattern::count(&state) > 0),
            Err(Error::Refused { .. }) => refused += 1,
            Err(other) => return Err(other.into()),
        }
        sleep(Duration::from_millis(2));
    }
    Ok(json!({ "reads": reads, "general": general, "vector": vector, "refused": refused }))
}

pub fn xsave_size(xen: &Privcmd, domain: DomId, difference: i64) -> Result<Value> {
    // A protected guest that runs gives none out: then any bytes will do.
    let state = get_xsave(xen, domain).unwrap_or_else(|_| vec![0; 4096]);
    let size = state.len().saturating_add_signed(difference as isize);
    let mut buffer = xen.buffer(size)?;
    for (i, byte) in state.iter().take(size).enumerate() {
        buffer.put(i, *byte);
    }
    let mut call = domctl(xen, SETVCPUEXTSTATE, domain)?;
    call.put(domctl::BODY + 8, 0u64);
    call.put(domctl::BODY + 16, size as u64);
    call.put(domctl::BODY + 24, buffer.address());
    let result = xen.call(
        "an XSAVE record of the wrong size",
        HYPERVISOR_DOMCTL,
        &[call.address()],
    );
    let mut answer = errno(result.map(drop))?;
    answer["own_size"] = json!(state.len());
    Ok(answer)
}

pub fn set_registers(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    let context = get_context(xen, domain)?;
    set_context(xen, domain, &context)
}

/// Sets vCPU 0's `vcpu_guest_context_t`.
pub fn set_context(xen: &Privcmd, domain: DomId, context: &Buffer) -> Result<(), Error> {
    let mut call = domctl(xen, SETVCPUCONTEXT, domain)?;
    call.put(domctl::BODY + 8, context.address());
    xen.call("new registers", HYPERVISOR_DOMCTL, &[call.address()])
        .map(drop)
}

/// vCPU 0's `vcpu_guest_context_t`.
pub fn get_context(xen: &Privcmd, domain: DomId) -> Result<Buffer, Error> {
    let context = xen.buffer(CONTEXT_BYTES)?;
    let mut call = domctl(xen, GETVCPUCONTEXT, domain)?;
    call.put(domctl::BODY + 8, context.address());
    xen.call("a vCPU's registers", HYPERVISOR_DOMCTL, &[call.address()])?;
    Ok(context)
}

/// vCPU 0's XSAVE record: its size is asked for first, as libxc does.
pub fn get_xsave(xen: &Privcmd, domain: DomId) -> Result<Vec<u8>, Error> {
    let mut call = domctl(xen, GETVCPUEXTSTATE, domain)?;
    xen.call(
        "the size of a vCPU's XSAVE record",
        HYPERVISOR_DOMCTL,
        &[call.address()],
    )?;
    let size = call.get::<u64>(domctl::BODY + 16) as usize;
    let buffer = xen.buffer(size)?;
    call.put(domctl::BODY + 24, buffer.address());
    xen.call("a vCPU's XSAVE record", HYPERVISOR_DOMCTL, &[call.address()])?;
    // It may be shorter than Xen had to ask for.
    let used = call.get::<u64>(domctl::BODY + 16) as usize;
    Ok(buffer.bytes(0, used.min(size)))
}

/// Asks for vCPU 0's XSAVE record, with too little memory for it.
pub fn short_record(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    const SIZE: usize = 64;
    let mut call = domctl(xen, GETVCPUEXTSTATE, domain)?;
    xen.call(
        "the mask of a vCPU's XSAVE record",
        HYPERVISOR_DOMCTL,
        &[call.address()],
    )?;
    let buffer = xen.buffer(SIZE)?;
    call.put(domctl::BODY + 16, SIZE as u64);
    call.put(domctl::BODY + 24, buffer.address());
    xen.call("a vCPU's XSAVE record", HYPERVISOR_DOMCTL, &[call.address()])
        .map(drop)
}

// `xen/include/public/domctl.h` and `arch-x86/xen.h` of Xen 4.20.
const SETVCPUCONTEXT: u32 = 12;
const GETVCPUCONTEXT: u32 = 13;
const SETVCPUEXTSTATE: u32 = 62;
const GETVCPUEXTSTATE: u32 = 63;
/// `sizeof(vcpu_guest_context_t)` on x86-64.
const CONTEXT_BYTES: usize = 5168;
