//! The sealed record: what must travel with a suspended domain and dom0 must neither read nor change.
//!
//! ```text
//! 0        HEADER bytes   in clear, authenticated: magic, version, cipher, sizes, key and session identifiers
//! HEADER   FACTS bytes    sealed: Facts
//! STATES   n * size       sealed: opaque states, of the domain and of each vCPU, written and read by Xen
//! ..       8 + bytes      sealed: run-length coded set of plain PFNs
//! end-TAG  TAG bytes      authentication tag over everything before it
//! ```
//! All numbers are little-endian. The whole stands where libxc expects the XSAVE area of vCPU 0; it
//! carries that blob unread (Xen: `tools/libs/guest/xg_sr_save_x86_pv.c`, `write_one_vcpu_xsave`).

use crate::bytes::{Reader, Writer};
use crate::disclose::disclose;
use crate::domain::Digests;
use crate::ids::{KeyId, SessionId};
use crate::keys::CIPHER;
use crate::sethash::SetHash;
use crate::{Pfn, PfnSet, Refusal};

/// First eight bytes of a record. Read as the XSAVE header that they stand for, they are an XCR0 that
/// no CPU has, so a hypervisor without VMCrypt refuses the record.
pub const MAGIC: [u8; 8] = *b"VMCRYPT\xff";
/// Version of the layout, and of how keys follow from each other.
pub const VERSION: u32 = 2;
/// Bytes of the clear header.
pub const HEADER: usize = 72;
/// Bytes of the encoded [`Facts`], zero to the end: the states are aligned to 64.
pub const FACTS: usize = 248;
/// Offset of the states.
pub const STATES: usize = HEADER + FACTS;
/// Bytes of the authentication tag.
pub const TAG: usize = 32;

/// The clear part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole record.
    pub total: u64,
    /// Key it was sealed under: of a host, or of the owner.
    pub key: KeyId,
    /// Epoch of the owner's key; 0 if the key is the host's.
    pub epoch: u32,
    /// Session whose pages it belongs to.
    pub session: SessionId,
    /// Number of the record within its session: no two are sealed under one key stream.
    pub sequence: u64,
}

/// The sealed part that has a fixed size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Domain handle.
    pub uuid: [u8; 16],
    /// Pages that the domain owned.
    pub pages: u64,
    /// PFNs are below this number.
    pub pfns: u64,
    /// The `start_info` page.
    pub start_info: Pfn,
    /// Console ring.
    pub console: Pfn,
    /// Xenstore ring.
    pub store: Pfn,
    /// Root of the page tables in which the P2M is mapped.
    pub p2m_root: Pfn,
    /// Guest virtual address of the P2M.
    pub p2m_address: u64,
    /// The P2M covers PFNs below this number.
    pub p2m_end: u64,
    /// Digests of the pages.
    pub digests: Digests,
    /// Launch measurement of the domain, zero if it has none.
    pub measurement: [u8; 32],
    /// Number of states.
    pub states: u32,
    /// Bytes of one state.
    pub state_size: u32,
    /// Host key of the boot in which the record was sealed, under whichever key.
    pub boot: KeyId,
}

/// Largest number of bytes that a record of this shape can take.
pub const fn capacity(pfns: u64, states: u32, state_size: u32) -> u64 {
    let set = 8 + 8 + 8 * PfnSet::words_for(pfns);
    (STATES + TAG) as u64 + states as u64 * state_size as u64 + set
}

impl Header {
    /// Writes the header to the front of `record`.
    pub fn write(&self, record: &mut [u8]) -> Option<()> {
        let mut w = Writer::new(record.get_mut(..HEADER)?);
        w.bytes(&MAGIC)?;
        w.u32(VERSION)?;
        w.u32(CIPHER)?;
        w.u32(HEADER as u32)?;
        w.u32(self.epoch)?;
        w.u64(self.total)?;
        w.bytes(&self.key.0)?;
        w.bytes(&self.session.0)?;
        w.u64(self.sequence)
    }

