//! Protection state of one domain: where it is in its life, its open session, its counters.
//!
//! Xen calls every function here under the domain's own lock. Page content never comes here: pages are
//! encrypted outside the lock, and only their tags are accounted.

use crate::abi::{DomainInfo, PLAIN_CLASSES, REFUSALS};
use crate::cipher::PageTag;
use crate::ids::SessionId;
use crate::sethash::SetHash;
use crate::{Pfn, PfnSet, PlainClass, Refusal, State};

/// Pages that one session may encrypt: 2^32 pages of 2^8 blocks stay far below 2^44 blocks, at which
/// a wide-block cipher under one key should be given a new one (`docs/CRYPTO.md`).
const SESSION_PAGES: u64 = 1 << 32;

/// What a domain exports between two rekeyings.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    /// Records sealed so far.
    records: u64,
    /// Pages encrypted so far, repeats included.
    encrypted: u64,
    /// Digest of the last exported content of every private page.
    private: SetHash,
    /// The domain ran on or its pages changed keys: nothing more is exported under this session.
    stale: bool,
}

/// What to do before a page can be encrypted.
#[derive(Debug, PartialEq, Eq)]
pub enum Enter {
    /// The page key is ready; one page more is in flight.
    Ready(SessionId),
    /// Open a new session first, with nothing in flight.
    Open,
    /// Another CPU still encrypts under the old session: come again.
    Again,
}

/// Protection state of a domain.
#[derive(Debug)]
pub struct Domain {
    state: State,
    session: Option<Session>,
    in_flight: u64,
    plain: [u64; PLAIN_CLASSES],
    refusals: [u64; REFUSALS],
    last_refusal: Option<Refusal>,
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl Domain {
    /// A domain that dom0 is about to build.
    pub const fn new() -> Self {
        Self {
            state: State::Building,
            session: None,
            in_flight: 0,
            plain: [0; PLAIN_CLASSES],
            refusals: [0; REFUSALS],
            last_refusal: None,
        }
    }

    /// Where the domain is in its life.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Moves the domain to another state; false if its life has no such step. Dying can be entered
    /// from everywhere and never left.
    pub fn enter(&mut self, next: State) -> bool {
        let legal = matches!(
            (self.state, next),
            (State::Building, State::Sealing)
                | (State::Sealing, State::Building | State::Running | State::Refused)
                | (State::Running, State::Suspended)
                | (State::Suspended, State::Running)
                | (_, State::Dying)
        );
        if legal {
            self.state = next;
            if matches!(next, State::Running | State::Refused) {
                self.retire_session();
            }
        }
        legal
    }

    /// Counts a refusal and gives it back.
    pub fn refuse(&mut self, refusal: Refusal) -> Refusal {
        if let Some(count) = self.refusals.get_mut(refusal as usize) {
            *count = count.saturating_add(1);
        }
        self.last_refusal = Some(refusal);
        refusal
    }

    /// Whether pages were exported that may still become part of a record. If the domain is `idle` (see
    /// [`begin_page`](Self::begin_page)), its session ends here.
    pub fn exporting(&mut self, idle: bool) -> bool {
        if idle && self.in_flight == 0 {
            self.retire_session();
        }
        self.session.as_ref().is_some_and(|session| !session.stale)
    }

    /// Begins the encryption of one page. A session ends when the domain runs on, when it encrypted
    /// [`SESSION_PAGES`], or when `idle` (the domain may run and dom0 has nothing of it mapped), so
    /// that an aborted migration leaves none open for ever.
    pub fn begin_page(&mut self, idle: bool) -> Enter {
        let ends = |s: &Session| s.stale || idle || s.encrypted >= SESSION_PAGES;
        match &mut self.session {
            Some(session) if !ends(session) => {
                session.encrypted += 1;
                self.in_flight += 1;
                Enter::Ready(session.id)
            }
            _ if self.in_flight > 0 => Enter::Again,
            _ => Enter::Open,
        }
    }

    /// Opens a session under a fresh identifier. The caller has set the page key for it and emptied
    /// the set of exported pages.
    pub const fn open_session(&mut self, id: SessionId) {
        self.session = Some(Session {
            id,
            records: 0,
            encrypted: 0,
            private: SetHash::EMPTY,
            stale: false,
        });
    }

    /// Ends the encryption of `pfn` and remembers its tag as that of the page's final content.
    pub fn end_page(&mut self, pfn: Pfn, tag: PageTag, exported: PfnSet<'_>, tags: &mut [PageTag]) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let slot = usize::try_from(pfn.0).ok().and_then(|index| tags.get_mut(index));
        let (Some(session), Some(slot)) = (&mut self.session, slot) else {
            return;
        };
        if !exported.insert(pfn) {
            session.private.remove(slot);
        }
        *slot = tag;
        session.private.add(slot);
    }

    /// Ends an encryption whose page became plain in the meantime: dom0 sees it once more, as ciphertext.
    pub const fn abandon_page(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Forgets that `pfn` was exported: it is plain or no longer the domain's.
    pub fn forget_page(&mut self, pfn: Pfn, exported: PfnSet<'_>, tags: &[PageTag]) {
        let slot = usize::try_from(pfn.0).ok().and_then(|index| tags.get(index));
        if let (Some(session), Some(slot)) = (&mut self.session, slot)
            && exported.remove(pfn)
        {
            session.private.remove(slot);
        }
    }

    /// Digest, identifier and number for a record, if every one of `private` pages was exported.
    ///
    /// # Errors
    /// [`Refusal::Incomplete`] otherwise, or while the domain may run.
    pub fn export(&mut self, private: u64) -> Result<(SessionId, u64, SetHash), Refusal> {
        match (&mut self.session, self.state) {
            (Some(s), State::Suspended) if !s.stale && s.private.count() == private => {
                let sequence = s.records;
                s.records += 1;
                Ok((s.id, sequence, s.private))
            }
            _ => Err(Refusal::Incomplete),
        }
    }

    /// Starts counting plain pages anew.
    pub const fn plain_reset(&mut self) {
        self.plain = [0; PLAIN_CLASSES];
    }

    /// Counts a page of `class` that became plain.
    pub fn plain_gained(&mut self, class: PlainClass) {
        if let Some(count) = self.plain.get_mut(class as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts a page of `class` that became private.
    pub fn plain_lost(&mut self, class: PlainClass) {
        if let Some(count) = self.plain.get_mut(class as usize) {
            *count = count.saturating_sub(1);
        }
    }

    /// Fills what this object knows into `info`.
    pub fn describe(&self, info: &mut DomainInfo) {
        info.state = self.state as u32;
        info.plain = self.plain;
        info.refusals = self.refusals;
        info.last_refusal = self.last_refusal.map_or(0, |r| r as u32 + 1);
        if let Some(session) = self.session.as_ref().filter(|s| !s.stale) {
            info.session = session.id.0;
            info.exported = session.private.count();
        }
    }

    const fn retire_session(&mut self) {
        if let Some(session) = &mut self.session {
            session.stale = true;
        }
    }
}
