//! The verbs.

pub mod args;
pub mod inspect;
pub mod status;
pub mod sweep;