    /// Whether `bytes` begin like a record of any version.
    pub fn is_record(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Reads the header of `record`. Proves that the size is what the header says and that no field
    /// is out of its range; says nothing about who wrote it.
    ///
    /// # Errors
    /// [`Refusal::RecordVersion`] and [`Refusal::RecordCipher`] for another version or cipher, [`Refusal::RecordSize`] for
    /// another size, [`Refusal::RecordFormat`] for what is no record.
    pub fn read(record: &[u8]) -> Result<Self, Refusal> {
        match numbers(record).ok_or(Refusal::RecordFormat)? {
            (VERSION, CIPHER) => {}
            (VERSION, _) => return Err(Refusal::RecordCipher),
            _ => return Err(Refusal::RecordVersion),
        }
        let mut r = Reader::new(record);
        let header = (|| {
            r.array::<16>()?;
            (r.u32()? == HEADER as u32).then_some(())?;
            Some(Self {
                epoch: r.u32()?,
                total: r.u64()?,
                key: KeyId(r.array()?),
                session: SessionId(r.array()?),
                sequence: r.u64()?,
            })
        })()
        .ok_or(Refusal::RecordFormat)?;
        let sized = header.total == record.len() as u64 && record.len() >= STATES + TAG + 8;
        if sized {
            Ok(header)
        } else {
            Err(Refusal::RecordSize)
        }
    }
}

/// Version and cipher of a record of any version from 2 on; of an earlier one the cipher means nothing. `None` for what is
/// no record.
pub fn numbers(record: &[u8]) -> Option<(u32, u32)> {
    let mut r = Reader::new(record);
    (r.array()? == MAGIC).then_some(())?;
    Some((r.u32()?, r.u32()?))
}

impl Facts {
    /// Writes the facts and the set of plain pages into `record`, around the states that are
    /// there already, and gives the number of bytes that the whole record takes.
    pub fn write(&self, record: &mut [u8], plain: PfnSet<'_>) -> Option<usize> {
        let mut w = Writer::new(record.get_mut(HEADER..STATES)?);
        w.bytes(&self.uuid)?;
        w.u64(self.pages)?;
        w.u64(self.pfns)?;
        w.u64(self.start_info.0)?;
        w.u64(self.console.0)?;
        w.u64(self.store.0)?;
        w.u64(self.p2m_root.0)?;
        w.u64(self.p2m_address)?;
        w.u64(self.p2m_end)?;
        w.bytes(&self.digests.private.to_bytes())?;
        w.bytes(&self.digests.plain.to_bytes())?;
        w.bytes(&self.measurement)?;
        w.u32(self.states)?;
        w.u32(self.state_size)?;
        w.bytes(&self.boot.0)?;
        let start = self.set_start()?;
        let set = start.checked_add(8)?;
        let len = runs::encode(plain, record.get_mut(set..)?)?;
        record
            .get_mut(start..set)?
            .copy_from_slice(&(len as u64).to_le_bytes());
        set.checked_add(len)?.checked_add(TAG)
    }

    /// Reads the facts of a record that was decrypted a moment ago, and discloses them and the set of plain pages: dom0
    /// had the domain built, and sees what is plain when it maps it. The digests are compared with secret ones.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn open(record: &mut [u8]) -> Result<Self, Refusal> {
        (|| {
            disclose(record.get_mut(HEADER..STATES)?);
            let set = Self::parse(record)?.set_start()?;
            disclose(record.get_mut(set..)?);
            Some(())
        })()
        .ok_or(Refusal::RecordFormat)?;
        Self::read(record)
    }

