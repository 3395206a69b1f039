//! Where bits are flipped: the fields of each structure, by the names that Xen's headers give them.

use crate::layout::PageClass;

/// A piece of a structure.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in reports.
    pub name: String,
    /// Where it begins.
    pub at: usize,
    /// Its bytes.
    pub length: usize,
    /// The bit of its first byte that is to be flipped; any if there is none.
    pub bit: Option<u8>,
}

impl Field {
    /// Any bit of a piece.
    pub fn new(name: impl Into<String>, at: usize, length: usize) -> Field {
        let name = name.into();
        Field {
            name,
            at,
            length,
            bit: None,
        }
    }

    /// One certain bit.
    pub fn bit(name: impl Into<String>, at: usize, bit: u8) -> Field {
        let name = name.into();
        Field {
            name,
            at,
            length: 1,
            bit: Some(bit),
        }
    }
}

/// Pieces that a body without a known structure is cut into.
const CUTS: usize = 8;

/// Fields of a part's body.
pub fn fields(class: &str, length: usize) -> Vec<Field> {
    let named: &[(&str, usize, usize)] = match class {
        "xl header" => XL_HEADER,
        "libxl header" => &[("ident", 0, 8), ("version", 8, 4), ("options", 12, 4)],
        "libxc image header" => &[
            ("marker", 0, 8),
            ("id", 8, 4),
            ("version", 12, 4),
            ("options", 16, 2),
            ("reserved", 18, 6),
        ],
        "libxc domain header" => &[
            ("type", 0, 4),
            ("page_shift", 4, 2),
            ("reserved", 6, 2),
            ("xen_major", 8, 4),
            ("xen_minor", 12, 4),
        ],
        "X86_PV_INFO" => &[("guest_width", 0, 1), ("pt_levels", 1, 1), ("reserved", 2, 6)],
        "X86_TSC_INFO" => &[
            ("mode", 0, 4),
            ("khz", 4, 4),
            ("nsec", 8, 8),
            ("incarnation", 16, 4),
            ("reserved", 20, 4),
        ],
        "PAGE_DATA" => &[("count", 0, 4), ("reserved", 4, 4)],
        "SHARED_INFO" => SHARED_INFO,
        "sealed record" => SEALED,
        _ if class.ends_with("BASIC") => BASIC,
        _ if class.ends_with("EXTENDED") => EXTENDED,
        _ if class.ends_with("XSAVE") => &[
            ("vcpu_id", 0, 4),
            ("reserved", 4, 4),
            ("xcr0", 8, 8),
            ("xcr0_accum", 16, 8),
        ],
        _ if class.ends_with("MSRS") => &[
            ("vcpu_id", 0, 4),
            ("reserved", 4, 4),
            ("index", 8, 4),
            ("reserved of an MSR", 12, 4),
            ("value", 16, 8),
        ],
        _ => &[],
    };
    let mut fields: Vec<Field> = if class.ends_with("BASIC") {
        // VGCF_* of public/arch-x86/xen.h.
        [
            ("flags, i387_valid", 0),
            ("flags, in_kernel", 2),
            ("flags, failsafe_disables_events", 3),
            ("flags, syscall_disables_events", 4),
            ("flags, online", 5),
        ]
        .map(|(name, bit)| Field::bit(name, 520, bit))
        .into()
    } else {
        Vec::new()
    };
    fields.extend(
        named
            .iter()
            .filter(|(_, at, size)| at + size <= length)
            .map(|(name, at, size)| Field::new(*name, *at, *size)),
    );
    let known = named.iter().map(|(_, at, size)| at + size).max().unwrap_or(0);
    // What has no name is cut into equal pieces. Pages are a matter of their own.
    if class != "PAGE_DATA" && length > known {
        let rest = length - known;
        let cuts = CUTS.min(rest);
        fields.extend((0..cuts).map(|i| {
            let (from, to) = (known + rest * i / cuts, known + rest * (i + 1) / cuts);
            Field::new(format!("piece {} of {cuts}", i + 1), from, to - from)
        }));
    }
    fields
}

