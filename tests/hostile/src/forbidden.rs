//! Single calls that would read or change a running guest behind its back, each by its name.
//!
//! What they would do if they were let is bearable wherever the call allows it: a page copied onto itself, an entry
//! that stays empty. The last ones are not; they come last.

use serde_json::{Map, Value, json};
use vmcrypt_tools::content::PAGE;
use vmcrypt_tools::hypercall::{Error, Privcmd};
use vmcrypt_tools::pv;
use vmcrypt_tools::xen::{self, Domain, Frame, HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP, PageType, domctl};

use anyhow::{Context, Result, ensure};

/// One call.
struct Call {
    name: &'static str,
    about: &'static str,
    make: fn(&Privcmd, &Victim) -> Result<(), Error>,
}

const CALLS: &[Call] = &[
    Call {
        name: "map-nonexistent",
        about: "map a frame beyond the machine's memory",
        make: |xen, victim| map(xen, victim, Frame(victim.frames_of_machine + 0x1000), false),
    },
    Call {
        name: "map-writable",
        about: "map a data page writable",
        make: |xen, victim| map(xen, victim, victim.data, true),
    },
    Call {
        name: "map-shared-info-writable",
        about: "map shared_info writable",
        make: |xen, victim| map(xen, victim, victim.domain.shared_info, true),
    },
    Call {
        name: "map-uncached",
        about: "map a data page with a cache attribute other than write-back",
        make: |xen, victim| map_with(xen, victim, PTE_PCD | PTE_PWT),
    },
    Call {
        name: "map-write-combining",
        about: "map a data page through the PAT's entry for write-combining",
        make: |xen, victim| map_with(xen, victim, PTE_PAT),
    },
    Call {
        name: "remap-writable",
        about: "turn a read-only map of a data page into a writable one",
        make: |xen, victim| map_with(xen, victim, PTE_WRITABLE),
    },
    Call {
        name: "write-by-mmu-update",
        about: "write eight bytes into a data page",
        make: |xen, victim| mmu_update(xen, victim, address(victim.data) + MMU_NORMAL_PT_UPDATE, 0),
    },
    Call {
        name: "edit-page-table",
        about: "write an entry of a page table",
        make: |xen, victim| {
            let entry = address(victim.table) + victim.empty_entry;
            mmu_update(xen, victim, entry + MMU_NORMAL_PT_UPDATE, 0)
        },
    },
    Call {
        name: "edit-m2p",
        about: "write the guest's entry of the machine-to-physical table",
        make: |xen, victim| {
            mmu_update(
                xen,
                victim,
                address(victim.data) + MMU_MACHPHYS_UPDATE,
                victim.data_pfn,
            )
        },
    },
    Call {
        name: "copy-page",
        about: "copy a data page by MMUEXT_COPY_PAGE",
        make: |xen, victim| mmuext(xen, victim, MMUEXT_COPY_PAGE, victim.data, victim.data.0),
    },
    Call {
        name: "populate",
        about: "give the guest a fresh page under a PFN that it has",
        make: |xen, victim| reservation(xen, victim, XENMEM_POPULATE_PHYSMAP, victim.data_pfn),
    },
    Call {
        name: "set-memory-map",
        about: "give the guest another memory map than the one that was measured",
        make: |xen, victim| memory_map(xen, victim),
    },
    Call {
        name: "set-handle",
        about: "give the domain another uuid",
        make: |xen, victim| {
            let mut call = domctl(xen, SETDOMAINHANDLE, victim.domain.id)?;
            call.put(domctl::BODY, [0x5au8; 16]);
            call_domctl(xen, "another uuid", call.address())
        },
    },
    Call {
        name: "set-address-size",
        about: "make it a 32-bit guest",
        make: |xen, victim| {
            let mut call = domctl(xen, SET_ADDRESS_SIZE, victim.domain.id)?;
            call.put(domctl::BODY, 32u32);
            call_domctl(xen, "another address size", call.address())
        },
    },
    Call {
        name: "unpin-page-table",
        about: "take the pin off the page table in use",
        make: |xen, victim| mmuext(xen, victim, MMUEXT_UNPIN_TABLE, victim.root, 0),
    },
    Call {
        name: "clear-page",
        about: "zero a data page by MMUEXT_CLEAR_PAGE",
        make: |xen, victim| mmuext(xen, victim, MMUEXT_CLEAR_PAGE, victim.data, 0),
    },
    Call {
        name: "write-hypercall-page",
        about: "fill a data page with hypercall stubs",
        make: |xen, victim| {
            let mut call = domctl(xen, HYPERCALL_INIT, victim.domain.id)?;
            call.put(domctl::BODY, victim.data.0);
            call_domctl(xen, "a hypercall page", call.address())
        },
    },
    Call {
        name: "take-page-away",
        about: "free one of the guest's pages by XENMEM_decrease_reservation",
        make: |xen, victim| reservation(xen, victim, XENMEM_DECREASE_RESERVATION, victim.data.0),
    },
];

