//! Changes that may pass, each with the argument why. What is not named here may not.

use crate::changes::Operation::{
    self, Drop, Duplicate, Extend, Flip, Reorder, Replay, Splice, Swap, Truncate,
};

/// Classes (`*` ends a prefix), operations, beginnings of places, and the argument.
struct Rule(
    &'static [&'static str],
    &'static [Operation],
    &'static [&'static str],
    &'static str,
);

const ANY: &[&str] = &[""];

const RULES: &[Rule] = &[Rule(
    &["console ring", "xenstore ring"],
    &[Flip, Swap, Replay, Splice],
    ANY,
    "a ring is dom0's to write at any time, and holds nothing of the guest's but what it told dom0",
)];

/// Why a change may pass, if it may.
pub fn argument(class: &str, operation: Operation, place: &str) -> Option<&'static str> {
    let is = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => class.starts_with(start),
        None => class == pattern,
    };
    RULES
        .iter()
        .find(|Rule(classes, operations, places, _)| {
            classes.iter().any(|pattern| is(pattern))
                && operations.contains(&operation)
                && places.iter().any(|start| place.starts_with(start))
        })
        .map(|Rule(.., argument)| *argument)
}