/// Fields of a page.
pub fn page_fields(class: PageClass, content: &[u8]) -> Vec<Field> {
    let list = |named: &[(&str, usize, usize)]| {
        named
            .iter()
            .map(|(name, at, size)| Field::new(*name, *at, *size))
            .collect()
    };
    match class {
        PageClass::Table(_) => table_fields(content),
        PageClass::Gdt | PageClass::Ldt => list(DESCRIPTORS),
        PageClass::StartInfo => list(START_INFO),
        PageClass::ConsoleRing => list(CONSOLE_RING),
        PageClass::StoreRing => list(STORE_RING),
        PageClass::Private | PageClass::P2m => list(&[
            ("first bytes", 0, 8),
            ("middle", 8, 4080),
            ("last bytes", 4088, 8),
        ]),
    }
}

/// The bits of an entry that names a page, and of one that does not.
fn table_fields(content: &[u8]) -> Vec<Field> {
    const BITS: [(&str, usize, u8); 13] = [
        ("present", 0, 0),
        ("writable", 0, 1),
        ("user", 0, 2),
        ("write-through", 0, 3),
        ("accessed", 0, 5),
        ("dirty", 0, 6),
        ("large or PAT", 0, 7),
        ("global", 1, 0),
        ("for software", 1, 1),
        ("frame", 1, 4),
        ("frame, far beyond", 4, 3),
        ("for software, high", 6, 6),
        ("no execution", 7, 7),
    ];
    // Not the first: the kernel's own code is there.
    let present = |wanted: bool| (0..512).rev().find(|i| (content[8 * i] & 1 == 1) == wanted);
    let mut fields = Vec::new();
    if let Some(entry) = present(true) {
        fields.extend(
            BITS.map(|(name, at, bit)| Field::bit(format!("entry {entry}, {name}"), 8 * entry + at, bit)),
        );
    }
    if let Some(entry) = present(false) {
        let bits = [("present", 0, 0), ("writable", 0, 1), ("frame", 2, 0)];
        fields.extend(
            bits.map(|(name, at, bit)| {
                Field::bit(format!("absent entry {entry}, {name}"), 8 * entry + at, bit)
            }),
        );
    }
    fields
}

const XL_HEADER: &[(&str, usize, usize)] = &[
    ("magic", 0, 32),
    ("byteorder", 32, 4),
    ("mandatory_flags", 36, 4),
    ("optional_flags", 40, 4),
    ("optional_data_len", 44, 4),
];

/// A vCPU's number, then `struct vcpu_guest_context`.
const BASIC: &[(&str, usize, usize)] = &[
    ("vcpu_id", 0, 4),
    ("reserved", 4, 4),
    ("fpu_ctxt", 8, 512),
    ("flags, rest", 521, 7),
    ("r15", 528, 8),
    ("r14", 536, 8),
    ("r13", 544, 8),
    ("r12", 552, 8),
    ("rbp", 560, 8),
    ("rbx", 568, 8),
    ("r11", 576, 8),
    ("r10", 584, 8),
    ("r9", 592, 8),
    ("r8", 600, 8),
    ("rax", 608, 8),
    ("rcx", 616, 8),
    ("rdx", 624, 8),
    ("rsi", 632, 8),
    ("rdi", 640, 8),
    ("error_code", 648, 4),
    ("entry_vector", 652, 4),
    ("rip", 656, 8),
    ("cs", 664, 2),
    ("saved_upcall_mask", 666, 6),
    ("rflags", 672, 8),
    ("rsp", 680, 8),
    ("ss", 688, 8),
    ("es", 696, 8),
    ("ds", 704, 8),
    ("fs", 712, 8),
    ("gs", 720, 8),
    ("trap_ctxt", 728, 4096),
    ("ldt_base", 4824, 8),
    ("ldt_ents", 4832, 8),
    ("gdt_frames[0]", 4840, 8),
    ("gdt_frames[1..]", 4848, 120),
    ("gdt_ents", 4968, 4),
    ("gdt_ents, upper half", 4972, 4),
    ("kernel_ss", 4976, 8),
    ("kernel_sp", 4984, 8),
    ("cr0", 4992, 8),
    ("cr1, below the frame", 5000, 1),
    ("cr1", 5002, 6),
    ("cr2", 5008, 8),
    ("cr3, below the frame", 5016, 1),
    ("cr3", 5018, 6),
    ("cr4", 5024, 8),
    ("cr5 to cr7", 5032, 24),
    ("debugreg", 5056, 64),
    ("event_callback_eip", 5120, 8),
    ("failsafe_callback_eip", 5128, 8),
    ("syscall_callback_eip", 5136, 8),
    ("vm_assist", 5144, 8),
    ("fs_base", 5152, 8),
    ("gs_base_kernel", 5160, 8),
    ("gs_base_user", 5168, 8),
];

