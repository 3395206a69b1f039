//! Every reason for which VMCrypt says no.

/// Reason for which an operation was refused. The numeric value is stable within one
/// [interface version](crate::abi::INTERFACE_VERSION).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A page of a sealed domain may be mapped read-only alone.
    WritableMap = 0,
    /// Every replica frame is in use.
    PoolExhausted = 1,
    /// Replicas are mapped write-back alone.
    NotWriteBack = 2,
    /// A domain that is being sealed cannot be mapped.
    Sealing = 3,
    /// The frame is shared or belongs to nobody that can be judged.
    Unjudged = 4,
    /// Foreign maps survive from the build.
    StillMapped = 5,
    /// dom0 may not change a sealed domain this way.
    Denied = 6,
    /// The record has another size than Xen gave out.
    RecordSize = 7,
    /// Not a sealed record.
    RecordFormat = 8,
    /// The record was sealed under a key that is neither the host's nor one that the domain's owner loaded.
    RecordKey = 9,
    /// The record belongs to another domain.
    RecordDomain = 10,
    /// The pages are not those that were exported.
    PagesDiffer = 11,
    /// A page is typed other than the record says.
    PageType = 12,
    /// P2M and M2P disagree.
    P2mMismatch = 13,
    /// vCPU state differs from the record.
    VcpuState = 14,
    /// Export lacks final content of a page.
    Incomplete = 15,
    /// No hardware entropy.
    NoEntropy = 16,
    /// 32-bit PV guests are not protected.
    Guest32 = 17,
    /// Memory for VMCrypt's own state ran out.
    NoMemory = 18,
    /// Console or xenstore ring outside the builder's pages.
    RingPlace = 19,
    /// The record does not authenticate.
    RecordChanged = 20,
    /// The domain cannot grow while it is exported.
    Exporting = 21,
    /// Page tables, their pins, descriptor tables or `start_info` are not those that were exported.
    TablesDiffer = 22,
    /// A page was written after its last export.
    Stale = 23,
    /// The session was restored before, its domain went on without it, or the record is not the session's last.
    Spent = 24,
    /// The domain's session was restored: it lives on there.
    Restored = 25,
    /// The CPU policy is not that of the domain when it was saved.
    CpuPolicy = 26,
    /// The domain has fewer pages than it had.
    PagesMissing = 27,
    /// The domain has a page that it did not have.
    PagesUnknown = 28,
    /// Two pages stand at one PFN.
    PagesDuplicate = 29,
    /// The domain is being destroyed and has no keys any more.
    Dying = 30,
    /// Keys were wiped because the machine goes down.
    GoingDown = 31,
    /// A new domain is not as the domain builder leaves one.
    LaunchForm = 32,
    /// The file is no sealed key.
    KeyFormat = 33,
    /// The key is from somebody whose keys Xen was not booted to take.
    KeyOwner = 34,
    /// The key was not sealed for this boot of this host.
    KeyHost = 35,
    /// The sealed key does not authenticate.
    KeyChanged = 36,
    /// A later key of the domain was loaded before.
    KeySerial = 37,
    /// Keys of as many domains as fit were loaded.
    KeyringFull = 38,
    /// The owner allows no further restore.
    KeyUsed = 39,
    /// The domain is not what the owner's policy names.
    Measurement = 40,
    /// The record has a version that Xen does not know.
    RecordVersion = 41,
    /// The record is for a cipher that Xen does not have.
    RecordCipher = 42,
    /// The sealed key has a version that Xen does not know.
    KeyVersion = 43,
    /// The sealed key is for a cipher that Xen does not have.
    KeyCipher = 44,
    /// Another key with this serial was loaded before.
    KeyGrant = 45,
    /// Two keys of the domain that are of later epochs are held.
    KeyEpoch = 46,
    /// The image was tried too often.
    Attempts = 47,
    /// The hardware generator repeats itself.
    StuckEntropy = 48,
    /// As many pages were exported in the session as may be.
    SessionFull = 49,
    /// A copy of the domain is being restored, or waits to run.
    Restoring = 50,
    /// The domain did not suspend itself.
    NotSuspended = 51,
    /// The domain has no P2M that could be found.
    P2mAbsent = 52,
    /// A page of the domain's P2M does not agree with the M2P.
    P2mUnclear = 53,
    /// dom0 gave no memory in which a record fits.
    RecordBuffer = 54,
    /// The domain gave back pages that were exported.
    GivenBack = 55,
}

