//! The ways into a guest that the threat model answers, and which attacks try them.
//!
//! `cargo xtask doors` makes the tables of docs/THREAT-MODEL.md of what is here.

use End::{Argued, Closed, Open};

use crate::attacks::{self, Attack};

/// What became of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is denied, or shows nothing
    Closed,
    /// It stays open as far as the text says
    Argued,
    /// It is beyond what a hypervisor can do
    Open,
}

/// A way around maps.
#[derive(Debug)]
pub struct Way {
    /// How attacks name it.
    pub row: &'static str,
    /// What dom0 uses.
    pub way: &'static str,
    /// What became of it.
    pub end: End,
    /// How, or why not.
    pub how: &'static str,
}

/// An attack on the design, and the answer in it.
#[derive(Debug)]
pub struct Finding {
    /// How attacks name it; empty for one that only cases try.
    pub row: &'static str,
    /// What dom0 does.
    pub attack: &'static str,
    /// Why it comes to nothing.
    pub answer: &'static str,
    /// What shows it beside attacks.
    pub shown: &'static str,
}

/// An attack of the registry, for a table.
#[derive(Debug)]
pub struct Tried {
    /// Its name.
    pub name: &'static str,
    /// Which ways it tries.
    pub rows: &'static str,
    /// What dom0 does.
    pub about: &'static str,
    /// Why it comes to nothing on any Xen; empty if it succeeds on stock Xen.
    pub argued: &'static str,
}

/// All attacks.
pub fn tried() -> impl Iterator<Item = Tried> {
    attacks::all().map(|attack: &Attack| Tried {
        name: attack.name,
        rows: attack.row,
        about: attack.about,
        argued: attack.argued.unwrap_or_default(),
    })
}

impl Tried {
    /// Whether it tries this way.
    pub fn tries(&self, row: &str) -> bool {
        self.rows.split(", ").any(|one| one == row)
    }
}

const fn way(row: &'static str, way: &'static str, end: End, how: &'static str) -> Way {
    Way { row, way, end, how }
}

const fn finding(
    row: &'static str,
    attack: &'static str,
    answer: &'static str,
    shown: &'static str,
) -> Finding {
    Finding {
        row,
        attack,
        answer,
        shown,
    }
}

