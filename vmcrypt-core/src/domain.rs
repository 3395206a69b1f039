//! Protection state of one domain: where it is in its life, its open session, its counters.
//!
//! Xen calls every function here under the domain's own lock. Page content never comes here: pages are
//! encrypted outside the lock, and only their tags are accounted.

use crate::abi::{DomainInfo, PLAIN_CLASSES, REFUSALS};
use crate::cipher::PageTag;
use crate::ids::SessionId;
use crate::sethash::SetHash;
use crate::{Pfn, PfnSet, PlainClass, Refusal, State};

/// Pages that any session may encrypt: 2^32 pages of 2^8 blocks stay far below 2^44 blocks, at which
/// a wide-block cipher under one key should be given a new one (`docs/CRYPTO.md`).
const SESSION_PAGES: u64 = 1 << 32;

/// Exports that a session allows of a domain with `pages` pages. Within a session dom0 sees whether two exports of a page
/// are equal, so that it may not go on for ever. Stock tools export each page at most seven times in a live migration
/// (`docs/CRYPTO.md`, section 2).
pub const fn session_limit(pages: u64) -> u64 {
    let limit = pages.saturating_mul(64).saturating_add(1 << 12);
    if limit < SESSION_PAGES {
        limit
    } else {
        SESSION_PAGES
    }
}

/// What dom0 holds of a domain, beside the page that it asks for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Pages, mapped.
    Pages,
    /// Nothing: a session that reached its limit may be followed by another.
    Nothing,
    /// Nothing, while the domain may run and nobody tracks its writes: no save is under way.
    Idle,
}

/// What a domain exports between two rekeyings.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    /// Records sealed so far.
    records: u64,
    /// Pages encrypted so far, repeats included.
    encrypted: u64,
    /// As many as may be: what [`session_limit`] says of the most pages that the domain had in the session.
    limit: u64,
    /// Digests of the last exported content of every page but P2M leaves and rings.
    digests: Digests,
    /// The domain ran on or its pages changed keys: nothing more is exported under this session.
    stale: bool,
}

impl Session {
    const fn exported(&self) -> u64 {
        self.digests
            .private
            .count()
            .wrapping_add(self.digests.plain.count())
    }
}

/// What a record binds of a domain's pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digests {
    /// Private pages.
    pub private: SetHash,
    /// Plain pages that a restore must bring back as they were: page tables, descriptor tables and
    /// `start_info`, in a form that does not depend on the frames they lie in.
    pub plain: SetHash,
}

impl Digests {
    /// The digests of no page.
    /// cbindgen:ignore
    pub const EMPTY: Self = Self {
        private: SetHash::EMPTY,
        plain: SetHash::EMPTY,
    };

    /// The digest that a page goes into.
    pub const fn of(&mut self, plain: bool) -> &mut SetHash {
        if plain { &mut self.plain } else { &mut self.private }
    }
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
    /// The domain is dying: it has no keys any more and gets none.
    Never,
    /// The session reached its limit, and dom0 holds pages of it.
    Full,
}

