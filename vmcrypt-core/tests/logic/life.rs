//! The life of a domain against a model that keeps everything the slow way.

use crate::{STATES, config, words};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use vmcrypt_core::abi::DomainInfo;
use vmcrypt_core::cipher::PageTag;
use vmcrypt_core::domain::{Digests, Domain, Enter, Held, session_limit};
use vmcrypt_core::ids::SessionId;
use vmcrypt_core::{Pfn, PfnSet, PlainClass, Refusal, State};

/// Pages that the domain has.
const PFNS: u64 = 12;

/// The steps of a life. Whatever is not here is not possible.
fn possible(from: State, to: State) -> bool {
    use State::{Building, Dying, Refused, Running, Sealing, Suspended};
    to == Dying
        || [
            (Building, Sealing),
            (Sealing, Building),
            (Sealing, Running),
            (Sealing, Refused),
            (Running, Suspended),
            (Suspended, Running),
        ]
        .contains(&(from, to))
}

/// A domain that is in `state`.
fn domain_in(state: State) -> Domain {
    use State::{Building, Dying, Refused, Running, Sealing, Suspended};
    let way: &[State] = match state {
        Building => &[],
        Sealing => &[Sealing],
        Running => &[Sealing, Running],
        Suspended => &[Sealing, Running, Suspended],
        Dying => &[Dying],
        Refused => &[Sealing, Refused],
    };
    let mut domain = Domain::new();
    for step in way {
        assert!(domain.enter(*step));
    }
    assert_eq!(domain.state(), state);
    domain
}

#[test]
fn no_state_is_left_but_by_a_legal_step() {
    for from in STATES {
        for to in STATES {
            let mut domain = domain_in(from);
            let allowed = possible(from, to);
            assert_eq!(domain.enter(to), allowed, "{from:?} to {to:?}");
            assert_eq!(domain.state(), if allowed { to } else { from });
        }
    }
}

/// A domain with its memory and, if `whole`, all of its pages exported under a session.
struct Guest {
    domain: Domain,
    words: Vec<std::sync::atomic::AtomicU64>,
    fresh: Vec<std::sync::atomic::AtomicU64>,
    tags: Vec<PageTag>,
    sessions: u8,
}

impl Guest {
    fn new(domain: Domain) -> Self {
        Self {
            domain,
            words: words(PFNS),
            fresh: words(PFNS),
            tags: vec![PageTag::default(); PFNS as usize],
            sessions: 0,
        }
    }

    fn open(&mut self) -> SessionId {
        self.sessions += 1;
        let id = SessionId([self.sessions; 16]);
        PfnSet::new(&self.words).clear();
        self.domain.open_session(id);
        id
    }

    /// The session that was opened last.
    fn open_id(&self) -> SessionId {
        SessionId([self.sessions; 16])
    }

    fn begin(&mut self) -> Option<SessionId> {
        match self.domain.begin_page(Held::Pages, PFNS) {
            Enter::Ready(id) => Some(id),
            Enter::Again | Enter::Never | Enter::Full => None,
            Enter::Open => {
                let id = self.open();
                assert_eq!(self.domain.begin_page(Held::Pages, PFNS), Enter::Ready(id));
                Some(id)
            }
        }
    }

    /// Every third page is a plain one.
    fn is_plain(pfn: u64) -> bool {
        pfn.is_multiple_of(3)
    }

    fn end(&mut self, pfn: u64, content: u8) {
        let exported = PfnSet::new(&self.words);
        let tag = PageTag([content; 16]);
        self.domain
            .end_page(Pfn(pfn), Self::is_plain(pfn), &tag, exported, &mut self.tags);
    }

    fn end_fresh(&mut self, pfn: u64, content: u8) {
        PfnSet::new(&self.fresh).insert(Pfn(pfn));
        self.end(pfn, content);
    }

    fn export(&mut self, pages: u64) -> Result<(SessionId, u64, Digests), Refusal> {
        let (exported, fresh) = (PfnSet::new(&self.words), PfnSet::new(&self.fresh));
        self.domain.export(pages, exported, fresh)
    }

    fn forget(&mut self, pfn: u64) {
        let exported = PfnSet::new(&self.words);
        self.domain
            .forget_page(Pfn(pfn), Self::is_plain(pfn), exported, &self.tags);
    }

    /// Forgets a page that the domain gave back while a live save had it.
    fn give_back(&mut self, pfn: u64) {
        self.forget(pfn);
        PfnSet::new(&self.fresh).remove(Pfn(pfn));
        self.domain
            .owe_page(Pfn(pfn), PfnSet::new(&self.words), &mut self.tags);
    }