/// A vCPU's number, then `struct xen_domctl_ext_vcpucontext`.
const EXTENDED: &[(&str, usize, usize)] = &[
    ("vcpu_id", 0, 4),
    ("reserved", 4, 4),
    ("vcpu", 8, 4),
    ("size", 12, 4),
    ("sysenter_callback_eip", 16, 8),
    ("syscall32_callback_eip", 24, 8),
    ("callback_cs", 32, 4),
    ("disables_events", 36, 2),
    ("mcg_cap", 40, 8),
];

/// docs/ARCHITECTURE.md, "Sealed record", after the vCPU's number.
const SEALED: &[(&str, usize, usize)] = &[
    ("vcpu_id", 0, 4),
    ("reserved", 4, 4),
    ("magic", 8, 8),
    ("version, cipher, sizes and epoch", 16, 24),
    ("rest of the clear header", 40, 40),
    ("facts", 80, 248),
    ("states", 328, 2048),
];

const SHARED_INFO: &[(&str, usize, usize)] = &[
    ("vcpu_info[0], pending and mask", 0, 2),
    ("vcpu_info[0], selector", 8, 8),
    ("vcpu_info[0], cr2", 16, 8),
    ("vcpu_info[0], time", 32, 32),
    ("vcpu_info[1], pending and mask", 64, 2),
    ("vcpu_info[1], rest", 66, 62),
    ("vcpu_info[2..]", 128, 1920),
    ("evtchn_pending", 2048, 512),
    ("evtchn_mask", 2560, 512),
    ("wall clock", 3072, 16),
    ("max_pfn", 3088, 8),
    ("frame list list", 3096, 8),
    ("nmi_reason", 3104, 8),
    ("p2m_cr3", 3112, 8),
    ("p2m_vaddr", 3120, 8),
    ("p2m_generation", 3128, 8),
    ("unused", 3136, 960),
];

const DESCRIPTORS: &[(&str, usize, usize)] = &[
    ("null descriptor", 0, 8),
    ("descriptor in use, limit and base", 8, 5),
    ("descriptor in use, rights", 13, 1),
    ("descriptor in use, flags", 14, 1),
    ("unused descriptor", 16, 8),
    ("last descriptor", 4088, 8),
];

const START_INFO: &[(&str, usize, usize)] = &[
    ("magic", 0, 32),
    ("nr_pages", 32, 8),
    ("shared_info", 40, 8),
    ("flags", 48, 4),
    ("padding after flags", 52, 4),
    ("store_mfn", 56, 8),
    ("store_evtchn", 64, 4),
    ("padding after store_evtchn", 68, 4),
    ("console.mfn", 72, 8),
    ("console.evtchn", 80, 4),
    ("padding after console.evtchn", 84, 4),
    ("pt_base", 88, 8),
    ("nr_pt_frames", 96, 8),
    ("mfn_list", 104, 8),
    ("mod_start", 112, 8),
    ("mod_len", 120, 8),
    ("cmd_line", 128, 1024),
    ("first_p2m_pfn", 1152, 8),
    ("nr_p2m_frames", 1160, 8),
    ("behind it", 1168, 2928),
];

const CONSOLE_RING: &[(&str, usize, usize)] = &[
    ("input", 0, 1024),
    ("output", 1024, 2048),
    ("in_cons", 3072, 4),
    ("in_prod", 3076, 4),
    ("out_cons", 3080, 4),
    ("out_prod", 3084, 4),
    ("behind them", 3088, 1008),
];

const STORE_RING: &[(&str, usize, usize)] = &[
    ("requests", 0, 1024),
    ("replies", 1024, 1024),
    ("req_cons", 2048, 4),
    ("req_prod", 2052, 4),
    ("rsp_cons", 2056, 4),
    ("rsp_prod", 2060, 4),
    ("server_features", 2064, 4),
    ("connection", 2068, 4),
    ("error", 2072, 4),
    ("behind them", 2076, 2020),
];