/// What there is to know about a reason: the errno that the caller sees, a short name, and what happened, whose
/// fault it is and what to do.
struct Entry(Refusal, Errno, &'static str, &'static str);

/// Every reason, in numeric order.
const ENTRIES: [Entry; 56] = [
    Entry(
        Refusal::WritableMap,
        Errno::EPERM,
        "writable-map",
        "writable foreign map of a sealed domain's page; map it read-only",
    ),
    Entry(
        Refusal::PoolExhausted,
        Errno::ENOMEM,
        "pool-exhausted",
        "no replica frame is free; unmap pages or raise vmcrypt-pool= on Xen's command line",
    ),
    Entry(
        Refusal::NotWriteBack,
        Errno::EPERM,
        "not-write-back",
        "foreign map with a cache attribute other than write-back; map it as ordinary memory",
    ),
    Entry(
        Refusal::Sealing,
        Errno::EAGAIN,
        "sealing",
        "domain is being sealed or was refused; destroy it or wait for its first unpause to end",
    ),
    Entry(
        Refusal::Unjudged,
        Errno::EPERM,
        "unjudged",
        "frame is mapped too often, or cannot be judged; unmap what is mapped of the domain, then map again",
    ),
    Entry(
        Refusal::StillMapped,
        Errno::EBUSY,
        "still-mapped",
        "pages of the domain are still mapped or granted to another domain; unmap them, then unpause again",
    ),
    Entry(
        Refusal::Denied,
        Errno::EPERM,
        "denied",
        "operation would read or change a sealed domain",
    ),
    Entry(
        Refusal::RecordSize,
        Errno::EMSGSIZE,
        "record-size",
        "sealed record has a wrong size; the image is truncated or was written by another version",
    ),
    Entry(
        Refusal::RecordFormat,
        Errno::EINVAL,
        "record-format",
        "no sealed record in the vCPU 0 XSAVE record, or a broken one; the image is not from a VMCrypt host",
    ),
    Entry(
        Refusal::RecordKey,
        Errno::EPERM,
        "record-key",
        "Xen lacks the record's key: load the owner's key, or restore where, and before the host rebooted, it was saved",
    ),
    Entry(
        Refusal::RecordDomain,
        Errno::EPERM,
        "record-domain",
        "sealed record belongs to another domain",
    ),
    Entry(
        Refusal::PagesDiffer,
        Errno::EPERM,
        "pages-differ",
        "memory differs from what was saved: a page was changed, dropped, moved or replayed",
    ),
    Entry(
        Refusal::PageType,
        Errno::EPERM,
        "page-type",
        "a private page is in use as a page or descriptor table; page types were changed",
    ),
    Entry(
        Refusal::P2mMismatch,
        Errno::EPERM,
        "p2m-mismatch",
        "P2M and M2P disagree; pages were moved",
    ),
    Entry(
        Refusal::VcpuState,
        Errno::EPERM,
        "vcpu-state",
        "vCPU state differs from the sealed record in a field that restore never changes",
    ),
    Entry(
        Refusal::Incomplete,
        Errno::EAGAIN,
        "incomplete",
        "not every page was exported, or one is being exported now; save again, all pages",
    ),
    Entry(
        Refusal::NoEntropy,
        Errno::EOPNOTSUPP,
        "no-entropy",
        "the CPU has neither RDSEED nor RDRAND; keys cannot be drawn",
    ),
    Entry(
        Refusal::Guest32,
        Errno::EOPNOTSUPP,
        "guest-32bit",
        "32-bit PV guests cannot be protected; use a 64-bit guest or boot Xen with vmcrypt=off",
    ),
    Entry(
        Refusal::NoMemory,
        Errno::ENOMEM,
        "no-memory",
        "Xen has no memory for the domain's protection state; destroy or shrink other guests, then try again",
    ),
    Entry(
        Refusal::RingPlace,
        Errno::EPERM,
        "ring-place",
        "start_info names a ring page that may hold private data",
    ),
    Entry(
        Refusal::RecordChanged,
        Errno::EPERM,
        "record-changed",
        "sealed record does not authenticate: it was changed",
    ),
    Entry(
        Refusal::Exporting,
        Errno::EBUSY,
        "exporting",
        "domain cannot grow while it is saved or migrated; try again afterwards",
    ),
    Entry(
        Refusal::TablesDiffer,
        Errno::EPERM,
        "tables-differ",
        "page tables, their pins, descriptor tables or start_info differ from what was saved; the image was changed",
    ),
    Entry(
        Refusal::Stale,
        Errno::EAGAIN,
        "stale",
        "a page was written after its last export, or may have been; save again",
    ),
    Entry(
        Refusal::Spent,
        Errno::EEXIST,
        "spent",
        "the image was restored before, or the domain ran on or was saved again after it; use the latest image, once",
    ),
    Entry(
        Refusal::Restored,
        Errno::EEXIST,
        "restored",
        "the domain was restored from its image and lives on there; destroy this one",
    ),
    Entry(
        Refusal::CpuPolicy,
        Errno::EPERM,
        "cpu-policy",
        "CPUID or MSR policy differs from what the domain was saved with; restore on the same CPU model, Xen and settings",
    ),
    Entry(
        Refusal::PagesMissing,
        Errno::EPERM,
        "pages-missing",
        "domain has fewer pages than when it was saved; the image lacks some",
    ),
    Entry(
        Refusal::PagesUnknown,
        Errno::EPERM,
        "pages-unknown",
        "domain has a page at a PFN where it had none; the image was changed",
    ),
    Entry(
        Refusal::PagesDuplicate,
        Errno::EPERM,
        "pages-duplicate",
        "two pages of the domain stand at one PFN",
    ),
    Entry(
        Refusal::Dying,
        Errno::EINVAL,
        "dying",
        "domain was destroyed and its keys are gone; nothing more of it can be mapped",
    ),
    Entry(
        Refusal::GoingDown,
        Errno::EOPNOTSUPP,
        "going-down",
        "the machine was told to go down and Xen wiped its keys; reboot it",
    ),
    Entry(
        Refusal::LaunchForm,
        Errno::EPERM,
        "launch-form",
        "new domain is not as the domain builder leaves one, so its launch cannot be measured; create it by stock xl",
    ),
    Entry(
        Refusal::KeyFormat,
        Errno::EINVAL,
        "key-format",
        "not a sealed key, or a broken one; `vmcrypt key seal` makes them",
    ),
    Entry(
        Refusal::KeyOwner,
        Errno::EPERM,
        "key-owner",
        "Xen was not booted to take keys of this owner; name his public key in vmcrypt-owner= on its command line",
    ),
    Entry(
        Refusal::KeyHost,
        Errno::EPERM,
        "key-host",
        "not sealed for this boot of this host; the owner has to seal it to the public key that Xen shows now",
    ),
    Entry(
        Refusal::KeyChanged,
        Errno::EPERM,
        "key-changed",
        "sealed key does not authenticate: it was changed, or another than the owner it names sealed it",
    ),
    Entry(
        Refusal::KeySerial,
        Errno::EPERM,
        "key-serial",
        "a key with a higher serial was loaded for the domain; the owner has to seal it with a higher one",
    ),
    Entry(
        Refusal::KeyringFull,
        Errno::ENOMEM,
        "keyring-full",
        "Xen holds as many domains' keys as it can until it reboots",
    ),
    Entry(
        Refusal::KeyUsed,
        Errno::EPERM,
        "key-used",
        "restored as often as the owner allows while the host is up; the owner can seal the key for more",
    ),
    Entry(
        Refusal::Measurement,
        Errno::EPERM,
        "measurement",
        "launch measurement differs from the one in the owner's key; start what the owner had measured",
    ),
    Entry(
        Refusal::RecordVersion,
        Errno::EINVAL,
        "record-version",
        "sealed record of a version that this Xen does not know; `vmcrypt inspect` shows which",
    ),
    Entry(
        Refusal::RecordCipher,
        Errno::EINVAL,
        "record-cipher",
        "sealed record for a cipher that this Xen does not have; `vmcrypt inspect` shows which",
    ),
    Entry(
        Refusal::KeyVersion,
        Errno::EINVAL,
        "key-version",
        "sealed key of a version that this Xen does not know; seal it with the `vmcrypt` of Xen's version",
    ),
    Entry(
        Refusal::KeyCipher,
        Errno::EINVAL,
        "key-cipher",
        "sealed key for a cipher that this Xen does not have; seal it with the `vmcrypt` of Xen's version",
    ),
    Entry(
        Refusal::KeyGrant,
        Errno::EPERM,
        "key-grant",
        "another key with this serial was loaded for the domain; the owner has to seal it with a higher one",
    ),
    Entry(
        Refusal::KeyEpoch,
        Errno::EPERM,
        "key-epoch",
        "two keys of later epochs were loaded for the domain; the owner has to seal that of one of these",
    ),
    Entry(
        Refusal::Attempts,
        Errno::EPERM,
        "attempts",
        "restores of the image were begun so often that no more is decrypted under its key in this boot",
    ),
    Entry(
        Refusal::StuckEntropy,
        Errno::EOPNOTSUPP,
        "stuck-entropy",
        "RDSEED or RDRAND repeats itself, so no key can be drawn; power the machine off and on, or update its firmware",
    ),
    Entry(
        Refusal::SessionFull,
        Errno::EBUSY,
        "session-full",
        "pages of the domain were mapped too often for one session; unmap all of them, then map again",
    ),
    Entry(
        Refusal::Restoring,
        Errno::EAGAIN,
        "restoring",
        "a copy is being restored from the domain's image or waits to run; destroy the copy to let this one go on",
    ),
    Entry(
        Refusal::NotSuspended,
        Errno::EAGAIN,
        "not-suspended",
        "the guest did not suspend itself, so there is no record to save; its kernel must answer the request of xl save",
    ),
    Entry(
        Refusal::P2mAbsent,
        Errno::EOPNOTSUPP,
        "p2m-absent",
        "guest cannot be saved without a linear P2M: it is still booting, or its kernel is too old (Linux before 4.4)",
    ),
    Entry(
        Refusal::P2mUnclear,
        Errno::EAGAIN,
        "p2m-unclear",
        "guest's P2M and the M2P disagree, so a save fails; save again when the guest's memory is not being resized",
    ),
    Entry(
        Refusal::RecordBuffer,
        Errno::EMSGSIZE,
        "record-buffer",
        "memory that dom0's tool gave for the record is too small or cannot be accessed; save again, or mend the tool",
    ),
    Entry(
        Refusal::GivenBack,
        Errno::EAGAIN,
        "given-back",
        "the guest gave memory back while it was migrated; let its balloon settle, then migrate it again",
    ),
];