    fn export_all(&mut self) {
        for pfn in 0..PFNS {
            assert_eq!(self.begin().is_some(), self.domain.state() != State::Dying);
            self.end_fresh(pfn, pfn as u8);
        }
    }
}

#[test]
fn a_record_is_given_out_of_a_suspended_and_complete_domain_only() {
    for state in STATES {
        let mut guest = Guest::new(domain_in(state));
        guest.export_all();
        let complete = guest.export(PFNS);
        assert_eq!(complete.is_ok(), state == State::Suspended, "{state:?}");
        for pages in [0, PFNS - 1, PFNS + 1, u64::MAX] {
            assert_eq!(guest.export(pages), Err(Refusal::Incomplete), "{state:?}");
        }
    }
}

/// dom0 may leave out what the guest wrote last: then there is no record, until it was exported.
#[test]
fn a_page_written_since_its_export_withholds_the_record() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    guest.export_all();
    for pfn in 0..PFNS {
        PfnSet::new(&guest.fresh).remove(Pfn(pfn));
        assert_eq!(guest.export(PFNS), Err(Refusal::Stale));
        guest.begin();
        guest.end_fresh(pfn, 1);
        assert!(guest.export(PFNS).is_ok());
    }
}

/// What receives a live save has the page: no record says that the domain does not.
#[test]
fn a_page_given_back_withholds_the_record_until_another_stands_there() {
    // What stands there next is private at first.
    for pfn in (0..PFNS).filter(|pfn| !Guest::is_plain(*pfn)) {
        let mut guest = Guest::new(domain_in(State::Suspended));
        guest.export_all();
        guest.give_back(pfn);
        assert_eq!(guest.export(PFNS - 1), Err(Refusal::GivenBack));
        assert_eq!(guest.export(PFNS), Err(Refusal::Stale));
        guest.begin();
        guest.end_fresh(pfn, 1);
        let (_, _, digests) = guest.export(PFNS).unwrap();
        let mut other = Guest::new(domain_in(State::Suspended));
        other.export_all();
        other.begin();
        other.end_fresh(pfn, 1);
        assert_eq!(other.export(PFNS).unwrap().2, digests);
    }
}

/// The page may turn out to be other than what was exported before.
#[test]
fn a_page_in_flight_withholds_the_record() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    guest.export_all();
    guest.begin();
    assert_eq!(guest.export(PFNS), Err(Refusal::Incomplete));
    guest.end_fresh(5, 9);
    assert!(guest.export(PFNS).is_ok());
}

/// What an export read before a domain stopped may be old when it ends.
#[test]
fn every_step_of_a_life_begins_a_generation() {
    let mut domain = Domain::new();
    for state in [State::Sealing, State::Running, State::Suspended, State::Running] {
        let before = domain.generation();
        assert!(domain.enter(state));
        assert_ne!(domain.generation(), before, "{state:?}");
    }
    let before = domain.generation();
    assert!(!domain.enter(State::Sealing));
    assert_eq!(domain.generation(), before);
}

#[test]
fn without_a_session_there_is_no_record() {
    assert_eq!(
        Guest::new(domain_in(State::Suspended)).export(0),
        Err(Refusal::Incomplete)
    );
}

/// A page that was never sent, one that left the domain, one that came in.
#[test]
fn one_page_more_or_less_withholds_the_record() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    guest.export_all();
    guest.forget(3);
    assert_eq!(guest.export(PFNS), Err(Refusal::Incomplete));
    assert!(guest.export(PFNS - 1).is_ok());
    guest.begin();
    guest.end_fresh(3, 99);
    assert!(guest.export(PFNS).is_ok());
}

/// No two records may be sealed under one key stream.
#[test]
fn records_of_one_session_are_numbered() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    guest.export_all();
    let numbers: Vec<u64> = (0..5).map(|_| guest.export(PFNS).expect("complete").1).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    // A refusal in between uses none up twice.
    assert!(guest.export(1).is_err());
    assert_eq!(guest.export(PFNS).expect("complete").1, 5);
}