/// Ways around maps.
#[rustfmt::skip] // a table
pub const WAYS: &[Way] = &[
    way("1", "foreign map", Closed, "encrypted copies; `policy.rs`"),
    way("2", "`mmu_update` of another domain's page tables or pages", Closed, "denied once sealed"),
    way("3", "`MMU_MACHPHYS_UPDATE`", Closed, "denied once sealed"),
    way("4", "`MMUEXT_COPY_PAGE`, `CLEAR_PAGE`", Closed, "denied in every state"),
    way("5", "pin, unpin", Closed, "denied once sealed. Pins that a restore leaves out: see Open"),
    way("6", "`decrease_reservation`", Closed, "denied once sealed; pages that the guest frees are scrubbed"),
    way("7", "`exchange`", Closed, "denied once sealed"),
    way("8", "`populate_physmap`, `increase_reservation`", Closed, "denied once sealed; one page a PFN is demanded at sealing"),
    way("9", "`acquire_resource`, `setup_table`, `get_status_frames`", Closed, "denied once sealed; grant table frames are mapped read-only"),
    way("10", "grant map and copy", Argued, "a guest shows what it grants. At sealing nothing but the rings may be granted, later the guest alone writes its table"),
    way("11", "get registers", Closed, "contexts blanked but for what finds frames, entry points and MSRs blanked, XSAVE replaced by the record"),
    way("12", "set registers", Closed, "denied once sealed, but for RAX = 1 after a cancelled suspend; all of it comes from the record"),
    way("13", "`hypercall_init`", Closed, "denied once sealed"),
    way("14", "`gdbsx_*`, `setdebugging`", Closed, "denied in every state, and left out of the build"),
    way("15", "HVM contexts, `debug_op`, `vmtrace_op`", Closed, "denied for a protected domain; Xen refuses them for PV, too"),
    way("16", "vm_event, monitor, access, paging, sharing, altp2m, dm_op, hvm_op", Closed, "the domctls are denied; the others Xen refuses for PV before it looks at anything else"),
    way("17", "log-dirty", Argued, "shows which pages are written (not promised); what it loses withholds the record (R5)"),
    way("18", "`getpageframeinfo3`", Argued, "types and pins of pages, which a map shows anyway; `xl save` needs it"),
    way("19", "`set_target`", Closed, "denied in every state; a target that is PV is refused by Xen"),
    way("20", "devices: assignment, interrupts, I/O memory, I/O ports, `map_pirq`", Closed, "denied in every state: a protected guest has no passed-through device"),
    way("21", "dom0's own DMA", Open, "Xen says at boot and in `vmcrypt status` when there is no IOMMU, dom0 is not strict, or interrupts are not remapped"),
    way("22", "kexec, crash kernel", Closed, "left out of the build, which checks that"),
    way("23", "live patches", Closed, "left out of the build, and denied"),
    way("24", "microcode", Closed, "denied at run time; Xen's `ucode=` loads it at boot, which is measured"),
    way("25", "reboot, S3", Closed, "keys are wiped on every way down that is Xen's; S3 is denied. Resets behind Xen's back: see Open"),
    way("26", "debug keys, console", Closed, "registers, code and stacks are hidden; keys are judged one by one. Remaining: sizes, states, event channels, grants, frame numbers"),
    way("27", "trace buffers", Closed, "left out of the build, and denied"),
    way("28", "xenoprof, vPMU", Closed, "xenoprof is left out; modes and features of the vPMU cannot be set, so that each domain samples itself at most"),
    way("29", "`page_offline_op`", Closed, "denied. Broken memory is found by a reboot"),
    way("30", "made-up machine checks", Closed, "denied"),
    way("31", "MSRs", Argued, "`resource_op` and `change_freq` are denied. What dom0 may write as a PV guest are its own; with Xen's `cpufreq=dom0-kernel` it writes P-states, so leave it out"),
    way("32", "chipset through I/O ports, PCI configuration, SMI", Open, "dom0 owns devices and firmware calls; measured boot and locked firmware are the answer"),
    way("33", "L1TF", Open, "Xen says at boot and in `vmcrypt status` when the CPU has it and dom0 and guests do not run under `pv-l1tf`"),
    way("34", "scheduler, cpupools, PSR, hyperthreads, time", Argued, "side channels and availability, not promised. The cache's counters are not readable, TSC and wall clock offset of a sealed domain not settable"),
    way("35", "`set_cpu_policy`", Closed, "denied once sealed; a restored domain must have the recorded one"),
    way("36", "`createdomain`", Argued, "every 64-bit PV domain is protected; others tell that they are not, and an owner's key is for a measured PV domain alone"),
    way("37", "destroy", Closed, "keys are wiped first, nothing is mapped after that, pages are scrubbed"),
    way("38", "pause, unpause, resume, soft reset", Closed, "the first unpause verifies; a resume ends the session and is refused to a guest that lives elsewhere; soft reset is denied"),
    way("39", "event channels", Argued, "reset, status, new ports: availability and numbers"),
    way("40", "hypfs, EFI calls, symbols, coverage", Closed, "writes, `get_symbol` and coverage are denied. EFI variables stay dom0's: it chooses what boots next, which measured boot sees"),
    way("41", "argo, tmem", Closed, "left out of the build; tmem is gone from Xen"),
    way("42", "boot disk", Open, "whoever replaces the hypervisor has won; measured boot"),
    way("43", "memory of no domain: code that CPUs start with, firmware that Xen calls, tables that it executes, interrupt addresses", Closed, "dom0 can read all but the last, for which it has no capability, and write to none (`machine.c`)"),
    way("44", "a guest's RAM as a device's, or as a foreign page, of a helper domain that is not protected", Closed, "no capability for RAM; each operation that names frames is asked what lies there; foreign pages are denied by their owner"),
    way("45", "helper domains: HVM without HAP, nested virtualisation, altp2m, events, modes of shadow paging, operations before there is a vCPU", Closed, "refused when the domain is created, or denied for every domain; `vmcrypt=strict` has no such domain at all"),
    way("46", "devices by which Xen writes: tables of interrupts, I/O APICs, HPET, PCI devices that change their kind or go while they are in use", Closed, "checked where dom0 names them (`devices.c`)"),
    way("47", "power management of CPUs: ports, counts and limits that dom0 uploads; the base of configuration space of old AMD machines", Closed, "only registers of the CPU's, counts within bounds (`devices.c`)"),
    way("48", "sleep behind Xen's back: PM1_CNT, the sleep control register, chipset registers that move them, S5 with the value of S3", Closed, "the bit does not pass; Intel's registers that move it are dom0's to read; before S5 the waking vector is cleared. Other chipsets: see Open"),
    way("49", "a dom0 that is not PV", Closed, "Xen does not start it: its foreign pages pass by page tables"),
    way("50", "poweroff or crash by `remote_shutdown` during the guest's own suspend", Closed, "a guest that asked to be suspended always gets RAX = 1 when it resumes"),
    way("51", "a new vCPU that is left without page tables of its mode", Closed, "refused at the first unpause"),
];

