//! The owners' keys that Xen holds until it goes down.
//!
//! A slot is never given up while the machine is up: what it remembers (the highest serial, the restores so far) is what
//! makes an old key, or one restore more, refusable.

use zeroize::Zeroize;

use crate::Refusal;
use crate::hpke::PublicKey;
use crate::ids::KeyId;
use crate::keys::RootKey;
use crate::sealed_key::{Header, Policy};

/// Domains whose keys can be held.
pub const SLOTS: usize = 64;
/// Owners whose keys can be taken.
pub const OWNERS: usize = 8;

/// One domain's key.
#[derive(Debug)]
struct Slot {
    uuid: [u8; 16],
    root: RootKey,
    id: KeyId,
    policy: Policy,
    /// Restores that were counted since boot, under whichever key.
    restores: u32,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            uuid: [0; 16],
            root: RootKey::empty(),
            id: KeyId([0; 16]),
            policy: Policy {
                measurement: [0; 32],
                serial: 0,
                restores: 0,
            },
            restores: 0,
        }
    }

    const fn used_up(&self) -> bool {
        self.policy.restores != 0 && self.restores >= self.policy.restores
    }
}

/// Every key that was loaded.
#[derive(Debug)]
pub struct Keyring {
    slots: [Slot; SLOTS],
    used: usize,
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new()
    }
}

impl Keyring {
    /// No keys.
    pub const fn new() -> Self {
        Self {
            slots: [const { Slot::empty() }; SLOTS],
            used: 0,
        }
    }

    /// Keeps the key that was sealed with `header`. A domain that runs under another one keeps that.
    ///
    /// # Errors
    /// [`Refusal::KeySerial`] if a later one was loaded before, [`Refusal::KeyringFull`].
    pub fn load(&mut self, header: &Header, root: &RootKey) -> Result<(), Refusal> {
        let slot = match self.position(&header.uuid) {
            Some(at) => self
                .slots
                .get_mut(at)
                .filter(|slot| header.policy.serial >= slot.policy.serial)
                .ok_or(Refusal::KeySerial)?,
            None => {
                let slot = self.slots.get_mut(self.used).ok_or(Refusal::KeyringFull)?;
                self.used += 1;
                slot
            }
        };
        slot.uuid = header.uuid;
        slot.root.copy(root);
        slot.id = header.key;
        slot.policy = header.policy;
        Ok(())
    }

    /// The key under which a domain begins its life, if its owner gave one: its id and what is allowed. The key itself goes
    /// into `root`.
    ///
    /// # Errors
    /// [`Refusal::Measurement`] if the domain is not what the owner's policy names.
    pub fn begin(
        &self,
        uuid: &[u8; 16],
        measurement: &[u8; 32],
        root: &mut RootKey,
    ) -> Result<Option<(KeyId, Policy)>, Refusal> {
        let Some(slot) = self.slot(uuid) else {
            return Ok(None);
        };
        if !slot.policy.admits(measurement) {
            return Err(Refusal::Measurement);
        }
        root.copy(&slot.root);
        Ok(Some((slot.id, slot.policy)))
    }

    /// The key under which an image was made, put into `root`, and what is allowed.
    ///
    /// # Errors
    /// [`Refusal::RecordKey`] if nobody loaded it.
    pub fn reopen(&self, uuid: &[u8; 16], id: KeyId, root: &mut RootKey) -> Result<Policy, Refusal> {
        let slot = self
            .slot(uuid)
            .filter(|slot| slot.id == id)
            .ok_or(Refusal::RecordKey)?;
        root.copy(&slot.root);
        Ok(slot.policy)
    }

    /// Whether a restore of the domain is left; `done` takes it.
    ///
    /// # Errors
    /// [`Refusal::KeyUsed`], or [`Refusal::RecordKey`] if the domain's key is no longer the one with `id`.
    pub fn restore(&mut self, uuid: &[u8; 16], id: KeyId, done: bool) -> Result<(), Refusal> {
        let slot = self
            .position(uuid)
            .and_then(|at| self.slots.get_mut(at))
            .filter(|slot| slot.id == id)
            .ok_or(Refusal::RecordKey)?;
        if slot.used_up() {
            return Err(Refusal::KeyUsed);
        }
        slot.restores = slot.restores.saturating_add(done.into());
        Ok(())
    }

    fn slot(&self, uuid: &[u8; 16]) -> Option<&Slot> {
        self.slots.get(self.position(uuid)?)
    }

    fn position(&self, uuid: &[u8; 16]) -> Option<usize> {
        let loaded = self.slots.get(..self.used)?;
        loaded.iter().position(|slot| slot.uuid == *uuid)
    }
}

/// The owners whose keys Xen takes, as its command line names them.
///
/// Without them dom0 could make a key itself, seal it for a guest's handle, and read all that the guest is from then
/// on. The command line is part of what measured boot measures.
#[derive(Debug)]
pub struct Owners {
    keys: [PublicKey; OWNERS],
    used: usize,
}

impl Default for Owners {
    fn default() -> Self {
        Self::new()
    }
}

impl Owners {
    /// Nobody.
    pub const fn new() -> Self {
        Self {
            keys: [PublicKey([0; 32]); OWNERS],
            used: 0,
        }
    }

    /// Adds the owner with this public key, given as 64 hexadecimal digits; None if it is something else, or there is no
    /// room.
    pub fn add(&mut self, digits: &[u8]) -> Option<()> {
        let slot = self.keys.get_mut(self.used)?;
        let mut key = [0; 32];
        let pairs = digits.as_chunks::<2>();
        (pairs.0.len() == key.len() && pairs.1.is_empty()).then_some(())?;
        for (byte, &[high, low]) in key.iter_mut().zip(pairs.0) {
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        *slot = PublicKey(key);
        self.used += 1;
        Some(())
    }

    /// Whether keys are taken from this owner.
    pub fn has(&self, owner: &PublicKey) -> bool {
        self.keys
            .get(..self.used)
            .is_some_and(|keys| keys.contains(owner))
    }
}

impl Zeroize for Keyring {
    /// Forgets every key, and that there were any.
    fn zeroize(&mut self) {
        for slot in &mut self.slots {
            slot.root.zeroize();
            slot.id.0.zeroize();
            slot.uuid.zeroize();
        }
        self.used = 0;
    }
}