#[test]
fn a_session_does_not_survive_that_the_domain_runs_on() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    guest.export_all();
    let (first, ..) = guest.export(PFNS).expect("complete");
    assert!(guest.domain.enter(State::Running));
    assert_eq!(
        guest.domain.begin_page(Held::Pages, PFNS),
        Enter::Open,
        "even if nothing asks before the next suspend"
    );
    assert!(guest.domain.enter(State::Suspended));
    assert_eq!(guest.export(PFNS), Err(Refusal::Incomplete));
    let mut info = DomainInfo::default();
    guest.domain.describe(&mut info);
    assert_eq!((info.session, info.exported), ([0; 16], 0));
    guest.export_all();
    assert_ne!(guest.export(PFNS).expect("complete").0, first);
}

/// What live migration does: pages first, then the suspend, then the pages that changed.
#[test]
fn a_session_survives_the_suspend() {
    let mut guest = Guest::new(domain_in(State::Running));
    guest.export_all();
    assert!(guest.domain.enter(State::Suspended));
    assert!(guest.export(PFNS).is_ok());
}

/// Keys must not change under a page that another CPU is encrypting.
#[test]
fn a_session_that_must_end_waits_for_what_is_in_flight() {
    type End = fn(&mut Guest) -> Enter;
    let ends: [(&str, End); 2] = [
        ("idle", |guest| guest.domain.begin_page(Held::Idle, PFNS)),
        ("resumed", |guest| {
            guest.domain.enter(State::Running);
            guest.domain.begin_page(Held::Pages, PFNS)
        }),
    ];
    for (why, end) in ends {
        let mut guest = Guest::new(domain_in(State::Suspended));
        guest.begin();
        guest.begin();
        assert_eq!(end(&mut guest), Enter::Again, "{why}");
        guest.end(0, 1);
        assert_eq!(end(&mut guest), Enter::Again, "{why}: one is left");
        guest.end(1, 1);
        assert_eq!(end(&mut guest), Enter::Open, "{why}");
    }
}

/// The keys of a dying domain can be wiped as soon as what is in flight has ended, and nothing asks for them again.
#[test]
fn a_dying_domain_comes_to_rest() {
    for state in STATES {
        let mut guest = Guest::new(domain_in(state));
        let began = guest.begin().is_some();
        assert_eq!(began, state != State::Dying);
        assert!(guest.domain.enter(State::Dying));
        assert_eq!(guest.domain.is_quiet(), !began, "a page is in flight");
        assert_eq!(guest.domain.begin_page(Held::Pages, PFNS), Enter::Never);
        assert_eq!(guest.domain.begin_page(Held::Idle, PFNS), Enter::Never);
        guest.end_fresh(0, 1);
        assert!(guest.domain.is_quiet());
        guest.domain.wipe_session();
        assert_eq!(guest.export(0), Err(Refusal::Incomplete));
    }
}

/// A session is quiet when it is over and no page is left in it; only then may its keys go.
#[test]
fn a_running_domain_is_quiet_when_its_session_is_over() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    assert!(guest.domain.is_quiet(), "there was none");
    guest.begin();
    guest.begin();
    guest.end(0, 1);
    assert!(!guest.domain.is_quiet(), "it is open");
    guest.domain.enter(State::Running);
    assert!(!guest.domain.is_quiet(), "a page is in flight");
    guest.end(1, 1);
    assert!(guest.domain.is_quiet());
}

/// A domain may grow, which forgets what was exported, only while no record can come of it.
#[test]
fn a_domain_is_exporting_while_a_record_can_follow() {
    let mut guest = Guest::new(domain_in(State::Running));
    assert!(!guest.domain.exporting(false), "there is no session");
    guest.begin();
    assert!(guest.domain.exporting(true), "a page is in flight");
    guest.end(0, 1);
    assert!(guest.domain.exporting(false));
    assert!(
        !guest.domain.exporting(true),
        "nobody holds a page of it: an aborted migration"
    );
    assert!(!guest.domain.exporting(false), "and it stays so");
    assert_eq!(guest.domain.begin_page(Held::Pages, PFNS), Enter::Open);
}

/// Begins and abandons exports until one is refused; how many there were.
fn export_until_full(guest: &mut Guest, held: Held, pages: u64) -> (u64, Enter) {
    for count in 0.. {
        match guest.domain.begin_page(held, pages) {
            Enter::Ready(_) => guest.domain.abandon_page(),
            end => return (count, end),
        }
    }
    unreachable!("a session has a limit")
}

