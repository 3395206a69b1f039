//! Every single change of a save image, and what becomes of each.
//!
//! [`stream`] takes an image apart, [`layout`] says what each piece of it is, [`changes`] makes the list. The program of
//! this package runs in dom0 and tries each change with stock `xl`; [`harmless`] says which of them may run, and why.

pub mod changes;
pub mod fields;
pub mod harmless;
pub mod layout;
pub mod stream;

use changes::Operation;
use serde::{Deserialize, Serialize};

/// What became of a changed image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Xen refused it.
    Xen,
    /// The stock tools refused it.
    Tools,
    /// The guest runs on, found everything as it was, and there is a reason why it may.
    Harmless,
    /// It was let through.
    Accepted,
}

/// One change and its outcome: a line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Its number in the list.
    pub number: usize,
    /// Kind of part or page.
    pub class: String,
    /// What was done to it.
    pub operation: Operation,
    /// Where.
    pub place: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Who said what, or why it is harmless.
    pub reason: String,
    /// Whether the refused domain's memory was searched, in vain, for the guest's.
    pub swept: bool,
    /// How long it took.
    pub seconds: f64,
}

/// The last line of a report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// How long the list is.
    pub listed: usize,
    /// How often the unchanged image was restored in between, with success each time.
    pub controls: usize,
}