/// Names and meanings, a line each.
pub fn list() -> Value {
    CALLS
        .iter()
        .map(|call| (call.name.to_owned(), json!(call.about)))
        .collect::<Map<_, _>>()
        .into()
}

/// Makes the named calls, all if none is named: the errno of each, 0 for one that succeeded.
pub fn make(xen: &Privcmd, domid: u16, names: &[String]) -> Result<Value> {
    for name in names {
        ensure!(
            CALLS.iter().any(|call| call.name == name),
            "there is no call named {name}; see --list"
        );
    }
    let victim = Victim::find(xen, domid)?;
    let mut answers = Map::new();
    for call in CALLS
        .iter()
        .filter(|call| names.is_empty() || names.iter().any(|name| name == call.name))
    {
        let errno = match (call.make)(xen, &victim) {
            Ok(()) => 0,
            Err(error) => error.errno().with_context(|| format!("{}: {error}", call.name))?,
        };
        answers.insert(call.name.to_owned(), json!(errno));
    }
    Ok(answers.into())
}

/// A guest, and the places to hit it.
struct Victim {
    domain: Domain,
    frames_of_machine: u64,
    data: Frame,
    data_pfn: u64,
    table: Frame,
    /// Offset in `table` of an entry that is zero.
    empty_entry: u64,
    root: Frame,
}

impl Victim {
    fn find(xen: &Privcmd, domid: u16) -> Result<Self> {
        let domain = xen::domains(xen)?.into_iter().find(|domain| domain.id.0 == domid);
        let domain = domain.with_context(|| format!("there is no domain {domid}"))?;
        let (mut data, mut table) = (None, None);
        let frames: Vec<(u64, Frame)> = (0..)
            .zip(xen::frames(xen, &domain)?)
            .filter_map(|(pfn, frame)| Some((pfn, frame?)))
            .collect();
        for batch in frames.chunks(xen::BATCH) {
            let numbers: Vec<Frame> = batch.iter().map(|&(_, frame)| frame).collect();
            let kinds = xen::page_types(xen, domain.id, &numbers)?;
            for (&(pfn, frame), kind) in batch.iter().zip(kinds) {
                match kind {
                    // Low pages hold the kernel; one from the middle is free more often than not.
                    PageType::Data if pfn > frames.len() as u64 / 2 => _ = data.get_or_insert((pfn, frame)),
                    PageType::PageTable(1) if table.is_none() => {
                        let page = xen.map_foreign(domain.id, &[frame], false)?.page(0);
                        let entry =
                            page.and_then(|page| page.as_chunks::<8>().0.iter().position(|e| *e == [0; 8]));
                        table = entry.map(|entry| (frame, entry as u64 * 8));
                    }
                    _ => {}
                }
            }
        }
        let (data_pfn, data) = data.context("the guest has no data page")?;
        let (table, empty_entry) = table.context("the guest has no page table with room")?;
        let root =
            pv::root(&xen::vcpu_context(xen, domain.id, 0)?).context("the guest has no root page table")?;
        let frames_of_machine = xen::frame_limit(xen, &domain)?;
        Ok(Self {
            domain,
            frames_of_machine,
            data,
            data_pfn,
            table,
            empty_entry,
            root: Frame(root),
        })
    }
}

fn map(xen: &Privcmd, victim: &Victim, frame: Frame, writable: bool) -> Result<(), Error> {
    let what = "a map";
    match xen.map_foreign(victim.domain.id, &[frame], writable)?.refusal(0) {
        None => Ok(()),
        Some(errno) => Err(Error::Refused {
            what,
            error: std::io::Error::from_raw_os_error(errno),
        }),
    }
}

/// Maps a data page as any tool does, then writes the page table entry of that map anew with more flags.
fn map_with(xen: &Privcmd, victim: &Victim, flags: u64) -> Result<(), Error> {
    // Linux refuses to look behind an entry that is marked as special; it unmaps it when `held` goes.
    const COMMON: u64 = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_SPECIAL | PTE_NX;
    let held = xen.map_foreign(victim.domain.id, &[victim.data], false)?;
    let entry = address(victim.data) + (COMMON | flags);
    let arguments = [
        held.address(),
        entry,
        UVMF_INVLPG_LOCAL,
        victim.domain.id.0.into(),
    ];
    xen.call(
        "a map with chosen flags",
        HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN,
        &arguments,
    )
    .map(drop)
}