    /// Reads the facts of a record that was opened, and makes sure that all parts have their place.
    ///
    /// # Errors
    /// [`Refusal::RecordFormat`] if a part overlaps another or the end.
    pub fn read(record: &[u8]) -> Result<Self, Refusal> {
        (|| {
            let facts = Self::parse(record)?;
            facts.set_bytes(record)?;
            Some(facts)
        })()
        .ok_or(Refusal::RecordFormat)
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let mut r = Reader::new(record.get(HEADER..STATES)?);
        Some(Self {
            uuid: r.array()?,
            pages: r.u64()?,
            pfns: r.u64()?,
            start_info: Pfn(r.u64()?),
            console: Pfn(r.u64()?),
            store: Pfn(r.u64()?),
            p2m_root: Pfn(r.u64()?),
            p2m_address: r.u64()?,
            p2m_end: r.u64()?,
            digests: Digests {
                private: SetHash::from_bytes(&r.array()?),
                plain: SetHash::from_bytes(&r.array()?),
            },
            measurement: r.array()?,
            states: r.u32()?,
            state_size: r.u32()?,
            boot: KeyId(r.array()?),
        })
    }

    /// Puts the recorded plain pages into `plain`, which must be empty.
    ///
    /// # Errors
    /// [`Refusal::RecordFormat`] if the coded set does not fill exactly the recorded PFNs.
    pub fn read_plain(&self, record: &[u8], plain: PfnSet<'_>) -> Result<(), Refusal> {
        let coded = self.set_bytes(record).ok_or(Refusal::RecordFormat)?;
        runs::decode(coded, plain, self.pfns).ok_or(Refusal::RecordFormat)
    }

    fn set_start(&self) -> Option<usize> {
        let states = usize::try_from(self.states)
            .ok()?
            .checked_mul(usize::try_from(self.state_size).ok()?)?;
        STATES.checked_add(states)
    }

    fn set_bytes<'r>(&self, record: &'r [u8]) -> Option<&'r [u8]> {
        let start = self.set_start()?;
        let set = start.checked_add(8)?;
        let len = usize::try_from(Reader::new(record.get(start..set)?).u64()?).ok()?;
        let end = record.len().checked_sub(TAG)?;
        (set.checked_add(len)? == end).then(|| record.get(set..end))?
    }
}

/// Run-length code for sparse sets: pairs of (zero words, literal words) and then the literals.
mod runs {
    use super::{PfnSet, Reader, Writer};
    use crate::Pfn;

    /// Bytes of a run's two counts.
    const RUN: usize = 8;

    /// Encodes the set and gives the number of bytes.
    pub fn encode(set: PfnSet<'_>, out: &mut [u8]) -> Option<usize> {
        let mut w = Writer::new(out);
        let mut words = set.snapshot().peekable();
        while words.peek().is_some() {
            let head = w.position();
            w.u64(0)?;
            let mut zeros = 0u32;
            while words.next_if_eq(&0).is_some() {
                zeros = zeros.checked_add(1)?;
            }
            let mut literals = 0u32;
            while let Some(word) = words.next_if(|&word| word != 0) {
                w.u64(word)?;
                literals = literals.checked_add(1)?;
            }
            w.u64_at(head, u64::from(zeros) | u64::from(literals) << 32)?;
        }
        Some(w.position())
    }

    /// Decodes into `set`, which must hold exactly the words for `pfns`.
    pub fn decode(coded: &[u8], set: PfnSet<'_>, pfns: u64) -> Option<()> {
        let words = PfnSet::words_for(pfns);
        let mut r = Reader::new(coded);
        let mut index = 0u64;
        while r.remaining() >= RUN {
            let run = r.u64()?;
            index = index.checked_add(run & u64::from(u32::MAX))?;
            for _ in 0..run >> 32 {
                (index < words).then_some(())?;
                let word = r.u64()?;
                for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
                    let pfn = Pfn(index * 64 + bit);
                    (pfn.0 < pfns && set.insert(pfn)).then_some(())?;
                }
                index += 1;
            }
        }
        (r.remaining() == 0 && index == words).then_some(())
    }
}