/// What reviews of the design found.
#[rustfmt::skip] // a table
pub const FINDINGS: &[Finding] = &[
    finding("R1", "a live map outlives the plain class", "page tables, descriptors, P2M and `start_info` are shown as copies, made when mapped; live are shared_info, grant frames (read-only) and the two rings alone", "`vmcrypt-core/tests/logic/policy.rs`"),
    finding("R2", "the guest writes while its page is encrypted", "one copy into a page of this CPU that no domain maps; judged, encrypted and tagged there; a replica receives only the result", "case `migrate-busy`"),
    finding("R3", "decryption announced, record withheld", "there is no announced decryption: pages are decrypted at the first unpause alone, after the record authenticated", "by construction"),
    finding("R4", "dom0 suspends the guest at any instruction", "remote suspend is refused; the state Suspended needs the guest's own request; RDX is shown only if it is what the guest passed as its `start_info`; a resumed guest always gets RAX = 1 from Xen", ""),
    finding("R5", "dom0 drives log-dirty to leave out a changed page", "a bit for each PFN, kept apart from dom0's bitmap (`dirty.c`): an export counts only if the page was write-protected and every write since was noticed, or the guest had stopped; a failed allocation, a failed harvest or log-dirty off withhold the record. Not noticed, as on stock Xen: writes of backends through grants that are still mapped or after the guest has stopped, and Xen's own into vcpu_info, runstate and time areas", "case `stale-export`"),
    finding("R6", "the tag misses the first 16 bytes", "the tag is a PRF of M xor H(T, N), which covers all of it", "`docs/CRYPTO.md`, `vmcrypt-core/tests/crypto`"),
    finding("R7", "two frames with one PFN", "foreign populate, increase, exchange and M2P updates are refused after sealing, and those under way are waited for; one frame for each PFN is demanded at sealing", ""),
    finding("R8", "vCPUs that are not in the record", "their number, online state, kernel mode and vm_assist must be the recorded ones", "case `image-vcpus`"),
    finding("R9", "maps that survive sealing", "foreign and grant entries are counted per frame from creation on; sealing first demands none on grant tables and shared_info, flushes all TLBs, demands that the grant table names only the rings, waits until calls under way are over, demands no entry on any page but the rings and no grant in use of any other (Xen asks a grant's entry when its use begins, and a device or an HVM domain uses it without an entry that is counted), flushes again, and only then judges anything", "case `maps-over-unpause`"),
    finding("R10", "plain state is changed", "page types, pins and classes must be the recorded ones, the P2M must name every page where it is; page tables, descriptor tables and `start_info` have a digest in the record, frames as PFNs, owner checked; cr3, cr1 and GDT must name the recorded PFNs; shared_info and MSRs come from the record", "case `image-bit-flip`"),
    finding("R11", "a restore is repeated, an old image is restored, a guest goes on beside its copy", "a ledger of the sessions that may be restored (`ledger.c`): each once, none whose guest went on, of one suspend the last record alone; a guest that was restored elsewhere does not run", "cases `rollback`, `fork`, `two-records`, `save-paused`"),
    finding("", "dom0 makes up a key for a guest", "keys are opened in HPKE's mode auth and taken from owners on Xen's command line alone; by default from nobody", "case `owner-key`"),
    finding("", "dom0 changes, mixes, replays or keeps a sealed key", "all of it is authenticated; it opens in one boot of one host; serials do not fall, and each is one grant's; the latest speaks for all keys of a domain; loading it again gives no restore more", "cases `owner-key`, `owner-policy`, `owner-rotation`, `dom0-tools/tests/owner.rs`, `vmcrypt-core/tests/logic/keyring.rs`"),
    finding("R12", "a ring that names future heap", "rings must lie between `start_info` and the initial page tables", "case `ring-place`"),
    finding("R13", "redaction breaks stock tools", "flags, GDT and LDT fields, CR1 and CR3 are shown; RAX = 1 is accepted from a tool that cancels a suspend", "cases `save-restore`, `checkpoint`"),
    finding("R14", "no XSAVE, no record", "the feature mask shown is never zero; the size shown is the largest that the record can have", "case `no-xsave`"),
    finding("R15", "the pause count drops before verification", "verification comes before the decrement and leaves the domain paused on failure", "case `image-bit-flip`"),
    finding("R16", "replicas reached as Xen's own frames", "they belong to a domain that no hypercall can name and have no M2P entry; naming one is refused", "case `replicas`"),
    finding("R17", "sessions that are never closed", "a session ends when the guest resumes, or when it may run and dom0 has nothing of it mapped and log-dirty is off; 64 exports for each page and 4,096 at most, then maps fail until nothing is held", "`vmcrypt-core/tests/logic/life.rs`, case `export-limit`"),
    finding("R18", "keys from a weak generator", "RDSEED or RDRAND, with a test of what they give, or Xen does not start", "cases `no-entropy`, `stuck-entropy`, `stuck-entropy-later`"),
    finding("R19", "memory for tags", "reserved at the first unpause, which fails with -ENOMEM if there is none; raised with the domain's limit", "case `balloon`"),
    finding("R20", "decryption under a type that Xen relies on", "a writable type reference is held while a page is decrypted; a class needs a count above zero and a validated type", "cases `image-pages`, `image-types`"),
    finding("R21", "32-bit guests, set_target", "refused", "`logic::doors`"),
    finding("", "keys that outlive a destroyed guest, because dom0 holds a map of it", "its keys, tags and record are wiped when dom0 asks for its end; nothing of it can be mapped after that", "case `wipe-destroyed`"),
    finding("", "keys that outlive Xen, read by what boots next", "wiped on every way down that is Xen's: restart, halt, power off, panic, dom0's crash; CPUs that could not be stopped publish nothing any more", "cases `wipe-*`"),
];

