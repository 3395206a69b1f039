//! Changes that may pass, each with the argument why. What is not named here may not.
//!
//! The guest must have found itself intact all the same.

use crate::changes::Operation::{
    self, Drop, Duplicate, Extend, Flip, Reorder, Replay, Splice, Swap, Truncate,
};

/// Classes (`*` ends the beginning of one, or begins its end), operations, parts of places, and the argument.
struct Rule(
    &'static [&'static str],
    &'static [Operation],
    &'static [&'static str],
    &'static str,
);

const ANYWHERE: &[&str] = &["*"];
const PAGES: &[&str] = &[
    "private page",
    "L1 table",
    "L2 table",
    "L3 table",
    "L4 table",
    "GDT",
    "LDT",
    "start_info",
    "console ring",
    "xenstore ring",
    "P2M leaf",
];

const TABLES: &[&str] = &["L1 table", "L2 table", "L3 table", "L4 table"];

const RULES: &[Rule] = &[
    Rule(
        &["console ring", "xenstore ring"],
        &[Flip],
        &[
            "input",
            "output",
            "*_cons",
            "*_prod",
            "behind them",
            "requests",
            "replies",
            "server_features",
            "connection",
            "error",
        ],
        "a ring is dom0's to write at any time",
    ),
    Rule(
        &["console ring", "xenstore ring"],
        &[Drop, Replay, Splice],
        &["PFN *"],
        "a ring is dom0's to write at any time, and libxc gives the domain an empty page where the image has none",
    ),
    Rule(
        &["P2M leaf"],
        &[Flip],
        &["first bytes", "middle", "last bytes", "its PFN"],
        "libxc writes the P2M anew, and Xen compares each entry with where the page is",
    ),
    Rule(
        &["P2M leaf"],
        &[Drop, Replay, Splice, Swap],
        &["PFN *"],
        "libxc writes the P2M anew, and Xen compares each entry with where the page is",
    ),
    Rule(
        &["start_info"],
        &[Flip],
        &[
            "nr_pages",
            "shared_info",
            "flags",
            "store_evtchn",
            "console.evtchn",
        ],
        "libxc writes the field anew, and Xen compares what must be the domain's",
    ),
    Rule(
        PAGES,
        &[Flip],
        &["reserved bits beside its PFN"],
        "libxc reads neither these bits nor gives them to Xen",
    ),
    Rule(
        PAGES,
        &[Reorder],
        &["PFN *"],
        "a page is known by its PFN, not by its position in the image",
    ),
    Rule(
        &["PAGE_DATA"],
        &[Swap],
        ANYWHERE,
        "a page is known by its PFN, not by its position in the image",
    ),
    Rule(
        PAGES,
        &[Duplicate],
        &["PFN *"],
        "a page written twice with one content has that content",
    ),
    Rule(
        &["*BASIC"],
        &[Flip],
        &[
            "reserved",
            "fpu_ctxt",
            "flags, i387_valid",
            "r15",
            "r14",
            "r13",
            "r12",
            "rbp",
            "rbx",
            "r11",
            "r10",
            "r9",
            "r8",
            "rax",
            "rcx",
            "rsi",
            "rdi",
            "error_code",
            "entry_vector",
            "rip",
            "cs",
            "saved_upcall_mask",
            "rflags",
            "rsp",
            "ss",
            "es",
            "ds",
            "fs",
            "gs",
            "trap_ctxt",
            "gdt_frames[1..]",
            "kernel_ss",
            "kernel_sp",
            "cr0",
            "cr2",
            "cr4",
            "cr5 to cr7",
            "debugreg",
            "*callback_eip",
            "fs_base",
            "gs_base_kernel",
            "gs_base_user",
        ],
        "the register comes from the sealed record",
    ),
    Rule(
        &["*BASIC"],
        &[Flip],
        &["gdt_ents, upper half"],
        "libxc and Xen take 32 bits of it",
    ),
    Rule(
        &["vCPU 1 BASIC"],
        &[Flip],
        &["rdx", "vm_assist"],
        "of the first vCPU alone it means anything; the register comes from the sealed record",
    ),
    Rule(
        &["*BASIC"],
        &[Flip],
        &[
            "flags, failsafe_disables_events",
            "flags, syscall_disables_events",
            "flags, rest",
        ],
        "the flag comes from the sealed record",
    ),
    Rule(
        &["*BASIC"],
        &[Flip],
        &["flags, online"],
        "libxc sets it, and Xen compares which vCPUs are online with the record",
    ),
    Rule(
        &["*BASIC"],
        &[Flip],
        &["cr1, below the frame", "cr3, below the frame"],
        "libxc reads the frame alone, and Xen compares that with the record",
    ),
    Rule(
        &["*EXTENDED", "*MSRS", "vCPU 1 XSAVE"],
        &[Flip, Drop, Swap, Replay, Splice, Truncate, Extend],
        ANYWHERE,
        "callbacks, MSRs and vector registers of all vCPUs come from the sealed record",
    ),
    Rule(
        &["SHARED_INFO"],
        &[Flip, Drop, Replay, Splice],
        ANYWHERE,
        "what libxc takes from it comes from the sealed record; event channels are dom0's",
    ),
    Rule(
        &["X86_TSC_INFO"],
        &[Flip, Drop, Replay, Splice, Truncate, Extend],
        ANYWHERE,
        "the mode and origin of time are dom0's choice at restore, as at creation (docs/THREAT-MODEL.md, Open)",
    ),
    Rule(
        &["X86_CPUID_POLICY", "X86_MSR_POLICY"],
        &[Flip, Drop, Swap, Replay, Splice],
        ANYWHERE,
        "Xen compares the policy that the domain got with the record's: this one is the same",
    ),
    Rule(
        &["xl configuration"],
        &[Flip, Replay, Splice, Extend],
        ANYWHERE,
        "what the domain is called and given is dom0's choice at restore, as at creation",
    ),
    Rule(
        &["xl header"],
        &[Flip],
        &["optional_flags"],
        "xl takes no notice of flags that it does not know",
    ),
    Rule(
        &["libxl header"],
        &[Flip],
        &["options"],
        "libxl takes no notice of options that it does not know",
    ),
    Rule(
        &[
            "libxc image header",
            "libxc domain header",
            "X86_PV_INFO",
            "PAGE_DATA",
            "*XSAVE",
            "sealed record",
        ],
        &[Flip],
        &["reserved", "xen_major", "xen_minor", "options"],
        "libxc reads it at most to print it",
    ),
    Rule(
        &["libxc domain header"],
        &[Flip],
        &["page_shift"],
        "libxc shifts by it modulo 32; with another page size it restores nothing",
    ),
    Rule(
        &["END", "libxl END"],
        &[Flip, Drop, Truncate],
        ANYWHERE,
        "the tools do without the mark at the end; Xen judges whether everything came before it",
    ),
    Rule(
        TABLES,
        &[Flip],
        &["*, user"],
        "Xen sets it in every entry of a 64-bit guest; what it made of the table has the recorded digest",
    ),
    Rule(
        TABLES,
        &[Flip],
        &["*, accessed"],
        "the CPU sets it when it walks the table; what came of it has the recorded digest",
    ),
    Rule(
        TABLES,
        &[Flip],
        &["its type, level"],
        "a table in use is validated as what it is used as, and its class and pin are compared with the record",
    ),
    Rule(
        &["console ring", "xenstore ring"],
        &[Flip],
        &["its PFN"],
        "the ring's page is left out, and libxc gives the domain an empty one; what stood at the other PFN is compared",
    ),
    Rule(&["*"], &[Flip], &["padding*"], "nobody reads padding"),
    Rule(
        &["end of the image"],
        &[Extend],
        ANYWHERE,
        "nobody reads what follows the last record",
    ),
    Rule(
        &["*END", "libxl LIBXC_CONTEXT", "X86_PV_INFO"],
        &[Extend],
        &["eight bytes more"],
        "the tools read the fields that they know, and no more",
    ),
    Rule(
        &["*"],
        &[Reorder, Duplicate],
        &["with *", "number *", "PFN *"],
        "what Xen judges is the domain that came of it, not the order or number of records",
    ),
];

