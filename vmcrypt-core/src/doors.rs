//! What dom0 may ask of Xen beside mapping pages: each operation of each hypercall, and why.
//!
//! The rows are in [`rows`]. Xen's hooks ask [`denies`], which reads one byte of a table that the compiler makes
//! of the rows; their names and reasons do not get into the hypervisor. An operation without a row is denied, and
//! the build fails on the headers of a Xen that has one.
//!
//! There are two questions. Whom does the operation concern: [`denies`]. And what does it name: an operation that takes a
//! machine address reaches a guest's memory whoever its target is, so each row says whether it takes one, and
//! [`denies_frames`] judges what lies there.

mod rows;

pub use rows::FAMILIES;

use crate::State;
use crate::machine::Frames;

/// A hypercall with operations of its own, or another list that dom0 can choose from.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Of the hypercall in Xen's `public/xen.h`, or one of [`HYPERCALLS`], [`KEYS`] and [`SHADOW_OPS`].
    pub number: u32,
    /// As Xen's log names it.
    pub name: &'static str,
    /// Header below `xen/include/public` that defines the operations, and how their names begin there; empty for
    /// debug keys.
    pub header: &'static str,
    /// What stands there before each name.
    pub prefix: &'static str,
    /// Where Xen asks.
    pub asked: &'static str,
    /// Every operation.
    pub doors: &'static [Door],
}

/// The hypercalls themselves. Xen asks about their operations, so this one is for completeness alone.
pub const HYPERCALLS: u32 = 62;
/// Debug keys, by their ASCII code.
pub const KEYS: u32 = 63;
/// What domctl `shadow_op` is asked for.
pub const SHADOW_OPS: u32 = 61;

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// Its number.
    pub number: u32,
    /// Its name in Xen's header, without prefix.
    pub name: &'static str,
    /// What is done about it.
    pub rule: Rule,
    /// The rule holds for this part of the operation alone, the rest is allowed; empty if there is no such part.
    pub only: &'static str,
    /// Which machine address it takes.
    pub names: Names,
    /// Why.
    pub why: &'static str,
}

/// A machine address among what an operation is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// None.
    Nothing,
    /// Frames that must be a device's, whoever they are for: [`denies_frames`].
    Devices,
    /// A device's memory, by an address that Xen must have found itself.
    Known,
    /// I/O ports that dom0 must have itself.
    Ports,
    /// Frames whose owner is looked at: by Xen, and by a hook if that is a protected domain.
    Owned,
}

/// What is done about an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It neither reads nor changes a guest's secrets, or stock tools need it and the reason says what it costs.
    Allowed,
    /// A domain does it to itself alone.
    Own,
    /// Allowed by this table; a hook of its own looks at the content.
    Hooked,
    /// Stock tools need it while they build a domain; denied from the first unpause on.
    UntilSealed,
    /// Denied if it concerns a protected domain, in whatever state.
    Never,
    /// It concerns the machine; denied unless `vmcrypt=off`.
    Host,
    /// Denied for every domain, protected or not, unless `vmcrypt=off`: it reaches further than its target.
    Nobody,
    /// Xen refuses it for PV guests; denied, should it ever ask.
    NotPv,
    /// Not in the shipped hypervisor, by this option or since nothing implements it on x86; denied, should Xen ask.
    Absent(&'static str),
}

impl Rule {
    const fn judged(self) -> u8 {
        match self {
            Self::Allowed | Self::Own | Self::Hooked => ALLOWED,
            Self::UntilSealed => UNTIL_SEALED,
            Self::Never | Self::Host | Self::NotPv | Self::Absent(_) => DENIED,
            Self::Nobody => NOBODY,
        }
    }
}

/// What the table holds where there is no row, so it comes first.
const DENIED: u8 = 0;
const ALLOWED: u8 = 1;
const UNTIL_SEALED: u8 = 2;
const NOBODY: u8 = 3;
/// Beside one of these: it names frames, which must be devices'.
const NAMES_DEVICES: u8 = 0x80;