/// What is seen of a page's changes within a session has an end, which comes too late for any migration.
#[test]
fn a_session_ends_at_its_limit() {
    const TRANSFERS: u64 = 7;
    for pages in [0, 1, 100, 1 << 20, 1 << 29, u64::MAX] {
        assert!(session_limit(pages) <= 1 << 32);
        assert!(pages > 1 << 29 || session_limit(pages) >= TRANSFERS * pages);
    }
    for state in [State::Running, State::Suspended] {
        let mut guest = Guest::new(domain_in(state));
        guest.export_all();
        let left = session_limit(PFNS) - PFNS;
        assert_eq!(
            export_until_full(&mut guest, Held::Pages, PFNS),
            (left, Enter::Full),
            "{state:?}"
        );
        assert_eq!(
            guest.domain.begin_page(Held::Pages, PFNS),
            Enter::Full,
            "and it stays so"
        );
        assert!(
            state == State::Running || guest.export(PFNS).is_ok(),
            "what was exported counts"
        );
        let old = guest.open_id();
        assert_eq!(guest.domain.begin_page(Held::Nothing, PFNS), Enter::Open);
        assert_ne!(guest.open(), old);
        assert!(guest.begin().is_some());
    }
}

/// A limit neither keeps a domain from being mapped once it ran on, nor changes keys under a page in flight.
#[test]
fn a_full_session_ends_as_any_other() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    guest.begin();
    let full = export_until_full(&mut guest, Held::Pages, PFNS);
    assert_eq!(full.1, Enter::Full);
    assert_eq!(guest.domain.begin_page(Held::Nothing, PFNS), Enter::Again);
    guest.end(0, 1);
    assert_eq!(guest.domain.begin_page(Held::Nothing, PFNS), Enter::Open);
    assert!(guest.domain.enter(State::Running));
    assert_eq!(guest.domain.begin_page(Held::Pages, PFNS), Enter::Open);
    assert!(guest.domain.enter(State::Dying));
    assert_eq!(guest.domain.begin_page(Held::Pages, PFNS), Enter::Never);
}

/// The most pages that the domain had count: a balloon does not end a migration.
#[test]
fn a_limit_does_not_fall_within_a_session() {
    let mut guest = Guest::new(domain_in(State::Running));
    guest.begin();
    guest.end(0, 1);
    let before = export_until_full(&mut guest, Held::Pages, 50).0;
    assert_eq!(before + 1, session_limit(50));
    assert_eq!(guest.domain.begin_page(Held::Pages, 1), Enter::Full);
    let more = export_until_full(&mut guest, Held::Pages, 60).0;
    assert_eq!(more, session_limit(60) - session_limit(50));
    assert_eq!(export_until_full(&mut guest, Held::Pages, 0), (0, Enter::Full));
}

#[test]
fn pages_that_do_not_exist_are_not_accounted() {
    let mut guest = Guest::new(domain_in(State::Suspended));
    for pfn in [PFNS, 63, 64, u64::MAX] {
        guest.begin();
        guest.end(pfn, 1);
        guest.forget(pfn);
    }
    let (_, _, digest) = guest.export(0).expect("there is no page");
    assert_eq!(digest, Digests::default());
}

#[test]
fn everything_is_counted() {
    let mut domain = domain_in(State::Running);
    let mut info = DomainInfo::default();
    domain.describe(&mut info);
    assert_eq!((info.state, info.last_refusal), (State::Running as u32, 0));
    for (count, refusal) in (1u64..).zip(Refusal::all()) {
        (0..count).for_each(|_| assert_eq!(domain.refuse(refusal), refusal));
        domain.describe(&mut info);
        assert_eq!(info.last_refusal, refusal as u32 + 1);
    }
    for (count, refusal) in (1u64..).zip(Refusal::all()) {
        assert_eq!(info.refusals[refusal as usize], count, "{}", refusal.name());
    }
    for class in PlainClass::ALL {
        domain.plain_lost(class);
        (0..3).for_each(|_| domain.plain_gained(class));
        domain.plain_lost(class);
    }
    domain.describe(&mut info);
    assert_eq!(info.plain, [2, 2, 2, 2, 2, 2, 2, 0]);
    domain.plain_reset();
    domain.describe(&mut info);
    assert_eq!(info.plain, [0; 8]);
}

#[derive(Debug, Clone)]
enum Step {
    Begin { held: Held },
    End { which: prop::sample::Index, content: u8 },
    Forget(u64),
    Write(u64),
    Enter(State),
    Grow { idle: bool },
    Export { wrong: bool },
}

fn page() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..PFNS, 1 => PFNS..100u64, 1 => Just(u64::MAX)]
}