/// Why a change may pass, if it may.
pub fn argument(class: &str, operation: Operation, place: &str) -> Option<&'static str> {
    let what = if operation == Flip { field(place) } else { place };
    RULES
        .iter()
        .find(|Rule(classes, operations, places, _)| {
            classes.iter().any(|pattern| matches(pattern, class))
                && operations.contains(&operation)
                && places.iter().any(|pattern| matches(pattern, what))
        })
        .map(|Rule(.., argument)| *argument)
}

/// The field in `PFN 0x10: field, byte 0x4, bit 2`.
fn field(place: &str) -> &str {
    let place = place.split_once(": ").map_or(place, |(_, rest)| rest);
    place.split_once(", byte ").map_or(place, |(field, _)| field)
}

fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(begin), _) => text.starts_with(begin),
        (_, Some(end)) => text.ends_with(end),
        _ => text == pattern,
    }
}

/// Why a domain may be let begin that never gets as far as its kernel's first instruction.
pub fn empty(class: &str, operation: Operation, place: &str) -> Option<&'static str> {
    let left_out = operation == Drop || operation == Flip && place.starts_with("type, optional");
    (class == "sealed record" && left_out).then_some(
        "without a record nothing is decrypted: it is a new domain, and its memory is noise to itself",
    )
}
