//! Whatever dom0 and the guest do in whatever order, a record is given out only for a suspended domain all of whose
//! pages were exported in the open session, and its digests are those of their latest contents.

#![no_main]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use libfuzzer_sys::fuzz_target;
use vmcrypt_core::cipher::PageTag;
use vmcrypt_core::domain::{Digests, Domain, Enter, Held, session_limit};
use vmcrypt_core::ids::SessionId;
use vmcrypt_core::{Pfn, PfnSet, State};

const PFNS: u64 = 70;
const HELD: [Held; 4] = [Held::Pages, Held::Pages, Held::Nothing, Held::Idle];

/// Every third page is a plain one.
fn is_plain(page: u64) -> bool {
    page.is_multiple_of(3)
}

/// What the record must say, kept the slow way.
#[derive(Default)]
struct Model {
    session: Option<SessionId>,
    stale: bool,
    exported: BTreeMap<u64, PageTag>,
    /// Exports that were begun in the session.
    begun: u64,
}

fuzz_target!(|bytes: &[u8]| {
    let words: Vec<_> = (0..PfnSet::words_for(PFNS)).map(|_| AtomicU64::new(0)).collect();
    let exported = PfnSet::new(&words);
    let mut tags = vec![PageTag::default(); PFNS as usize];
    let mut domain = Domain::new();
    let mut model = Model::default();
    let mut in_flight = Vec::new();
    let mut sessions = 0u8;
    for step in bytes.chunks_exact(3) {
        let (what, page, content) = (step[0], u64::from(step[1]), step[2]);
        match what % 8 {
            0 | 1 => match domain.begin_page(HELD[usize::from(what >> 6)], PFNS) {
                Enter::Ready(id) => {
                    assert_eq!(Some(id), model.session);
                    assert!(!model.stale, "a page under the session of an earlier stop");
                    in_flight.push(page);
                    model.begun += 1;
                }
                Enter::Open => {
                    assert!(in_flight.is_empty(), "keys change under a page in flight");
                    sessions = sessions.wrapping_add(1);
                    let id = SessionId([sessions; 16]);
                    exported.clear();
                    domain.open_session(id);
                    model = Model {
                        session: Some(id),
                        ..Model::default()
                    };
                }
                Enter::Never => assert!(domain.state() == State::Dying),
                Enter::Again => assert!(!in_flight.is_empty(), "nothing is in flight that could end"),
                Enter::Full => assert_eq!(model.begun, session_limit(PFNS)),
            },
            2 | 3 => {
                if let Some(page) = in_flight.pop() {
                    let tag = PageTag([content; 16]);
                    domain.end_page(Pfn(page), is_plain(page), &tag, exported, &mut tags);
                    if page < PFNS {
                        model.exported.insert(page, tag);
                    }
                }
            }
            4 => {
                domain.forget_page(Pfn(page), is_plain(page), exported, &tags);
                model.exported.remove(&page);
            }
            5 => {
                if let Some(state) = State::from_number(u32::from(content % 8))
                    && domain.enter(state)
                    && matches!(state, State::Running | State::Refused | State::Dying)
                {
                    model.stale = true;
                }
            }
            _ => {
                let pages = if content == 0 {
                    page
                } else {
                    model.exported.len() as u64
                };
                let complete = pages == model.exported.len() as u64;
                let allowed = domain.state() == State::Suspended
                    && model.session.is_some()
                    && !model.stale
                    && in_flight.is_empty();
                match domain.export(pages, exported, exported) {
                    Ok((id, _, digest)) => {
                        assert!(allowed && complete);
                        assert_eq!(Some(id), model.session);
                        let mut expected = Digests::default();
                        for (page, tag) in &model.exported {
                            expected.of(is_plain(*page)).add(tag);
                        }
                        assert!(digest == expected);
                    }
                    Err(_) => assert!(!(allowed && complete), "a complete export was refused"),
                }
            }
        }
    }
});
