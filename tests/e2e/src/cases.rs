//! The table of all cases.

pub mod ask;
pub mod attack;
pub mod building;
pub mod canary;
pub mod consoles;
pub mod cycle;
pub mod doors;
pub mod freed;
pub mod fresh;
pub mod hostile;
pub mod life;
pub mod loader;
pub mod machine;
pub mod measurement;
pub mod migrate;
pub mod oracle;
pub mod owner;
pub mod refuse;
pub mod serial;
pub mod shape;
pub mod steps;
pub mod tamper;
pub mod timing;
pub mod vectors;
pub mod wipe;

use crate::case::Body::{Free, In};
use crate::case::Hypervisor::{Debug, Stock, VmCrypt};
use crate::case::{Case, Config};
use vmcrypt_testbed::{Store, Vectors};

const fn case(name: &'static str, about: &'static str, body: crate::case::Body) -> Case {
    Case { name, about, body }
}

/// AES-NI off: the portable, constant-time cipher.
const PORTABLE: Config = Config {
    vectors: Vectors::None,
    ..Config::VMCRYPT
};
/// Registers of 256 bits.
const WIDE: Config = Config {
    vectors: Vectors::Vaes,
    ..Config::VMCRYPT
};
/// The same with two CPUs.
const WIDE_TWO_CPUS: Config = Config { cpus: 2, ..WIDE };
/// The same under a dom0 whose XCR0 does not admit them.
const WIDE_NARROW_DOM0: Config = Config {
    xen_arguments: "dom0-cpuid=no-avx",
    ..WIDE
};
/// Asked for more than there is.
const WIDER: Config = Config {
    xen_arguments: "vmcrypt-backend=avx512",
    ..WIDE
};
/// Told to take the narrow one.
const NOT_WIDE: Config = Config {
    xen_arguments: "vmcrypt-backend=aes-ni",
    ..WIDE
};
/// The debug build, where the wide backend is given a wrong page in its test.
const WRONG_ANSWER: Config = Config {
    vectors: Vectors::Vaes,
    xen_arguments: "vmcrypt-backend-canary=avx2",
    ..Config::DEBUG
};
/// The debug build, which gives registers back with one bit changed.
const REGISTERS_CANARY: Config = Config {
    vectors: Vectors::Vaes,
    xen_arguments: "vmcrypt-vector-canary",
    ..Config::DEBUG
};
/// Built in and switched off.
const OFF: Config = Config {
    xen_arguments: "vmcrypt=off",
    ..Config::VMCRYPT
};
/// No guests but protected ones.
const STRICT: Config = Config {
    xen_arguments: "vmcrypt=strict",
    ..Config::VMCRYPT
};
/// An IOMMU as Xen uses it by itself.
const IOMMU: Config = Config {
    iommu: true,
    ..Config::VMCRYPT
};
/// The same, where dom0's devices reach dom0's memory alone.
const IOMMU_STRICT: Config = Config {
    xen_arguments: "dom0-iommu=strict",
    ..IOMMU
};
/// The other xenstore daemon.
const OCAML: Config = Config {
    store: Store::OCaml,
    ..Config::VMCRYPT
};
/// A CPU without XSAVE, whose record carries the sealed one.
const NO_XSAVE: Config = Config {
    xen_arguments: "xsave=0",
    ..Config::VMCRYPT
};
/// A replica pool that a sweep alone empties.
const SMALL_POOL: Config = Config {
    xen_arguments: "vmcrypt-pool=1500",
    ..Config::VMCRYPT
};

/// The debug build, whose generator is stuck once the keys of this boot are drawn: two windows of 32 words.
const STUCK_LATER: Config = Config {
    xen_arguments: "vmcrypt-entropy-canary=after:64",
    ..Config::DEBUG
};
/// dom0's lines on the console are marked.
const MARKED: Config = Config {
    xen_arguments: "vmcrypt-console=marked",
    ..Config::VMCRYPT
};
/// The debug build, told to find a page wrong.
const DEBUG_CANARY: Config = Config {
    xen_arguments: "vmcrypt-oracle-canary",
    ..Config::DEBUG
};

