//! Generators that work, and generators that are broken in every way seen so far.

use crate::config;
use proptest::prelude::*;
use vmcrypt_core::Refusal;
use vmcrypt_core::entropy::{Source, TRIES, WINDOW, draw};
use vmcrypt_core::hpke::KeyPair;
use vmcrypt_core::ids::SessionId;
use vmcrypt_core::keys::RootKey;

/// Gives the words of a list of functions of their number, and a clock that ticks once a word.
struct Words<F>(u64, F);

impl<F: FnMut(u64) -> Option<u64>> Source for Words<F> {
    fn word(&mut self) -> Option<u64> {
        self.0 += 1;
        self.1(self.0 - 1)
    }

    fn cycles(&mut self) -> u64 {
        self.0
    }
}

/// A generator that gives these words.
fn words<F: Fn(u64) -> u64>(word: F) -> Words<impl FnMut(u64) -> Option<u64>> {
    Words(0, move |number| Some(word(number)))
}

/// The `number`th word of a good generator (G. L. Steele et al., *Fast splittable pseudorandom number generators*,
/// OOPSLA 2014).
fn good(seed: u64, number: u64) -> u64 {
    let z = seed.wrapping_add((number + 1).wrapping_mul(0x9e3779b97f4a7c15));
    let z = (z ^ z >> 30).wrapping_mul(0xbf58476d1ce4e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d049bb133111eb);
    z ^ z >> 31
}

fn drawn(source: &mut impl Source) -> Result<[u8; 32], Refusal> {
    let mut out = [0; 32];
    draw(source, b"test", b"extra", &mut out).map(|()| out)
}

/// A secret comes of such a generator, or none.
fn stuck(word: impl Fn(u64) -> u64) -> bool {
    drawn(&mut words(word)) == Err(Refusal::StuckEntropy)
}

#[test]
fn stuck_from_the_start() {
    for word in [0, u64::MAX, 1, 0x5555555555555555, good(1, 1)] {
        assert!(stuck(|_| word), "{word:#x}");
    }
}

#[test]
fn stuck_after_some_words() {
    // What a window of good words gives is good, whatever comes later; the next window is not.
    for after in 0..3 * WINDOW as u64 {
        for last in [0, u64::MAX, 7] {
            let word = |number| if number < after { good(2, number) } else { last };
            let mut source = words(word);
            let first = drawn(&mut source);
            let whole = after >= WINDOW as u64 - u64::from(last == 7);
            assert_eq!(first.is_ok(), whole, "after {after}, {last:#x}");
            let failed = (0..4).any(|_| drawn(&mut source) == Err(Refusal::StuckEntropy));
            assert!(failed, "after {after}, {last:#x}");
        }
    }
}

#[test]
fn repeating_itself() {
    for period in 1..WINDOW as u64 {
        assert!(stuck(|number| good(3, number % period)), "period {period}");
        // From somewhere on, as well.
        let lead = 2 * WINDOW as u64;
        let mut source = words(|number| {
            good(
                3,
                if number < lead {
                    number
                } else {
                    lead + number % period
                },
            )
        });
        assert!(drawn(&mut source).is_ok() && drawn(&mut source).is_ok());
        assert_eq!(drawn(&mut source), Err(Refusal::StuckEntropy), "period {period}");
    }
    // A cycle that a window does not show is not seen.
    assert!(!stuck(|number| good(3, number % WINDOW as u64)));
}

#[test]
fn alternating() {
    assert!(stuck(|number| if number % 2 == 0 { 0 } else { u64::MAX }));
    // Every other word good, the others alike.
    assert!(stuck(|number| if number % 2 == 0 { good(4, number) } else { 5 }));
    assert!(stuck(|number| if number % 16 == 0 { 0 } else { good(4, number) }));
}

#[test]
fn partly_stuck() {
    for lane in 0..16 {
        let mask = 0xf << (4 * lane);
        assert!(stuck(|number| good(5, number) & !mask), "lane {lane} is 0");
        assert!(stuck(|number| good(5, number) | mask), "lane {lane} is 15");
    }
    // Half a word, as from an instruction of 32 bits.
    assert!(stuck(|number| good(5, number) >> 32));
}

#[test]
fn one_bad_window_is_drawn_again() {
    let bad = |number| if number == 3 { 0 } else { good(6, number) };
    let mut source = words(bad);
    assert!(drawn(&mut source).is_ok());
    assert_eq!(source.0, (TRIES * WINDOW) as u64);
    // What was drawn first counts all the same: only more goes in.
    let mut other = words(|number| if number == 4 { 0 } else { good(6, number) });
    assert_ne!(drawn(&mut words(bad)), drawn(&mut other));
}

#[test]
fn a_generator_that_says_no_gives_nothing() {
    for after in 0..(TRIES * WINDOW) as u64 {
        let mut source = Words(0, |number| (number < after).then_some(u64::MAX));
        assert_eq!(drawn(&mut source), Err(Refusal::NoEntropy), "after {after}");
    }
}

#[test]
fn nothing_is_drawn_of_a_stuck_generator() {
    let (mut key, mut pair) = (RootKey::empty(), KeyPair::empty());
    let (id, public) = (key.key_id(), pair.public().0);
    assert_eq!(
        key.draw(&mut words(|_| u64::MAX), &[]),
        Err(Refusal::StuckEntropy)
    );
    assert_eq!(
        pair.draw(&mut words(|_| u64::MAX), &[]),
        Err(Refusal::StuckEntropy)
    );
    assert_eq!(
        SessionId::draw(&mut words(|_| u64::MAX)),
        Err(Refusal::StuckEntropy)
    );
    assert!(key.key_id() == id && pair.public().0 == public);
    let mut out = [7; 8];
    assert!(draw(&mut words(|_| 1), b"", b"", &mut out).is_err());
    assert_eq!(out, [7; 8]);
}

/// What comes out, rebuilt from the crate `hkdf`.
#[test]
fn words_clock_and_facts_are_condensed() {
    let mut input = b"\x05\0\0\0\0\0\0\0extra".to_vec();
    for number in 0..WINDOW as u64 {
        input.extend(good(7, number).to_le_bytes());
        input.extend((number + 1).to_le_bytes());
    }
    let mut expected = [0; 32];
    let oracle = hkdf::Hkdf::<sha2::Sha256>::new(Some(b"vmcrypt/2 entropy"), &input);
    oracle.expand(b"test", &mut expected).unwrap();
    assert_eq!(drawn(&mut words(|number| good(7, number))), Ok(expected));
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn a_good_generator_passes(seed: u64, facts: [Vec<u8>; 2], purposes: [u8; 2]) {
        let draw = |facts: &[u8], purpose| {
            let mut out = [0; 32];
            draw(&mut words(|number| good(seed, number)), &[purpose], facts, &mut out).map(|()| out)
        };
        let first = draw(&facts[0], purposes[0]);
        prop_assert!(first.is_ok());
        let same = facts[0] == facts[1] && purposes[0] == purposes[1];
        prop_assert_eq!(first == draw(&facts[1], purposes[1]), same);
    }

    /// Any two equal words of a window are seen.
    #[test]
    fn every_repeat_in_a_window_is_seen(seed: u64, one in 0..WINDOW, other in 0..WINDOW) {
        let again = |number: u64| {
            let within = number as usize % WINDOW;
            good(seed, if within == other { number - other as u64 + one as u64 } else { number })
        };
        prop_assert_eq!(stuck(again), one != other);
    }
}
