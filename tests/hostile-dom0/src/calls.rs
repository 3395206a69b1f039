//! Xen's calls as an attacker makes them: any number, any words.
//!
//! Numbers and layouts here and in the attacks: `xen/include/public/` of Xen 4.20.

use serde_json::{Value, json};
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::hypercall::{Buffer, Error, Privcmd};
use vmcrypt_tools::xen::{DomId, Frame, HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP, HYPERVISOR_SYSCTL, domctl};

pub const MMU_UPDATE: u64 = 1;
pub const MULTICALL: u64 = 13;
pub const UPDATE_VA_MAPPING: u64 = 14;
pub const GRANT_TABLE_OP: u64 = 20;
pub const UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
pub const XENOPROF_OP: u64 = 31;
pub const MMUEXT_OP: u64 = 26;
pub const SCHED_OP: u64 = 29;
pub const EVENT_CHANNEL_OP: u64 = 32;
pub const PHYSDEV_OP: u64 = 33;
pub const HVM_OP: u64 = 34;
pub const KEXEC_OP: u64 = 37;
pub const XENPMU_OP: u64 = 40;
pub const DM_OP: u64 = 41;
pub const HYPFS_OP: u64 = 42;
pub const MCA: u64 = 48;
const PLATFORM_OP: u64 = 7;

/// What `mmu_update` does with a word, in the low bits of where.
pub mod update {
    pub const PAGE_TABLE: u64 = 0;
    pub const M2P: u64 = 1;
    pub const PRESERVE_AD: u64 = 2;
    pub const NO_TRANSLATE: u64 = 3;
}

/// Page table entries: Intel SDM volume 3, 4.5; the bit that Linux calls special is one of those left to software.
pub mod entry {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const PWT: u64 = 1 << 3;
    pub const PCD: u64 = 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const PAT: u64 = 1 << 7;
    const SPECIAL: u64 = 1 << 9;
    const NX: u64 = 1 << 63;
    /// Linux refuses to look behind an entry that is marked as special.
    pub const DOM0: u64 = PRESENT | USER | ACCESSED | SPECIAL | NX;
    pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
}

pub const SELF: u64 = 0x7ff0;

/// Two 32-bit fields as one word.
pub const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

pub const fn address(frame: Frame) -> u64 {
    frame.0 * PAGE as u64
}

/// A structure of words.
pub fn words(xen: &Privcmd, words: &[u64]) -> Result<Buffer, Error> {
    let mut buffer = xen.buffer(words.len() * 8)?;
    for (i, word) in words.iter().enumerate() {
        buffer.put(i * 8, *word);
    }
    Ok(buffer)
}

/// Whose frame an entry names, and whose table it is in.
pub const fn foreign(owner: u64, table: Option<u64>) -> u64 {
    match table {
        Some(table) => owner | (table + 1) << 16,
        None => owner,
    }
}

pub fn mmu_update(xen: &Privcmd, foreign: u64, place: u64, value: u64) -> Result<(), Error> {
    let request = words(xen, &[place, value])?;
    let arguments = [request.address(), 1, 0, foreign];
    xen.call("an update", MMU_UPDATE, &arguments).map(drop)
}

pub fn mmuext(xen: &Privcmd, owner: DomId, command: u32, first: u64, second: u64) -> Result<(), Error> {
    let request = words(xen, &[command.into(), first, second])?;
    let arguments = [request.address(), 1, 0, owner.0.into()];
    xen.call("an operation on a page", MMUEXT_OP, &arguments)
        .map(drop)
}

/// Replaces the entry behind an address of this process by one that names a frame of a domain's.
pub fn map_at(xen: &Privcmd, at: u64, owner: DomId, frame: Frame, flags: u64) -> Result<(), Error> {
    const INVLPG_LOCAL: u64 = 2;
    let arguments = [
        at,
        address(frame) | entry::DOM0 | flags,
        INVLPG_LOCAL,
        owner.0.into(),
    ];
    xen.call(
        "a map with chosen flags",
        UPDATE_VA_MAPPING_OTHERDOMAIN,
        &arguments,
    )
    .map(drop)
}

