//! The hypercalls that the tools make, typed.
//!
//! Numbers and layouts: `xen/include/public/` of Xen 4.20 (`xen.h`, `sysctl.h`, `domctl.h`, `memory.h`).

use std::fmt;
use std::process::{Command, Stdio};

use serde::Serialize;
use vmcrypt_core::Refusal;
use vmcrypt_core::abi::{self, DomainInfo, HostInfo, KeyLoad};
use vmcrypt_core::sealed_key::SealedKey;

use crate::hypercall::{Buffer, Error, Privcmd};
use crate::pv;

/// A domain's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DomId(pub u16);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number by which a domain's page is mapped: a machine frame for a PV guest, a guest frame for any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Frame(pub u64);

/// Frames that Linux and Xen take in one go.
pub const BATCH: usize = 1024;

/// What Xen says about a domain to anybody who may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// Its pages.
    pub pages: u64,
    /// Fully virtualised (HVM, PVH).
    pub hvm: bool,
    /// In `xl list`'s letters: running, blocked, paused, shut down, dying.
    pub state: &'static str,
    /// By which its `shared_info` is mapped.
    pub shared_info: Frame,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its handle.
    pub uuid: String,
}

/// All domains, in numeric order.
pub fn domains(xen: &Privcmd) -> Result<Vec<Domain>, Error> {
    let rows = xen.buffer(BATCH * row::BYTES)?;
    let mut call = xen.buffer(sysctl::BYTES)?;
    let mut all = Vec::new();
    let mut first = 0;
    loop {
        call.put(0, sysctl::GETDOMAININFOLIST);
        call.put(4, sysctl::VERSION);
        call.put(sysctl::BODY, first);
        call.put(sysctl::BODY + 4, BATCH as u32);
        call.put(sysctl::BODY + 8, rows.address());
        xen.call("the list of domains", HYPERVISOR_SYSCTL, &[call.address()])?;
        let count = (call.get::<u32>(sysctl::BODY + 16) as usize).min(BATCH);
        all.extend((0..count).map(|i| row::read(&rows, i * row::BYTES)));
        match all.last() {
            Some(Domain { id, .. }) if count == BATCH => first = id.0 + 1,
            _ => return Ok(all),
        }
    }
}

/// One past the highest frame by which the domain's pages can be mapped.
pub fn frame_limit(xen: &Privcmd, domain: &Domain) -> Result<u64, Error> {
    if !domain.hvm {
        return xen.call(
            "the size of memory",
            HYPERVISOR_MEMORY_OP,
            &[XENMEM_MAXIMUM_RAM_PAGE, 0],
        );
    }
    let mut call = xen.buffer(8)?;
    call.put(0, domain.id.0);
    let last = xen.call(
        "the size of the guest",
        HYPERVISOR_MEMORY_OP,
        &[XENMEM_MAXIMUM_GPFN, call.address()],
    )?;
    Ok(last + 1)
}

/// The frames of a domain, by PFN; `None` where it has none.
///
/// Of a PV guest they come from its own P2M table. To ask Xen about each frame of the machine is no alternative by
/// default: it writes a line to its log for each that is another's. Without a P2M (a guest that has just been
/// created), this is what is left.
pub fn frames(xen: &Privcmd, domain: &Domain) -> Result<Vec<Option<Frame>>, Error> {
    let limit = frame_limit(xen, domain)?;
    let read = |frame| xen.map_foreign(domain.id, &[frame], false).ok()?.page(0);
    let p2m = match domain.hvm {
        true => None,
        false => read(domain.shared_info).and_then(|page| pv::p2m(&page, |frame| read(Frame(frame)))),
    };
    Ok(match p2m {
        Some(p2m) => p2m
            .into_iter()
            .map(|mfn| (mfn < limit).then_some(Frame(mfn)))
            .collect(),
        None => (0..limit).map(|frame| Some(Frame(frame))).collect(),
    })
}

/// What Xen uses a page for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageType {
    /// Not the domain's, or not ordinary memory.
    Invalid,
    /// Data.
    Data,
    /// Page table of this level, 1 to 4.
    PageTable(u8),
    /// Xen did not say.
    Unknown,
}