/// Measurements, which nobody passes or fails, and what takes too long: CI leaves them out and says so.
pub const ON_DEMAND: &[&str] = &[
    "tamper-full",
    "hostile-fuzz-full",
    "hostile-fuzz-full-debug",
    "timing",
    "unmapped",
    // One guest after the other.
    "shapes",
    "variants",
    "steps-200",
    // Its migration did not end within seven minutes on a busy host.
    "page-table-storm",
    // What CI does on the release build, its canaries, and what Xen writes by itself.
    "attacks-debug",
    "canary-xl-life",
    "hostile-fuzz-debug",
    "race-debug",
    "xen-writes",
    // Other ways into what `wipe-reboot` and `wipe-panic-reboots` go through.
    "wipe-power-off",
    "wipe-crash-halts",
    "wipe-crash-reboots",
    "wipe-panic-halts",
];

/// Every case: attacks, then the newest first. Those on VMCrypt run before the controls.
pub const ALL: &[Case] = &[
    case(
        "attacks",
        "none of them succeeds (table and JSON in target/testbed)",
        In(Config::TWO_CPUS, hostile::attacks),
    ),
    case(
        "steps",
        "40 random steps of an administrator: after each the guest is there and intact",
        In(Config::VMCRYPT, steps::short),
    ),
    case(
        "steps-200",
        "200 of them (VMCRYPT_STEPS_SEED: another seed)",
        In(Config::VMCRYPT, steps::long),
    ),
    case(
        "pvgrub",
        "a guest that GRUB starts: checkpoint, two cycles, migration; no start_info is shown while it runs",
        In(Config::VMCRYPT, loader::pvgrub),
    ),
    case(
        "refused-restart",
        "a guest that is refused ends and says why; nothing boots in its place on its disk",
        In(Config::VMCRYPT, refuse::restart),
    ),
    case(
        "refused-save",
        "a save that fails says why in Xen's log and in the guest's status",
        In(Config::VMCRYPT, refuse::save),
    ),
    case(
        "given-back",
        "memory that a guest gives back while it is migrated: refused where it runs, and migrated when it rests",
        In(Config::TWO_CPUS, migrate::given_back),
    ),
    case(
        "page-table-storm",
        "a guest whose page tables come and go all the time is migrated, saved and restored",
        In(Config::TWO_CPUS, migrate::storm),
    ),
    case(
        "save-paused",
        "xl save -p: the paused guest and its image are one life, which whoever runs first has",
        In(Config::VMCRYPT, fresh::save_paused),
    ),
    case(
        "save-paused-race",
        "the paused guest and a copy are unpaused at once, or the copy is destroyed meanwhile",
        In(Config::TWO_CPUS, fresh::save_paused_race),
    ),
    case(
        "maxmem",
        "room for more memory than there is at start: two cycles, and a checkpoint between them",
        In(Config::VMCRYPT, shape::maxmem),
    ),
    case(
        "grown",
        "grown above its memory at start, shrunk below it, saved at each size",
        In(Config::VMCRYPT, shape::grown),
    ),
    case(
        "hotplug",
        "more memory than its limit at start: Linux adds memory that it did not know of",
        In(Config::VMCRYPT, shape::hotplug),
    ),
    case(
        "grants",
        "a guest that maps a grant and unmaps it: two cycles",
        In(Config::VMCRYPT, shape::grants),
    ),
    case(
        "grants-held",
        "a guest that has a grant mapped: saved and restored",
        In(Config::VMCRYPT, shape::grants_held),
    ),
    case(
        "maxmem-migrate",
        "room for more memory than there is at start, grown: migrated, twice",
        In(Config::TWO_CPUS, shape::migrated),
    ),
    case(
        "shapes",
        "memory and maxmem far apart, and next to what a P2M leaf or its page table covers",
        In(Config::VMCRYPT, shape::shapes),
    ),
    case(
        "variants",
        "vCPUs, CPU policy, TSC, memory map, bounce buffers",
        In(Config::VMCRYPT, shape::varied),
    ),
    case(
        "vcpu-mode",
        "a new guest with a vCPU that has no page tables of its mode is not unpaused",
        In(Config::VMCRYPT, building::vcpu_mode),
    ),
    case(
        "pvh-beside",
        "a guest that is not PV is created, and Xen says that it is not protected",
        In(Config::VMCRYPT, machine::pvh_beside),
    ),
    case(
        "strict",
        "vmcrypt=strict: a guest that is not PV is not created",
        In(STRICT, machine::strict),
    ),
    case(
        "iommu-relaxed",
        "behind an IOMMU that lets dom0's devices reach all memory: disk, save and restore",
        In(IOMMU, machine::iommu_relaxed),
    ),
    case(
        "iommu-strict",
        "the same with dom0-iommu=strict",
        In(IOMMU_STRICT, machine::iommu_strict),
    ),
    case(
        "sleep-register",
        "dom0 writes to the register that puts the machine to sleep: it stays awake",
        Free(&[VmCrypt], machine::sleep_register),
    ),
    case(
        "efi",
        "a host that UEFI started: dom0 cannot change firmware that Xen calls; variables, save, restore and reboot work",
        Free(&[VmCrypt], machine::efi),
    ),
    case(
        "dom0-pvh",
        "with a PVH dom0 Xen does not start",
        Free(&[VmCrypt], machine::dom0_pvh),
    ),
    case(
        "canary-sleep",
        "stock Xen: the machine falls asleep",
        Free(&[Stock], machine::canary_sleep),
    ),
    case(
        "canary-efi",
        "stock Xen: dom0 changes firmware that Xen calls",
        Free(&[Stock], machine::canary_efi),
    ),
    case(
        "canary-strict",
        "stock Xen: a guest that is not PV is created",
        In(Config::STOCK, machine::canary_strict),
    ),
    case(
        "canary-image",
        "stock Xen: the image holds the secret, and the guest comes back",
        In(Config::STOCK, canary::image),
    ),
    case(
        "canary-sweep",
        "stock Xen: a sweep of a running guest finds the secret",
        In(Config::STOCK, canary::sweep),
    ),
    case(
        "canary-registers",
        "stock Xen: dom0 reads the guest's registers, in calls and in the image",
        In(Config::STOCK, canary::registers),
    ),
    case(
        "canary-migration",
        "stock Xen: the wire carries the secret",
        In(Config::STOCK_TWO_CPUS, canary::migration),
    ),
    case(
        "canary-checkpoint",
        "stock Xen: two saves of one guest hold equal pages",
        In(Config::STOCK, canary::checkpoint),
    ),
    case(
        "canary-bit-flip",
        "stock Xen: an image with a changed bit is restored and runs",
        In(Config::STOCK, canary::bit_flip),
    ),
    case(
        "canary-write",
        "stock Xen: dom0 maps a running guest's pages writable",
        In(Config::STOCK, canary::write),
    ),
    case(
        "canary-attacks",
        "stock Xen: each attack of an evil dom0 succeeds, or it is said why it cannot",
        In(Config::STOCK_TWO_CPUS, hostile::canary_attacks),
    ),
    case(
        "canary-race",
        "stock Xen: threads that race with each other see the secret",
        In(Config::STOCK_TWO_CPUS, hostile::canary_race),
    ),
    case(
        "canary-fuzz",
        "stock Xen: random calls come upon the secret",
        In(Config::STOCK_TWO_CPUS, hostile::canary_fuzz),
    ),
    case(
        "canary-xl-life",
        "stock Xen: what an administrator does on an ordinary day; a core dump holds the secret",
        In(Config::STOCK_TWO_CPUS, life::stock),
    ),
    case(
        "canary-doors",
        "stock Xen: dom0 changes Xen's parameters at run time",
        In(Config::STOCK, doors::canary),
    ),
    case(
        "canary-maps-over-unpause",
        "stock Xen: maps and grants from before the first unpause show what the guest does after it",
        In(Config::STOCK, canary::maps_over_unpause),
    ),
    case(
        "canary-ring-place",
        "stock Xen: a new guest starts with a free page as its ring",
        In(Config::STOCK, canary::ring_place),
    ),
    case(
        "canary-rollback",
        "stock Xen: a guest is turned back to an old image, and restored twice from one",
        In(Config::STOCK, fresh::canary),
    ),
    case(
        "canary-consoles",
        "stock Xen: debug keys and crashes show guests' registers on the console",
        In(Config::STOCK_TWO_CPUS, consoles::canary),
    ),
    case(
        "canary-freed-pages",
        "stock Xen: pages that a guest gave back show the secret to dom0",
        In(Config::STOCK, freed::canary),
    ),
    case(
        "canary-replicas",
        "stock Xen: a sweep of all frames under every owner's name finds the secret",
        In(Config::STOCK, canary::replicas),
    ),
    case(
        "save-restore",
        "saved and restored with its secret intact; image, sweep and status show ciphertext",
        In(Config::VMCRYPT, cycle::save_restore),
    ),
    case(
        "restore-cpus",
        "a restored guest is decrypted by idle CPUs, too",
        In(Config::TWO_CPUS, cycle::restore_cpus),
    ),
    case(
        "five-cycles",
        "five saves and restores in a row",
        In(Config::VMCRYPT, cycle::five_cycles),
    ),
    case(
        "checkpoint",
        "saved while it goes on, then saved again: the two images share no private page",
        In(Config::VMCRYPT, cycle::checkpoint),
    ),
    case(
        "sweep",
        "a sweep of a running guest finds nothing",
        In(Config::VMCRYPT, attack::sweep),
    ),
    case(
        "registers",
        "patterns in general, SSE and AVX registers: never seen by dom0, intact after restore",
        In(Config::VMCRYPT, attack::registers),
    ),
    case(
        "vcpus-2",
        "two vCPUs, all of them writing",
        In(Config::VMCRYPT, cycle::vcpus_2),
    ),
    case(
        "vcpus-4",
        "four vCPUs, all of them writing",
        In(Config::VMCRYPT, cycle::vcpus_4),
    ),
    case(
        "memory-96",
        "a guest of 96 MiB, the smallest that Debian's kernel fits in",
        In(Config::VMCRYPT, cycle::memory_smallest),
    ),
    case(
        "memory-1024",
        "a guest of 1 GiB",
        In(Config::VMCRYPT, cycle::memory_1024),
    ),
    case(
        "balloon",
        "memory set down and up before saving",
        In(Config::VMCRYPT, cycle::balloon),
    ),
    case(
        "io",
        "disk on blkback and network on netback at work across the cycle",
        In(Config::VMCRYPT, cycle::io),
    ),
    case(
        "two-at-once",
        "two guests saved and restored at the same time",
        In(Config::VMCRYPT, cycle::two_at_once),
    ),
    case(
        "console",
        "xl console typed into and read",
        In(Config::VMCRYPT, cycle::console),
    ),
    case(
        "save-killed",
        "a save killed half-way leaves the guest running, and a second one succeeds",
        In(Config::VMCRYPT, cycle::save_killed),
    ),
    case(
        "restore-killed",
        "a restore killed half-way leaves the image as good as it was",
        In(Config::VMCRYPT, cycle::restore_killed),
    ),
    case(
        "disk-full",
        "a save to a full disk leaves the guest running, and a second one succeeds",
        In(Config::VMCRYPT, cycle::disk_full),
    ),
    case(
        "image-truncated",
        "truncated images are refused, the good one is not",
        In(Config::VMCRYPT, refuse::truncated),
    ),
    case(
        "image-bit-flip",
        "images with one bit changed are refused, the good one is not",
        In(Config::VMCRYPT, refuse::bit_flips),
    ),
    case(
        "image-record",
        "records that are missing, cut, of another domain or of another save are refused",
        In(Config::VMCRYPT, refuse::records),
    ),
    case(
        "image-pages",
        "pages that are missing, swapped, stale or renumbered are refused",
        In(Config::VMCRYPT, refuse::pages),
    ),
    case(
        "image-vcpus",
        "vCPUs that are too many, or in another mode, are refused",
        In(Config::VMCRYPT, refuse::vcpus),
    ),
    case(
        "image-types",
        "page tables as data and data as page tables are refused",
        In(Config::VMCRYPT, refuse::types),
    ),
    case(
        "bad-maps",
        "bad maps get an errno and do no harm",
        In(Config::VMCRYPT, attack::bad_maps),
    ),
    case(
        "bad-calls",
        "bare hypercalls that no toolstack makes are refused and do no harm",
        In(Config::VMCRYPT, attack::bad_calls),
    ),
    case(
        "doors",
        "operations on the machine that reach guests are refused, and stock tools go on working",
        In(Config::VMCRYPT, doors::doors),
    ),
    case(
        "attacks-debug",
        "nor on the debug build, and no assertion fails",
        In(Config::DEBUG, hostile::attacks_debug),
    ),
    case(
        "race",
        "maps that race with start, pause, save and end of guests see nothing and break nothing",
        In(Config::TWO_CPUS, hostile::race),
    ),
    case(
        "race-debug",
        "the same on the debug build",
        In(Config::DEBUG, hostile::race),
    ),
    case(
        "hostile-fuzz",
        "random calls see nothing and break nothing",
        In(Config::TWO_CPUS, hostile::fuzz),
    ),
    case(
        "hostile-fuzz-debug",
        "the same on the debug build",
        In(Config::DEBUG, hostile::fuzz),
    ),
    case(
        "hostile-fuzz-full",
        "a million of them",
        In(Config::TWO_CPUS, hostile::fuzz_full),
    ),
    case(
        "hostile-fuzz-full-debug",
        "a million of them on the debug build",
        In(Config::DEBUG, hostile::fuzz_full),
    ),
    case(
        "xl-life",
        "what an administrator does on an ordinary day works as on stock; a core dump holds ciphertext",
        In(Config::TWO_CPUS, life::protected),
    ),
    case(
        "xen-writes",
        "what Xen writes into a guest's pages, in a flood of events, neither breaks a save nor shows",
        In(Config::TWO_CPUS, life::xen_writes),
    ),
    case(
        "maps-over-unpause",
        "a new guest with maps or grants of dom0's is not unpaused",
        In(Config::VMCRYPT, building::maps_over_unpause),
    ),
    case(
        "ring-place",
        "a new guest whose rings dom0 moved is not unpaused",
        In(Config::VMCRYPT, building::ring_place),
    ),
    case(
        "measurement",
        "a new guest's launch measurement is the value that was worked out without Xen",
        In(Config::VMCRYPT, measurement::agrees),
    ),
    case(
        "measurement-edits",
        "whatever dom0 changes in a launch gives another measurement, or is refused",
        In(Config::VMCRYPT, measurement::differs),
    ),
    case(
        "consoles",
        "debug keys and crashes show nothing of guests' registers on the console",
        In(Config::TWO_CPUS, consoles::consoles),
    ),
    case(
        "freed-pages",
        "pages that a guest gave back are empty when dom0 gets them",
        In(Config::VMCRYPT, freed::freed),
    ),
    case(
        "replicas",
        "the frames that dom0 is shown cannot be mapped as anybody's",
        In(Config::VMCRYPT, attack::replicas),
    ),
    case(
        "rollback",
        "an image is restored once, and not at all once its guest went on",
        In(Config::VMCRYPT, fresh::rollback),
    ),
    case(
        "fork",
        "a guest goes on in one place: where it was, or where it was restored",
        In(Config::VMCRYPT, fresh::fork),
    ),
    case(
        "two-records",
        "of two records of one suspend the last one alone restores, once",
        In(Config::VMCRYPT, fresh::two_records),
    ),
    case(
        "stale-export",
        "a save that leaves out what the guest wrote last gets no record",
        In(Config::VMCRYPT, attack::stale_export),
    ),
    case(
        "map-while-destroyed",
        "maps that race with the guest's end do no harm",
        In(Config::VMCRYPT, attack::map_while_destroyed),
    ),
    case(
        "wipe-destroyed",
        "the keys of a destroyed guest are nowhere in the machine's memory, even while dom0 holds maps of it",
        In(Config::VMCRYPT, wipe::destroyed),
    ),
    case(
        "migrate-idle",
        "live migration of an idle guest, wire recorded",
        In(Config::TWO_CPUS, migrate::idle),
    ),
    case(
        "migrate-busy",
        "live migration of a guest that writes all the time, wire recorded",
        In(Config::TWO_CPUS, migrate::busy),
    ),
    case(
        "portable-cipher",
        "the same without AES-NI",
        In(PORTABLE, cycle::portable),
    ),
    case(
        "canary-wide-registers",
        "debug build: told to give registers back changed, Xen is caught at it",
        In(REGISTERS_CANARY, vectors::canary),
    ),
    case(
        "wide-registers",
        "by VAES on 256 bits: the guest's and dom0's own AVX registers stay as they were",
        In(WIDE, vectors::registers),
    ),
    case(
        "wide-save-restore",
        "saved and restored by VAES on 256 bits",
        In(WIDE, vectors::save_restore),
    ),
    case(
        "wide-wipe",
        "the keys of a guest destroyed after that are nowhere in the machine's memory",
        In(WIDE, vectors::wipe),
    ),
    case(
        "wide-narrow-dom0",
        "the same under a dom0 that has no AVX, whose XCR0 does not admit what Xen uses",
        In(WIDE_NARROW_DOM0, vectors::narrow_dom0),
    ),
    case(
        "wide-late-cpu",
        "the same on a CPU that was switched off and on again",
        In(WIDE_TWO_CPUS, vectors::late_cpu),
    ),
    case(
        "backend-impossible",
        "vmcrypt-backend= asks for what the machine lacks: Xen says so and takes the next best",
        In(WIDER, vectors::impossible),
    ),
    case(
        "backend-forced",
        "vmcrypt-backend= asks for less than the machine has, and gets it",
        In(NOT_WIDE, vectors::forced),
    ),
    case(
        "canary-backend",
        "debug build: a backend that gives a wrong answer at boot is not used",
        In(WRONG_ANSWER, vectors::wrong_answer),
    ),
    case(
        "no-xsave",
        "the same on a CPU without XSAVE",
        In(NO_XSAVE, cycle::no_xsave),
    ),
    case(
        "no-entropy",
        "on a CPU without RDSEED and RDRAND Xen does not start",
        Free(&[VmCrypt], refuse::no_entropy),
    ),
    case(
        "stuck-entropy",
        "debug build: with a generator that repeats itself Xen does not start",
        Free(&[Debug], refuse::stuck_entropy),
    ),
    case(
        "stuck-entropy-later",
        "debug build: a generator that is stuck after boot lets no session open, and harms nothing else",
        In(STUCK_LATER, refuse::stuck_later),
    ),
    case(
        "pool-exhausted",
        "an empty replica pool refuses maps and nothing else",
        In(SMALL_POOL, attack::pool),
    ),
    case(
        "console-key",
        "the host's public key is shown before dom0 is, and again to who types for it, with nothing of dom0's beside it",
        In(Config::VMCRYPT, serial::typed),
    ),
    case(
        "console-marked",
        "with vmcrypt-console=marked dom0 cannot pass a line on the console off as Xen's",
        In(MARKED, serial::marked),
    ),
    case(
        "ask",
        "what Xen tells a guest of itself proves to its owner where it runs; dom0 gets nothing of the kind",
        Free(&[VmCrypt], ask::owned),
    ),
    case(
        "ask-ownerless",
        "a guest without an owner's key learns that it is protected, and gets no proof of it",
        In(Config::VMCRYPT, ask::ownerless),
    ),
    case(
        "ask-off",
        "with vmcrypt=off a guest learns that it is not protected",
        In(OFF, ask::off),
    ),
    case(
        "canary-ask",
        "stock Xen: so it does",
        In(Config::STOCK, ask::stock),
    ),
    case(
        "export-limit",
        "one session shows a page only so often; then maps fail until nothing is held",
        In(Config::TWO_CPUS, attack::wear_out),
    ),
    case(
        "oxenstored",
        "the same with the xenstore daemon that maps the ring",
        In(OCAML, cycle::save_restore),
    ),
    case(
        "canary-oracle",
        "debug build: a page that was noted wrong is told, and ends the case",
        In(DEBUG_CANARY, oracle::canary),
    ),
    case(
        "oracle",
        "debug build: at every suspend the noted pages are those that a fresh look finds; no assertion fails",
        In(Config::DEBUG, oracle::agrees),
    ),
    case(
        "canary-wipe",
        "debug build: told to wipe nothing, Xen leaves every key in memory when dom0 reboots",
        Free(&[Debug], wipe::canary),
    ),
    case(
        "wipe-reboot",
        "after dom0's reboot no key is in the machine's memory",
        Free(&[VmCrypt], wipe::reboot),
    ),
    case(
        "wipe-power-off",
        "nor when it powers off",
        Free(&[VmCrypt], wipe::power_off),
    ),
    case(
        "wipe-crash-halts",
        "nor when dom0's kernel panics and Xen halts",
        Free(&[VmCrypt], wipe::crash_halts),
    ),
    case(
        "wipe-crash-reboots",
        "nor when dom0's kernel panics and Xen reboots",
        Free(&[VmCrypt], wipe::crash_reboots),
    ),
    case(
        "wipe-panic-halts",
        "nor when Xen panics under load and halts",
        Free(&[VmCrypt], wipe::panic_halts),
    ),
    case(
        "wipe-panic-reboots",
        "nor when Xen panics under load and reboots",
        Free(&[VmCrypt], wipe::panic_reboots),
    ),
    case(
        "owner-key",
        "an image outlives the host's reboot under its owner's key, and under nothing else",
        Free(&[VmCrypt], owner::reboot),
    ),
    case(
        "owner-policy",
        "an owner's key is for the launch that he named, and restores as often as he allows",
        Free(&[VmCrypt], owner::policy),
    ),
    case(
        "owner-rotation",
        "an image opens under the keys of two epochs, its guest goes on under the later; what a grant allows is asked last",
        Free(&[VmCrypt], owner::rotation),
    ),
    case(
        "image-formats",
        "the committed image of each format version is restored, and its guest finds its memory intact",
        Free(&[VmCrypt], owner::formats),
    ),
    case(
        "kernel",
        "the smallest guest, with every kind of page and two vCPUs: saved and restored intact",
        In(Config::VMCRYPT, tamper::kernel),
    ),
    case(
        "canary-tamper",
        "stock Xen: changes of an image are let through, and seen to be",
        In(Config::STOCK, tamper::canary),
    ),
    case(
        "tamper",
        "one change of each kind for every part of an image: refused, or harmless for a stated reason",
        In(Config::VMCRYPT, tamper::sample),
    ),
    case(
        "tamper-full",
        "the same with every change, which takes an hour (JSON and table in target/testbed)",
        In(Config::VMCRYPT, tamper::full),
    ),
    case("off", "vmcrypt=off behaves as stock", In(OFF, canary::off)),
    case(
        "timing",
        "times of save and restore, stock and VMCrypt in turns (JSON in target/testbed)",
        Free(&[Stock, VmCrypt], timing::measure),
    ),
    case(
        "unmapped",
        "instructions for a fork in a guest that nobody maps, against stock Xen",
        Free(&[Stock, VmCrypt], timing::unmapped),
    ),
];