/// Clears the entry behind an address of this process.
pub fn unmap_at(xen: &Privcmd, at: u64) -> Result<(), Error> {
    const INVLPG_ALL: u64 = 2 | 4;
    xen.call("an unmap", UPDATE_VA_MAPPING, &[at, 0, INVLPG_ALL])
        .map(drop)
}

pub fn memory(xen: &Privcmd, command: u64, fields: &[u64]) -> Result<(u64, Buffer), Error> {
    let request = words(xen, fields)?;
    let arguments = [command, request.address()];
    let result = xen.call("an operation on memory", HYPERVISOR_MEMORY_OP, &arguments)?;
    Ok((result, request))
}

pub fn control(xen: &Privcmd, domain: DomId, command: u32, body: &[u64]) -> Result<Buffer, Error> {
    let mut call = domctl(xen, command, domain)?;
    for (i, word) in body.iter().enumerate() {
        call.put(domctl::BODY + 8 * i, *word);
    }
    xen.call("a domctl", HYPERVISOR_DOMCTL, &[call.address()])?;
    Ok(call)
}

/// A field of what [`control`] gave back.
pub fn field(call: &Buffer, word: usize) -> u64 {
    call.get(domctl::BODY + 8 * word)
}

pub fn sysctl(xen: &Privcmd, command: u32, body: &[u64]) -> Result<Buffer, Error> {
    const VERSION: u32 = 0x15;
    let call = words(xen, &[&[pair(command, VERSION)], body].concat())?;
    xen.call("a sysctl", HYPERVISOR_SYSCTL, &[call.address()])?;
    Ok(call)
}

pub fn platform(xen: &Privcmd, command: u32, body: &[u64]) -> Result<Buffer, Error> {
    const VERSION: u32 = 0x0300_0001;
    let call = words(xen, &[&[pair(command, VERSION)], body].concat())?;
    xen.call("a platform operation", PLATFORM_OP, &[call.address()])?;
    Ok(call)
}

/// One operation on grants; its status goes for an error.
pub fn grant(xen: &Privcmd, command: u64, fields: &[u64], status_at: usize) -> Result<Buffer, Error> {
    const EINVAL: i32 = 22;
    let what = "an operation on grants";
    let request = words(xen, fields)?;
    xen.call(what, GRANT_TABLE_OP, &[command, request.address(), 1])?;
    match request.get::<u16>(status_at) {
        0 => Ok(request),
        // Statuses are a numbering of their own, below zero.
        _ => Err(refused(what, EINVAL)),
    }
}

pub fn refused(what: &'static str, errno: i32) -> Error {
    Error::Refused {
        what,
        error: std::io::Error::from_raw_os_error(errno),
    }
}

/// Stops a domain as if it had asked to be suspended.
pub fn remote_suspend(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    const SUSPEND: u32 = 2;
    remote_shutdown(xen, domain, SUSPEND)
}

/// Stops a domain as if it had crashed.
pub fn remote_crash(xen: &Privcmd, domain: DomId) -> Result<(), Error> {
    const CRASH: u32 = 3;
    remote_shutdown(xen, domain, CRASH)
}

fn remote_shutdown(xen: &Privcmd, domain: DomId, reason: u32) -> Result<(), Error> {
    const REMOTE_SHUTDOWN: u64 = 4;
    let mut call = xen.buffer(8)?;
    call.put(0, domain.0);
    call.put(4, reason);
    xen.call(
        "a shutdown by remote",
        SCHED_OP,
        &[REMOTE_SHUTDOWN, call.address()],
    )
    .map(drop)
}

/// A refusal is a result here, not a failure.
pub fn errno(result: Result<(), Error>) -> anyhow::Result<Value> {
    match result {
        Ok(()) => Ok(json!({ "errno": 0 })),
        Err(error) => match error.errno() {
            Some(errno) => Ok(json!({ "errno": errno })),
            None => Err(error.into()),
        },
    }
}