/// Types of up to [`BATCH`] pages.
pub fn page_types(xen: &Privcmd, domain: DomId, frames: &[Frame]) -> Result<Vec<PageType>, Error> {
    let mut array = xen.buffer(frames.len() * 8)?;
    for (i, frame) in frames.iter().enumerate() {
        array.put(i * 8, frame.0);
    }
    let mut call = domctl(xen, domctl::GETPAGEFRAMEINFO3, domain)?;
    call.put(domctl::BODY, frames.len() as u64);
    call.put(domctl::BODY + 8, array.address());
    xen.call("the types of pages", HYPERVISOR_DOMCTL, &[call.address()])?;
    let kind = |i: usize| match array.get::<u64>(i * 8) >> 28 & 15 {
        level @ (1..=4 | 9..=12) => PageType::PageTable((level & 7) as u8),
        13.. => PageType::Invalid,
        _ => PageType::Data,
    };
    Ok((0..frames.len()).map(kind).collect())
}

/// Registers of a vCPU (`struct vcpu_guest_context`), as far as Xen shows them.
pub fn vcpu_context(xen: &Privcmd, domain: DomId, vcpu: u32) -> Result<Vec<u8>, Error> {
    let context = xen.buffer(pv::CONTEXT_BYTES)?;
    let mut call = domctl(xen, domctl::GETVCPUCONTEXT, domain)?;
    call.put(domctl::BODY, vcpu);
    call.put(domctl::BODY + 8, context.address());
    xen.call("the registers of a vCPU", HYPERVISOR_DOMCTL, &[call.address()])?;
    Ok(context.bytes(0, pv::CONTEXT_BYTES))
}

/// What Xen has logged from a place on, and the place after it.
pub fn console(xen: &Privcmd, from: u32) -> Result<(String, u32), Error> {
    const ROOM: usize = 32 << 10;
    let buffer = xen.buffer(ROOM)?;
    let mut call = xen.buffer(sysctl::BYTES)?;
    call.put(0, sysctl::READCONSOLE);
    call.put(4, sysctl::VERSION);
    call.put(sysctl::BODY + 1, 1u8);
    call.put(sysctl::BODY + 4, from);
    call.put(sysctl::BODY + 8, buffer.address());
    call.put(sysctl::BODY + 16, ROOM as u32);
    xen.call("Xen's log", HYPERVISOR_SYSCTL, &[call.address()])?;
    let text = buffer.bytes(0, (call.get::<u32>(sysctl::BODY + 16) as usize).min(ROOM));
    Ok((
        String::from_utf8_lossy(&text).into_owned(),
        call.get(sysctl::BODY + 4),
    ))
}

