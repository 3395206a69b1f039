//! The owners' keys that Xen holds until it goes down.
//!
//! A slot is never given up while the machine is up: what it remembers (the latest grant, the restores so far) is what
//! makes an old key, or one restore more, refusable.
//!
//! What the owner allows is what his latest grant says, for both keys of a domain: were it kept with each key, dom0 could
//! take from two grants what neither of them allows.

use zeroize::Zeroize;

use crate::Refusal;
use crate::attempts::Attempts;
use crate::hpke::PublicKey;
use crate::ids::KeyId;
use crate::keys::RootKey;
use crate::sealed_key::{Header, Policy};

/// Domains whose keys can be held.
pub const SLOTS: usize = 64;
/// Owners whose keys can be taken.
pub const OWNERS: usize = 8;
/// Keys of a domain that are held: of its latest epochs.
pub const EPOCHS: usize = 2;

/// Which key of an owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Identifier of the key.
    pub id: KeyId,
    /// Its epoch.
    pub epoch: u32,
}

/// The key of one epoch; none if `of` is `None`.
#[derive(Debug)]
struct Held {
    of: Option<Owned>,
    root: RootKey,
}

impl Held {
    const fn empty() -> Self {
        Self {
            of: None,
            root: RootKey::empty(),
        }
    }

    fn set(&mut self, of: Owned, root: &RootKey) {
        self.of = Some(of);
        self.root.copy(root);
    }

    fn forget(&mut self) {
        self.of = None;
        self.root.zeroize();
    }
}