/// Writes into memory that the guest owns, as if it were dom0's own page tables.
fn mmu_update(xen: &Privcmd, victim: &Victim, pointer: u64, value: u64) -> Result<(), Error> {
    let domid = u64::from(victim.domain.id.0);
    // Low half: the owner of what an entry points to. High half: the owner of the table, plus one.
    let foreign = match pointer & 7 {
        MMU_MACHPHYS_UPDATE => domid,
        _ => ((domid + 1) << 16) + domid,
    };
    let mut request = xen.buffer(16)?;
    request.put(0, pointer);
    request.put(8, value);
    let arguments = [request.address(), 1, 0, foreign];
    xen.call("an update", HYPERVISOR_MMU_UPDATE, &arguments).map(drop)
}

fn mmuext(xen: &Privcmd, victim: &Victim, command: u32, frame: Frame, second: u64) -> Result<(), Error> {
    let mut request = xen.buffer(24)?;
    request.put(0, command);
    request.put(8, frame.0);
    request.put(16, second);
    let arguments = [request.address(), 1, 0, victim.domain.id.0.into()];
    xen.call("an operation on a page", HYPERVISOR_MMUEXT_OP, &arguments)
        .map(drop)
}

fn address(frame: Frame) -> u64 {
    frame.0 * PAGE as u64
}

/// A reservation of one page. These calls return how many pages they handled, so that 0 is a refusal without reason.
fn reservation(xen: &Privcmd, victim: &Victim, command: u64, page: u64) -> Result<(), Error> {
    let what = "a change of the reservation";
    let mut extents = xen.buffer(8)?;
    extents.put(0, page);
    let mut request = xen.buffer(32)?;
    request.put(0, extents.address());
    request.put(8, 1u64);
    request.put(24, victim.domain.id.0);
    match xen.call(what, HYPERVISOR_MEMORY_OP, &[command, request.address()])? {
        0 => Err(Error::Refused {
            what,
            error: std::io::Error::from_raw_os_error(EPERM),
        }),
        _ => Ok(()),
    }
}

/// One entry, `struct e820entry`: RAM as large as the domain is.
fn memory_map(xen: &Privcmd, victim: &Victim) -> Result<(), Error> {
    let mut entry = xen.buffer(20)?;
    entry.put(8, victim.domain.pages * PAGE as u64);
    entry.put(16, 1u32);
    let mut request = xen.buffer(24)?;
    request.put(0, victim.domain.id.0);
    request.put(8, 1u32);
    request.put(16, entry.address());
    let arguments = [XENMEM_SET_MEMORY_MAP, request.address()];
    xen.call("another memory map", HYPERVISOR_MEMORY_OP, &arguments)
        .map(drop)
}

fn call_domctl(xen: &Privcmd, what: &'static str, address: u64) -> Result<(), Error> {
    xen.call(what, HYPERVISOR_DOMCTL, &[address]).map(drop)
}

// `xen/include/public/xen.h`, `memory.h` and `domctl.h` of Xen 4.20.
const HYPERVISOR_MMU_UPDATE: u64 = 1;
const HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: u64 = 22;
const HYPERVISOR_MMUEXT_OP: u64 = 26;
const MMU_NORMAL_PT_UPDATE: u64 = 0;
const MMU_MACHPHYS_UPDATE: u64 = 1;
const MMUEXT_UNPIN_TABLE: u32 = 4;
const MMUEXT_CLEAR_PAGE: u32 = 16;
const MMUEXT_COPY_PAGE: u32 = 17;
const UVMF_INVLPG_LOCAL: u64 = 2;
const XENMEM_DECREASE_RESERVATION: u64 = 1;
const XENMEM_POPULATE_PHYSMAP: u64 = 6;
const XENMEM_SET_MEMORY_MAP: u64 = 13;
const SETDOMAINHANDLE: u32 = 17;
const HYPERCALL_INIT: u32 = 22;
const SET_ADDRESS_SIZE: u32 = 35;
const EPERM: i32 = 1;

// Page table entries: Intel SDM volume 3, 4.5; the bit that Linux calls special is one of those left to software.
const PTE_PRESENT: u64 = 1;
const PTE_WRITABLE: u64 = 1 << 1;
const PTE_USER: u64 = 1 << 2;
const PTE_PWT: u64 = 1 << 3;
const PTE_PCD: u64 = 1 << 4;
const PTE_ACCESSED: u64 = 1 << 5;
const PTE_PAT: u64 = 1 << 7;
const PTE_SPECIAL: u64 = 1 << 9;
const PTE_NX: u64 = 1 << 63;