/// Traps in counting maps, which attacks name by T and a number.
#[rustfmt::skip] // a table
pub const TRAPS: &[Finding] = &[
    finding("T1", "dom0 clears the entry of a grant as if it were that of a map, so that a count falls too far; or keeps from the time of building what is never counted again", "maps and grants are counted in one number for each frame from the domain's creation on; a domain with any of them but those of rings is not unpaused for the first time", "case `maps-over-unpause`"),
    finding("T2", "dom0 goes on reading through a translation that a CPU has cached, after the entry is gone", "a replica is given to another page only after a flush of all CPUs; what it held was ciphertext of a page that dom0 had mapped anyway", "case `replicas`"),
    finding("T3", "a page ends, is freed or lives on under other names while it is mapped: third domains, other memory types, a mapper that dies, a guest that is destroyed", "dom0 maps replicas, never the page; they are returned by the frame that the entry names, whoever's table it is in; entries for guests' pages are write-back or refused; keys end with the guest, and nothing of it is mapped after that", "cases `wipe-destroyed`, `race`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<&'static str> {
        let findings = FINDINGS.iter().chain(TRAPS).map(|finding| finding.row);
        WAYS.iter().map(|way| way.row).chain(findings).collect()
    }

    #[test]
    fn every_attack_tries_a_row_that_there_is() {
        for attack in tried() {
            for row in attack.rows.split(", ") {
                assert!(rows().contains(&row), "{}: {row}", attack.about);
            }
        }
    }

    #[test]
    fn every_row_is_tried_or_shown() {
        let shown: Vec<_> = FINDINGS
            .iter()
            .chain(TRAPS)
            .filter(|finding| !finding.shown.is_empty())
            .map(|finding| finding.row)
            .collect();
        for row in rows() {
            assert!(
                shown.contains(&row) || tried().any(|attack| attack.tries(row)),
                "{row}"
            );
        }
    }
}
