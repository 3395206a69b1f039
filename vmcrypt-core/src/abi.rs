//! Structures that cross the hypercall boundary between dom0 and Xen.
//!
//! One definition serves both sides: Xen fills them through the generated C header, the `vmcrypt`
//! command line reads them. Layouts are asserted below; a change of layout is a change of
//! [`INTERFACE_VERSION`].

use crate::bytes::{Reader, Writer};
use static_assertions::{const_assert, const_assert_eq};

/// Version of every structure in this module.
pub const INTERFACE_VERSION: u32 = 4;

/// Hypercall number (`__HYPERVISOR_arch_2` of Xen's `public/xen.h`).
pub const HYPERCALL: u32 = 50;
/// Sub-operation: fill a [`HostInfo`].
pub const OP_HOST_INFO: u32 = 0;
/// Sub-operation: fill a [`DomainInfo`]; the caller sets `domid`.
pub const OP_DOMAIN_INFO: u32 = 1;
/// Sub-operation: take the sealed key in a [`KeyLoad`].
pub const OP_KEY_LOAD: u32 = 2;
/// Sub-operation that every domain has, about itself alone: fill an [`Answer`]; the caller sets `nonce`.
pub const OP_ASK: u32 = 3;

/// Number of slots in [`DomainInfo::plain`], indexed by [`crate::PlainClass`].
pub const PLAIN_CLASSES: usize = 8;
/// Number of slots in [`DomainInfo::refusals`], indexed by [`crate::Refusal`].
pub const REFUSALS: usize = 64;

/// Room for a sealed key; the largest is [`crate::sealed_key::MAX`].
pub const KEY_BYTES: usize = 2040;

/// Every guest is protected.
pub const MODE_STRICT: u32 = 2;

/// What VMCrypt does on this host.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostInfo {
    /// [`INTERFACE_VERSION`] of the running hypervisor.
    pub version: u32,
    /// 0: off, 1: every guest of a kind that can be is protected, [`MODE_STRICT`]: and there are no others.
    pub mode: u32,
    /// Page cipher backend: 0 portable, 1 AES-NI with PCLMULQDQ, 2 VAES on 256 bits with PCLMULQDQ, 3 and 4 VAES with
    /// VPCLMULQDQ on 256 and on 512 bits.
    pub backend: u32,
    /// Number of protected domains.
    pub domains: u32,
    /// Identifier of the host key (not secret): equal on two hosts only if images move between them.
    pub key_id: [u8; 16],
    /// X25519 public key of this boot, to which owners seal their keys.
    pub public_key: [u8; 32],
    /// Replica frames owned by the pool, in use or not.
    pub pool_frames: u64,
    /// Replica frames free now.
    pub pool_free: u64,
    /// Lowest value of `pool_free` since boot, without those that CPUs keep at hand.
    pub pool_low: u64,
    /// Maps refused because the pool was empty.
    pub pool_exhausted: u64,
    /// Operations on the machine that were denied, see [`crate::doors`].
    pub denied: u64,
    /// The latest: number of its hypercall.
    pub last_family: u32,
    /// And its own number there.
    pub last_operation: u32,
    /// A bit for each [`crate::weakness::Weakness`].
    pub weaknesses: u32,
    #[doc(hidden)]
    pub pad: u32,
}

/// What VMCrypt knows about one domain.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainInfo {
    /// IN: the domain asked about.
    pub domid: u16,
    #[doc(hidden)]
    pub pad: u16,
    /// [`crate::State`] as a number; 0 when the domain is not protected.
    pub state: u32,
    /// Domain handle, as `xl` shows it.
    pub uuid: [u8; 16],
    /// Identifier of the open session, zero when none is open.
    pub session: [u8; 16],
    /// Reason of the latest refusal plus one, 0 when there was none.
    pub last_refusal: u32,
    #[doc(hidden)]
    pub pad2: u32,
    /// Pages the domain owns.
    pub pages: u64,
    /// Plain pages by [`crate::PlainClass`].
    pub plain: [u64; PLAIN_CLASSES],
    /// Replica frames that dom0 has mapped at this moment.
    pub replicas: u64,
    /// Private pages exported in the open session.
    pub exported: u64,
    /// Refused operations by [`crate::Refusal`].
    pub refusals: [u64; REFUSALS],
    /// SHA-256 of what dom0 loaded before the domain first ran, zero before that.
    pub measurement: [u8; 32],
    /// Identifier of the owner's key, zero if the domain's keys follow from the host key.
    pub owner: [u8; 16],
}

// Not derived: the standard library knows the default of arrays of up to 32 elements.
impl Default for DomainInfo {
    fn default() -> Self {
        Self {
            domid: 0,
            pad: 0,
            state: 0,
            uuid: [0; 16],
            session: [0; 16],
            last_refusal: 0,
            pad2: 0,
            pages: 0,
            plain: [0; PLAIN_CLASSES],
            replicas: 0,
            exported: 0,
            refusals: [0; REFUSALS],
            measurement: [0; 32],
            owner: [0; 16],
        }
    }
}

/// A sealed key on its way to Xen.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLoad {
    /// IN: bytes of the key.
    pub size: u32,
    /// OUT: reason of a refusal plus one, 0 if the key was taken.
    pub refusal: u32,
    /// IN: the file, and nothing that matters behind it.
    pub bytes: [u8; KEY_BYTES],
}

/// What a domain is told of itself.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// [`INTERFACE_VERSION`] of the running hypervisor.
    pub version: u32,
    /// [`crate::State`] as a number; 0 when the domain is not protected. All that follows is zero then.
    pub state: u32,
    /// IN: whatever whoever will check the answer has not seen before.
    pub nonce: [u8; 32],
    /// Public key of this boot of the host, to which owners seal their keys.
    pub host: [u8; 32],
    /// The domain's handle.
    pub uuid: [u8; 16],
    /// SHA-256 of what dom0 loaded before the domain first ran, on whatever host that was.
    pub measurement: [u8; 32],
    /// Identifier of the owner's key that the domain is under, or zero.
    pub owner: [u8; 16],
    /// Under an owner's key, [`crate::answer::tag`] of the above, or zero.
    pub tag: [u8; 32],
}

impl Answer {
    /// Bytes of the structure.
    /// cbindgen:ignore
    pub const BYTES: usize = 168;

    /// The structure as the guest has it in memory, and passes it on.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut w = Writer::new(&mut bytes);
        // It fits: the fields add up to BYTES, as `from_bytes()` shows, which leaves nothing over.
        let _ = (|| {
            w.u32(self.version)?;
            w.u32(self.state)?;
            w.bytes(&self.nonce)?;
            w.bytes(&self.host)?;
            w.bytes(&self.uuid)?;
            w.bytes(&self.measurement)?;
            w.bytes(&self.owner)?;
            w.bytes(&self.tag)
        })();
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; none if it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let answer = Self {
            version: r.u32()?,
            state: r.u32()?,
            nonce: r.array()?,
            host: r.array()?,
            uuid: r.array()?,
            measurement: r.array()?,
            owner: r.array()?,
            tag: r.array()?,
        };
        (r.remaining() == 0).then_some(answer)
    }
}

const_assert_eq!(size_of::<Answer>(), Answer::BYTES);
const_assert_eq!(size_of::<HostInfo>(), 120);
const_assert_eq!(
    size_of::<DomainInfo>(),
    48 + 8 + 8 * PLAIN_CLASSES + 16 + 8 * REFUSALS + 48
);
const_assert_eq!(size_of::<KeyLoad>(), 2048);
const_assert!(crate::sealed_key::MAX <= KEY_BYTES);