/// What VMCrypt does on this host; `None` on a Xen without it.
pub fn host_info(xen: &Privcmd) -> Result<Option<HostInfo>, Error> {
    let mut info = xen.buffer(size_of::<HostInfo>())?;
    info.put(
        0,
        HostInfo {
            version: abi::INTERFACE_VERSION,
            ..HostInfo::default()
        },
    );
    let call = [abi::OP_HOST_INFO.into(), info.address()];
    match xen.call("the state of VMCrypt", abi::HYPERCALL.into(), &call) {
        Ok(_) => Ok(Some(info.get(0))),
        Err(error) if error.errno() == Some(libc::ENOSYS) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What VMCrypt knows about a domain.
pub fn domain_info(xen: &Privcmd, domain: DomId) -> Result<DomainInfo, Error> {
    let mut info = xen.buffer(size_of::<DomainInfo>())?;
    info.put(
        0,
        DomainInfo {
            domid: domain.0,
            ..DomainInfo::default()
        },
    );
    let call = [abi::OP_DOMAIN_INFO.into(), info.address()];
    xen.call("the protection state of a domain", abi::HYPERCALL.into(), &call)?;
    Ok(info.get(0))
}

/// Gives Xen a sealed key. The inner result is Xen's judgement of it.
pub fn load_key(xen: &Privcmd, sealed: &SealedKey<'_>) -> Result<Result<(), Refusal>, Error> {
    let mut load = KeyLoad {
        size: sealed.bytes().len() as u32,
        refusal: 0,
        bytes: [0; abi::KEY_BYTES],
    };
    load.bytes[..sealed.bytes().len()].copy_from_slice(sealed.bytes());
    let mut buffer = xen.buffer(size_of::<KeyLoad>())?;
    buffer.put(0, load);
    let call = [abi::OP_KEY_LOAD.into(), buffer.address()];
    match xen.call("the key", abi::HYPERCALL.into(), &call) {
        Ok(_) => Ok(Ok(())),
        Err(error) => {
            let number = buffer.get::<KeyLoad>(0).refusal.checked_sub(1);
            let refusal = number.and_then(Refusal::from_number);
            refusal.map_or(Err(error), |refusal| Ok(Err(refusal)))
        }
    }
}

/// A domctl, ready for its body at [`domctl::BODY`].
pub fn domctl(xen: &Privcmd, command: u32, domain: DomId) -> Result<Buffer, Error> {
    let mut call = xen.buffer(domctl::BYTES)?;
    call.put(0, command);
    call.put(4, domctl::VERSION);
    call.put(8, domain.0);
    Ok(call)
}

/// `__HYPERVISOR_memory_op`
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// `__HYPERVISOR_sysctl`
pub const HYPERVISOR_SYSCTL: u64 = 35;
/// `__HYPERVISOR_domctl`
pub const HYPERVISOR_DOMCTL: u64 = 36;

const XENMEM_MAXIMUM_RAM_PAGE: u64 = 2;
const XENMEM_MAXIMUM_GPFN: u64 = 14;

/// `struct xen_sysctl`
mod sysctl {
    pub const VERSION: u32 = 0x15;
    pub const READCONSOLE: u32 = 1;
    pub const GETDOMAININFOLIST: u32 = 6;
    pub const BODY: usize = 8;
    pub const BYTES: usize = BODY + 128;
}

/// `struct xen_domctl`
pub mod domctl {
    /// `XEN_DOMCTL_INTERFACE_VERSION` of Xen 4.19 and 4.20.
    pub const VERSION: u32 = 0x17;
    /// `XEN_DOMCTL_getvcpucontext`
    pub const GETVCPUCONTEXT: u32 = 13;
    /// `XEN_DOMCTL_getpageframeinfo3`
    pub const GETPAGEFRAMEINFO3: u32 = 61;
    /// Offset of the union.
    pub const BODY: usize = 16;
    /// Size of the whole.
    pub const BYTES: usize = BODY + 128;
}

/// `struct xen_domctl_getdomaininfo`
mod row {
    use super::{Buffer, DomId, Domain, Frame};

    pub const BYTES: usize = 112;
    const FLAGS: usize = 4;
    const TOT_PAGES: usize = 8;
    const SHARED_INFO_FRAME: usize = 48;
    const MAX_VCPU_ID: usize = 68;
    const HANDLE: usize = 76;

    pub fn read(rows: &Buffer, at: usize) -> Domain {
        let flags = rows.get::<u32>(at + FLAGS);
        let bit = |n: u32| flags & 1 << n != 0;
        let states = [
            (0, "dying"),
            (2, "shut down"),
            (3, "paused"),
            (5, "running"),
            (4, "blocked"),
        ];
        let handle = rows.get(at + HANDLE);
        Domain {
            id: DomId(rows.get(at)),
            pages: rows.get(at + TOT_PAGES),
            hvm: bit(1),
            state: states
                .into_iter()
                .find(|&(n, _)| bit(n))
                .map_or("idle", |(_, name)| name),
            shared_info: Frame(rows.get(at + SHARED_INFO_FRAME)),
            // All ones if there is none.
            vcpus: rows.get::<u32>(at + MAX_VCPU_ID).wrapping_add(1),
            uuid: super::uuid(handle),
        }
    }
}

/// A domain handle as people write it.
pub fn uuid(handle: [u8; 16]) -> String {
    let digits = hex::encode(handle);
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

/// Frames of xenstore's and the console's ring, as the toolstack says of a PV guest; none if the store does not answer.
pub fn rings(domain: DomId) -> Vec<Frame> {
    let of = |ring| format!("/local/domain/{}/{ring}/ring-ref", domain.0);
    let output = Command::new("xenstore-read")
        .args(["store", "console"].map(of))
        .stderr(Stdio::null())
        .output();
    let text = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    text.lines()
        .filter_map(|line| line.parse().ok())
        .map(Frame)
        .collect()
}