/// One domain's keys.
#[derive(Debug)]
struct Slot {
    /// The latest grant.
    grant: Header,
    /// The key of the latest epoch, and that of the one before it that was loaded.
    keys: [Held; EPOCHS],
    /// Restores that were counted since boot, under whichever key.
    restores: u32,
    /// Decryptions of images that the ledger does not know, under whichever key.
    attempts: Attempts,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            grant: Header {
                hosts: 0,
                epoch: 0,
                uuid: [0; 16],
                owner: PublicKey([0; 32]),
                key: KeyId([0; 16]),
                policy: Policy {
                    measurement: [0; 32],
                    serial: 0,
                    restores: 0,
                },
            },
            keys: [const { Held::empty() }; EPOCHS],
            restores: 0,
            attempts: Attempts::NONE,
        }
    }

    const fn used_up(&self) -> bool {
        let allowed = self.grant.policy.restores;
        allowed != 0 && self.restores >= allowed
    }

    fn held(&self, id: KeyId) -> Option<(Owned, &RootKey)> {
        let mut keys = self.keys.iter().filter_map(|held| Some((held.of?, &held.root)));
        keys.find(|(of, _)| of.id == id)
    }

    /// Takes what a grant brings that may be loaded.
    fn take(&mut self, header: &Header, root: &RootKey) -> Result<(), Refusal> {
        let new = Owned {
            id: header.key,
            epoch: header.epoch,
        };
        if self.grant.owner != header.owner {
            // His grant says nothing about another owner's keys.
            self.keys.iter_mut().for_each(Held::forget);
        }
        let [latest, previous] = &mut self.keys;
        match (latest.of, previous.of) {
            (Some(a), Some(b)) if new.epoch < a.epoch && new.epoch < b.epoch => {
                return Err(Refusal::KeyEpoch);
            }
            (Some(a), _) if new.epoch > a.epoch => {
                previous.set(a, &latest.root);
                latest.set(new, root);
            }
            (Some(a), _) if new.epoch < a.epoch => previous.set(new, root),
            _ => latest.set(new, root),
        }
        self.grant = *header;
        Ok(())
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

    /// Keeps the key that was sealed with `header`, beside that of another epoch. A domain that runs under another key
    /// keeps that until it is restored.
    ///
    /// # Errors
    /// [`Refusal::KeySerial`] if a later grant was loaded before, [`Refusal::KeyGrant`] if another one with this serial
    /// was, [`Refusal::KeyEpoch`] if two keys of later epochs are held, [`Refusal::KeyringFull`].
    pub fn load(&mut self, header: &Header, root: &RootKey) -> Result<(), Refusal> {
        let Some(at) = self.position(&header.uuid) else {
            let slot = self.slots.get_mut(self.used).ok_or(Refusal::KeyringFull)?;
            self.used += 1;
            return slot.take(header, root);
        };
        let slot = self.slots.get_mut(at).ok_or(Refusal::KeyringFull)?;
        let (new, latest) = (header.policy.serial, slot.grant.policy.serial);
        if new < latest {
            return Err(Refusal::KeySerial);
        }
        if new == latest && *header != slot.grant {
            return Err(Refusal::KeyGrant);
        }
        slot.take(header, root)
    }

    /// The key under which a domain begins its life, if its owner gave one: that of the latest epoch. The key itself goes
    /// into `root`.
    ///
    /// # Errors
    /// [`Refusal::Measurement`] if the domain is not what the owner's latest grant names.
    pub fn begin(
        &self,
        uuid: &[u8; 16],
        measurement: &[u8; 32],
        root: &mut RootKey,
    ) -> Result<Option<Owned>, Refusal> {
        let Some(slot) = self.slot(uuid) else {
            return Ok(None);
        };
        self.admits(uuid, measurement)?;
        let [Held { of, root: key }, _] = &slot.keys;
        root.copy(key);
        Ok(*of)
    }

    /// Whether a domain that was launched as `measurement` may have its owner's keys.
    ///
    /// # Errors
    /// [`Refusal::Measurement`] if it is not what his latest grant names.
    pub fn admits(&self, uuid: &[u8; 16], measurement: &[u8; 32]) -> Result<(), Refusal> {
        let admits = |slot: &Slot| slot.grant.policy.admits(measurement);
        if self.slot(uuid).is_none_or(admits) {
            Ok(())
        } else {
            Err(Refusal::Measurement)
        }
    }

    /// The key under which an image was made, put into `root`.
    ///
    /// # Errors
    /// [`Refusal::RecordKey`] if it is not held.
    pub fn reopen(&self, uuid: &[u8; 16], id: KeyId, root: &mut RootKey) -> Result<Owned, Refusal> {
        let (of, key) = self
            .slot(uuid)
            .and_then(|slot| slot.held(id))
            .ok_or(Refusal::RecordKey)?;
        root.copy(key);
        Ok(of)
    }

    /// The key under which a domain that was restored from an image under the one with `id` goes on: that of the latest
    /// epoch, put into `root`.
    ///
    /// # Errors
    /// [`Refusal::RecordKey`] if the key of the image is no longer held, [`Refusal::Measurement`] if the domain is not what
    /// the owner's latest grant names.
    pub fn renew(
        &self,
        uuid: &[u8; 16],
        id: KeyId,
        measurement: &[u8; 32],
        root: &mut RootKey,
    ) -> Result<Option<Owned>, Refusal> {
        let held = self.slot(uuid).is_some_and(|slot| slot.held(id).is_some());
        if !held {
            return Err(Refusal::RecordKey);
        }
        self.begin(uuid, measurement, root)
    }

    /// Whether an image under the key with `id` may be restored that Xen does not know to be the domain's latest. It may by
    /// its owner's leave alone: always, if his latest grant allows many restores, else as often as it says and if the image
    /// is `foreign`, of another boot.
    ///
    /// # Errors
    /// [`Refusal::RecordKey`] if the key is no longer held; [`Refusal::Spent`] and [`Refusal::KeyUsed`] if the owner does not
    /// allow it.
    pub fn may_restore(&self, uuid: &[u8; 16], id: KeyId, foreign: bool) -> Result<(), Refusal> {
        let slot = self
            .slot(uuid)
            .filter(|slot| slot.held(id).is_some())
            .ok_or(Refusal::RecordKey)?;
        match slot.grant.policy.restores {
            0 => Ok(()),
            _ if !foreign => Err(Refusal::Spent),
            _ if slot.used_up() => Err(Refusal::KeyUsed),
            _ => Ok(()),
        }
    }

    /// Begins such a restore: `pages` of the image will be decrypted.
    ///
    /// # Errors
    /// As for [`may_restore`](Self::may_restore), and [`Refusal::Attempts`].
    pub fn try_restore(
        &mut self,
        uuid: &[u8; 16],
        id: KeyId,
        foreign: bool,
        pages: u64,
    ) -> Result<(), Refusal> {
        self.may_restore(uuid, id, foreign)?;
        let slot = self.slot_mut(uuid).ok_or(Refusal::RecordKey)?;
        slot.attempts.begin(pages)
    }

    /// Ends such a restore, which succeeded, and counts it.
    ///
    /// # Errors
    /// As for [`may_restore`](Self::may_restore): others may have been quicker.
    pub fn restored(&mut self, uuid: &[u8; 16], id: KeyId, foreign: bool) -> Result<(), Refusal> {
        self.may_restore(uuid, id, foreign)?;
        let slot = self.slot_mut(uuid).ok_or(Refusal::RecordKey)?;
        let counts = foreign && slot.grant.policy.restores != 0;
        slot.restores = slot.restores.saturating_add(counts.into());
        Ok(())
    }

    fn slot(&self, uuid: &[u8; 16]) -> Option<&Slot> {
        self.slots.get(self.position(uuid)?)
    }

    fn slot_mut(&mut self, uuid: &[u8; 16]) -> Option<&mut Slot> {
        let at = self.position(uuid)?;
        self.slots.get_mut(at)
    }

    fn position(&self, uuid: &[u8; 16]) -> Option<usize> {
        let loaded = self.slots.get(..self.used)?;
        loaded.iter().position(|slot| slot.grant.uuid == *uuid)
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
            slot.keys.iter_mut().for_each(Held::forget);
            slot.grant.key.0.zeroize();
            slot.grant.uuid.zeroize();
        }
        self.used = 0;
    }
}