/// Protection state of a domain.
#[derive(Debug)]
pub struct Domain {
    state: State,
    session: Option<Session>,
    in_flight: u64,
    /// Changes whenever what was written before and after must be told apart: what an export under way read
    /// may be old by then.
    generation: u64,
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
            generation: 0,
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
            self.begin_generation();
            if matches!(next, State::Running | State::Refused | State::Dying) {
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

    /// Begins the encryption of one page of a domain that has `pages` now. A session ends when the domain runs on, when
    /// nothing is held and it reached its [limit](session_limit), or when no save is under way, so that an aborted
    /// migration leaves none open for ever.
    pub fn begin_page(&mut self, held: Held, pages: u64) -> Enter {
        if matches!(self.state, State::Dying) {
            return Enter::Never;
        }
        if let Some(session) = &mut self.session {
            session.limit = session.limit.max(session_limit(pages));
        }
        match &mut self.session {
            Some(session) if !session.stale && held != Held::Idle && session.encrypted < session.limit => {
                session.encrypted += 1;
                self.in_flight += 1;
                Enter::Ready(session.id)
            }
            Some(session) if !session.stale && held == Held::Pages => Enter::Full,
            _ if self.in_flight > 0 => Enter::Again,
            _ => Enter::Open,
        }
    }

    /// Whether a page is being encrypted.
    pub const fn page_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// A number that no generation has.
    pub const NO_GENERATION: u64 = u64::MAX;

    /// What an export that begins now belongs to.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// From now on an export that began before says nothing about a page's latest content.
    pub const fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1) % Self::NO_GENERATION;
    }

    /// Opens a session under a fresh identifier. The caller has set the page key for it and emptied
    /// the set of exported pages.
    pub const fn open_session(&mut self, id: SessionId) {
        self.session = Some(Session {
            id,
            records: 0,
            encrypted: 0,
            limit: 0,
            digests: Digests::EMPTY,
            stale: false,
        });
    }

    /// Ends the encryption of `pfn`, which is `plain` or not, and remembers its tag as that of the page's
    /// final content. A page that changed between plain and private in the session was forgotten then.
    pub fn end_page(
        &mut self,
        pfn: Pfn,
        plain: bool,
        tag: &PageTag,
        exported: PfnSet<'_>,
        tags: &mut [PageTag],
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let slot = usize::try_from(pfn.0).ok().and_then(|index| tags.get_mut(index));
        let (Some(session), Some(slot)) = (&mut self.session, slot) else {
            return;
        };
        let digest = session.digests.of(plain);
        if !exported.insert(pfn) {
            digest.remove(slot);
        }
        slot.0.copy_from_slice(&tag.0);
        digest.add(slot);
    }

    /// Ends an encryption whose page changed its class in the meantime: dom0 has to map it once more.
    pub const fn abandon_page(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Forgets that `pfn`, `plain` so far or not, was exported: it is something else now, or no longer
    /// the domain's.
    pub fn forget_page(&mut self, pfn: Pfn, plain: bool, exported: PfnSet<'_>, tags: &[PageTag]) {
        let slot = usize::try_from(pfn.0).ok().and_then(|index| tags.get(index));
        if let (Some(session), Some(slot)) = (&mut self.session, slot)
            && exported.remove(pfn)
        {
            session.digests.of(plain).remove(slot);
        }
    }

    /// Takes note that the domain gave `pfn` back, of which dom0 has what was exported: until a page stands there again and
    /// is exported, what dom0 has is not the domain. The caller forgot the page, and has it out of the fresh ones.
    pub fn owe_page(&mut self, pfn: Pfn, exported: PfnSet<'_>, tags: &mut [PageTag]) {
        let slot = usize::try_from(pfn.0).ok().and_then(|index| tags.get_mut(index));
        if let (Some(session), Some(slot)) = (&mut self.session, slot)
            && exported.insert(pfn)
        {
            *slot = PageTag::default();
            session.digests.private.add(slot);
        }
    }

    /// Digests, identifier and number for a record that binds `bound` pages, if every one was exported, and
    /// its latest content.
    ///
    /// # Errors
    /// [`Refusal::Incomplete`] if one was not exported, while one is being exported, or while the domain may run;
    /// [`Refusal::Stale`] if one was written since; [`Refusal::GivenBack`] if dom0 has pages that are not the domain's any more.
    pub fn export(
        &mut self,
        bound: u64,
        exported: PfnSet<'_>,
        fresh: PfnSet<'_>,
    ) -> Result<(SessionId, u64, Digests), Refusal> {
        if !exported.is_subset(fresh) {
            let more = self.session.as_ref().is_some_and(|s| s.exported() > bound);
            return Err(if more { Refusal::GivenBack } else { Refusal::Stale });
        }
        match (&mut self.session, self.state) {
            (Some(s), State::Suspended) if !s.stale && self.in_flight == 0 && s.exported() == bound => {
                let sequence = s.records;
                s.records += 1;
                Ok((s.id, sequence, s.digests))
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
            info.exported = session.exported();
        }
    }

    const fn retire_session(&mut self) {
        if let Some(session) = &mut self.session {
            session.stale = true;
        }
    }

    /// Whether keys may be wiped: no session is open, nothing is being encrypted.
    pub fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.session.as_ref().is_none_or(|session| session.stale)
    }

    /// Ends the session and wipes the digests of what was exported in it.
    pub const fn wipe_session(&mut self) {
        if let Some(session) = &mut self.session {
            session.stale = true;
            session.digests = Digests::EMPTY;
        }
    }
}