impl Refusal {
    /// Every reason, in numeric order.
    pub fn all() -> impl Iterator<Item = Self> {
        ENTRIES.iter().map(|entry| entry.0)
    }

    /// The reason with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::all().find(|refusal| *refusal as u32 == number)
    }

    /// Short name, as `vmcrypt status --json` prints it.
    pub fn name(self) -> &'static str {
        self.entry().map_or("", |entry| entry.2)
    }

    /// What happened, whose fault it is and what to do.
    pub fn text(self) -> &'static str {
        self.entry().map_or("", |entry| entry.3)
    }

    /// The errno that the caller sees.
    pub fn errno(self) -> Errno {
        self.entry().map_or(Errno::EPERM, |entry| entry.1)
    }

    fn entry(self) -> Option<&'static Entry> {
        ENTRIES.get(self as usize)
    }
}

/// The errno values that VMCrypt returns, numbered as in Xen's `public/errno.h`.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// Operation not permitted.
    EPERM = 1,
    /// Try again.
    EAGAIN = 11,
    /// No memory for it now.
    ENOMEM = 12,
    /// In use.
    EBUSY = 16,
    /// It happened already.
    EEXIST = 17,
    /// Invalid argument.
    EINVAL = 22,
    /// Value of another size than expected.
    EMSGSIZE = 90,
    /// Not supported.
    EOPNOTSUPP = 95,
}

const _: () = {
    let mut i = 0;
    while i < ENTRIES.len() {
        assert!(ENTRIES[i].0 as usize == i, "the table is in numeric order");
        i += 1;
    }
    assert!(ENTRIES.len() <= crate::abi::REFUSALS);
};