/// Weighted so that domains get to where there is something to export, and are resumed from there.
fn step() -> impl Strategy<Value = (Step, u64)> {
    let step = prop_oneof![
        1 => Just(Step::Begin { held: Held::Idle }),
        10 => Just(Step::Begin { held: Held::Nothing }),
        10 => Just(Step::Begin { held: Held::Pages }),
        20 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(which, content)| Step::End { which, content }),
        2 => page().prop_map(Step::Forget),
        1 => page().prop_map(Step::Write),
        2 => prop::sample::select(vec![State::Sealing, State::Running, State::Suspended, State::Suspended]).prop_map(Step::Enter),
        1 => prop::sample::select(STATES[..4].to_vec()).prop_map(Step::Enter),
        1 => prop::bool::weighted(0.3).prop_map(|idle| Step::Grow { idle }),
        8 => any::<bool>().prop_map(|wrong| Step::Export { wrong }),
    ];
    (step, page())
}

/// What the domain should know.
#[derive(Default)]
struct Model {
    session: Option<SessionId>,
    /// Latest tag of every page exported in the session.
    exported: BTreeMap<u64, PageTag>,
    records: u64,
    stale: bool,
    /// Pages written since they were last exported.
    stale_pages: BTreeSet<u64>,
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn any_life_agrees_with_the_model(
        start in prop::sample::select(STATES.to_vec()),
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut guest = Guest::new(domain_in(start));
        let mut model = Model::default();
        let mut in_flight = Vec::new();
        for (step, pfn) in steps {
            match step {
                Step::Begin { held } => match guest.domain.begin_page(held, PFNS) {
                    Enter::Ready(id) => {
                        prop_assert!(held != Held::Idle && !model.stale && model.session == Some(id));
                        in_flight.push(pfn);
                    }
                    Enter::Open => {
                        prop_assert!(in_flight.is_empty());
                        prop_assert!(held == Held::Idle || model.stale || model.session.is_none());
                        model = Model {
                            session: Some(guest.open()),
                            stale_pages: std::mem::take(&mut model.stale_pages),
                            ..Model::default()
                        };
                    }
                    Enter::Never => prop_assert_eq!(guest.domain.state(), State::Dying),
                    Enter::Again => {
                        prop_assert!(!in_flight.is_empty());
                        prop_assert!(held == Held::Idle || model.stale);
                    }
                    Enter::Full => prop_assert!(false, "no life here is long enough"),
                },
                Step::End { which, content } if !in_flight.is_empty() => {
                    // Several CPUs: they end in any order.
                    let pfn = in_flight.swap_remove(which.index(in_flight.len()));
                    guest.end_fresh(pfn, content);
                    model.stale_pages.remove(&pfn);
                    if pfn < PFNS {
                        model.exported.insert(pfn, PageTag([content; 16]));
                    }
                }
                Step::End { .. } => {}
                Step::Forget(pfn) => {
                    guest.forget(pfn);
                    model.exported.remove(&pfn);
                }
                Step::Write(pfn) => {
                    PfnSet::new(&guest.fresh).remove(Pfn(pfn));
                    model.stale_pages.insert(pfn);
                }
                Step::Enter(next) => {
                    let from = guest.domain.state();
                    prop_assert_eq!(guest.domain.enter(next), possible(from, next));
                    if possible(from, next) && matches!(next, State::Running | State::Refused | State::Dying) {
                        model.stale = model.session.is_some();
                    }
                }
                Step::Grow { idle } => {
                    model.stale |= model.session.is_some() && idle && in_flight.is_empty();
                    prop_assert_eq!(guest.domain.exporting(idle), model.session.is_some() && !model.stale);
                }
                Step::Export { wrong } => {
                    let pages = model.exported.len() as u64 + u64::from(wrong);
                    let allowed = guest.domain.state() == State::Suspended
                        && model.session.is_some() && !model.stale && !wrong && in_flight.is_empty();
                    let mut sum = Digests::default();
                    for (pfn, tag) in &model.exported {
                        sum.of(Guest::is_plain(*pfn)).add(tag);
                    }
                    let written = model.exported.keys().any(|pfn| model.stale_pages.contains(pfn));
                    let expected = match model.session {
                        _ if written => Err(Refusal::Stale),
                        Some(id) if allowed => Ok((id, model.records, sum)),
                        _ => Err(Refusal::Incomplete),
                    };
                    prop_assert_eq!(guest.export(pages), expected);
                    model.records += u64::from(allowed && !written);
                }
            }
            let marked: Vec<u64> = PfnSet::new(&guest.words).common(PfnSet::new(&guest.words)).map(|p| p.0).collect();
            prop_assert!(marked.iter().eq(model.exported.keys()), "{:?}", marked);
        }
    }
}
