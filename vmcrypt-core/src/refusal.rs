//! Every reason for which VMCrypt says no.

macro_rules! refusals {
    ($( $(#[$doc:meta])* $variant:ident = $code:literal, $errno:ident, $name:literal, $text:literal; )*) => {
        /// Reason for which an operation was refused. The numeric value is stable within one
        /// [interface version](crate::abi::INTERFACE_VERSION).
        #[repr(u8)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Refusal { $( $(#[$doc])* $variant = $code, )* }

        impl Refusal {
            /// Every reason, in numeric order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// Short name, as `vmcrypt status --json` prints it.
            pub const fn name(self) -> &'static str { match self { $( Self::$variant => $name, )* } }

            /// What happened, whose fault it is and what to do.
            pub const fn text(self) -> &'static str { match self { $( Self::$variant => $text, )* } }

            /// The errno that the caller sees.
            pub const fn errno(self) -> Errno { match self { $( Self::$variant => Errno::$errno, )* } }
        }
    };
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
    /// Invalid argument.
    EINVAL = 22,
    /// Value of another size than expected.
    EMSGSIZE = 90,
    /// Not supported.
    EOPNOTSUPP = 95,
}

refusals! {
    /// A page of a sealed domain may be mapped read-only alone.
    WritableMap = 0, EPERM, "writable-map",
        "writable foreign map of a sealed domain's page; map it read-only";
    /// Every replica frame is in use.
    PoolExhausted = 1, ENOMEM, "pool-exhausted",
        "no replica frame is free; unmap pages or raise vmcrypt-pool= on Xen's command line";
    /// Replicas are mapped write-back alone.
    NotWriteBack = 2, EPERM, "not-write-back",
        "foreign map with a cache attribute other than write-back";
    /// A domain that is being sealed cannot be mapped.
    Sealing = 3, EAGAIN, "sealing",
        "domain is being sealed or was refused; destroy it or wait for its first unpause to end";
    /// The frame is shared or belongs to nobody that can be judged.
    Unjudged = 4, EPERM, "unjudged", "frame cannot be judged";
    /// Foreign maps survive from the build.
    StillMapped = 5, EBUSY, "still-mapped",
        "pages of the domain are still mapped or granted to another domain; unmap them, then unpause again";
    /// dom0 may not change a sealed domain this way.
    Denied = 6, EPERM, "denied", "operation would read or change a sealed domain";
    /// The record has another size than Xen gave out.
    RecordSize = 7, EMSGSIZE, "record-size",
        "sealed record has a wrong size; the image is truncated or was written by another version";
    /// Not a sealed record of this version.
    RecordFormat = 8, EINVAL, "record-format",
        "no sealed record of this version in the vCPU 0 XSAVE record; the image is not from a VMCrypt host";
    /// The record does not open under the host key.
    RecordKey = 9, EPERM, "record-key",
        "sealed record does not authenticate: another host or boot wrote it, or it was changed";
    /// The record belongs to another domain.
    RecordDomain = 10, EPERM, "record-domain", "sealed record belongs to another domain";
    /// The pages are not those that were exported.
    PagesDiffer = 11, EPERM, "pages-differ",
        "memory differs from what was saved: a page was changed, dropped, moved or replayed";
    /// A page is typed other than the record says.
    PageType = 12, EPERM, "page-type",
        "a private page is in use as a page or descriptor table; page types were changed";
    /// P2M and M2P disagree.
    P2mMismatch = 13, EPERM, "p2m-mismatch", "P2M and M2P disagree; pages were moved";
    /// vCPU state differs from the record.
    VcpuState = 14, EPERM, "vcpu-state", "vCPU state differs from the sealed record in a field that restore never changes";
    /// Export lacks final content of a page.
    Incomplete = 15, EAGAIN, "incomplete",
        "not every private page was exported in its final state; save again";
    /// No hardware entropy.
    NoEntropy = 16, EOPNOTSUPP, "no-entropy", "the CPU has neither RDSEED nor RDRAND; keys cannot be drawn";
    /// 32-bit PV guests are not protected.
    Guest32 = 17, EOPNOTSUPP, "guest-32bit",
        "32-bit PV guests cannot be protected; use a 64-bit guest or boot Xen with vmcrypt=off";
    /// Memory for VMCrypt's own state ran out.
    NoMemory = 18, ENOMEM, "no-memory", "Xen has no memory for the domain's protection state";
    /// dom0 asked a guest to suspend without the guest's consent.
    ForcedSuspend = 19, EPERM, "forced-suspend",
        "remote suspend of a sealed domain; only the guest may suspend itself";
    /// Console or xenstore ring outside the builder's pages.
    RingPlace = 20, EPERM, "ring-place", "start_info names a ring page that may hold private data";
    /// The CPU lacks XSAVE, which carries the record.
    NoXsave = 21, EOPNOTSUPP, "no-xsave", "the CPU lacks XSAVE, which carries the sealed record; saving is not possible";
}