/// Whether `operation` of the hypercall `family` is denied: to dom0 if it concerns a protected domain, which is in
/// `state`; without one, for the machine.
pub const fn denies(family: u32, operation: u64, state: Option<State>) -> bool {
    match judged(family, operation) & !NAMES_DEVICES {
        ALLOWED => false,
        UNTIL_SEALED => !matches!(state, Some(State::Building)),
        _ => true,
    }
}

/// Whether `operation` of the hypercall `family` is denied for every domain, protected or not.
pub const fn denies_all(family: u32, operation: u64) -> bool {
    judged(family, operation) == NOBODY
}

/// Whether `operation` of the hypercall `family` is denied `frames`, whoever its target is; one that should name none is.
pub const fn denies_frames(family: u32, operation: u64, frames: Frames) -> bool {
    judged(family, operation) & NAMES_DEVICES == 0 || !frames.are_a_device()
}

/// The table's byte for an operation.
const fn judged(family: u32, operation: u64) -> u8 {
    if family as usize >= SPANS.len() {
        return DENIED;
    }
    // The masks change nothing that is in range. They hold where the CPU runs ahead of the comparisons, too: dom0
    // chooses the number.
    let span = SPANS[family as usize % SPANS.len()];
    if operation >= span.len as u64 {
        return DENIED;
    }
    TABLE[(span.start as usize).wrapping_add(operation as usize) % TABLE.len()]
}

/// Name of a family for the log, padded with zeros; empty if there is no such family.
pub fn name(family: u32) -> &'static [u8; NAME_BYTES] {
    NAMES.get(family as usize).unwrap_or(&[0; NAME_BYTES])
}

/// Room for a name.
pub const NAME_BYTES: usize = 16;

/// Where the operations of a family are in the table.
#[derive(Clone, Copy)]
struct Span {
    start: u16,
    len: u16,
}

// Both lengths are powers of two.
static SPANS: [Span; 64] = spans();
static TABLE: [u8; 2048] = table();
static NAMES: [[u8; NAME_BYTES]; 64] = names();

const fn spans() -> [Span; 64] {
    let mut spans = [Span { start: 0, len: 0 }; 64];
    let (mut start, mut i) = (0, 0);
    while i < FAMILIES.len() {
        let family = &FAMILIES[i];
        let (mut len, mut row) = (0, 0);
        while row < family.doors.len() {
            if family.doors[row].number >= len {
                len = family.doors[row].number + 1;
            }
            row += 1;
        }
        assert!(spans[family.number as usize].len == 0, "a family comes once");
        spans[family.number as usize] = Span {
            start,
            len: len as u16,
        };
        start += len as u16;
        i += 1;
    }
    spans
}

const fn table() -> [u8; 2048] {
    let spans = spans();
    let mut table = [DENIED; 2048];
    let mut i = 0;
    while i < FAMILIES.len() {
        let family = &FAMILIES[i];
        let mut row = 0;
        while row < family.doors.len() {
            let door = &family.doors[row];
            assert!(
                row == 0 || family.doors[row - 1].number < door.number,
                "rows are in numeric order"
            );
            let names = match door.names {
                Names::Devices => NAMES_DEVICES,
                _ => 0,
            };
            table[spans[family.number as usize].start as usize + door.number as usize] =
                door.rule.judged() | names;
            row += 1;
        }
        i += 1;
    }
    table
}

const fn names() -> [[u8; NAME_BYTES]; 64] {
    let mut names = [[0; NAME_BYTES]; 64];
    let mut i = 0;
    while i < FAMILIES.len() {
        let name = FAMILIES[i].name.as_bytes();
        let mut at = 0;
        while at < name.len() {
            names[FAMILIES[i].number as usize][at] = name[at];
            at += 1;
        }
        i += 1;
    }
    names
}
