//! Every single change of a save image, and what becomes of each.

pub mod changes;
pub mod fields;
pub mod layout;
pub mod stream;
