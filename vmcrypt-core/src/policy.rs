//! What dom0 gets when it maps a page: the one place where that is decided.

use crate::{PlainClass, Refusal, State};

/// What Xen knows about the frame at the moment of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Allocated by Xen and shared with the guest: shared_info or a grant table frame.
    Xen(PlainClass),
    /// One of the two rings recorded when the domain was sealed.
    Ring,
    /// Of this class by an attribute that can change while the page is mapped.
    Changing(PlainClass),
    /// Nothing known: guest data.
    Ordinary,
}

/// What dom0 asks for.
#[derive(Debug, Clone, Copy)]
pub struct MapRequest {
    /// With write permission.
    pub writable: bool,
    /// With cache attribute write-back.
    pub write_back: bool,
    /// The frame.
    pub frame: Frame,
}

/// What dom0 gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The frame itself.
    Live,
    /// A copy in clear, made at the moment of the map: the frame may become private later.
    Snapshot(PlainClass),
    /// An encrypted copy.
    Cipher,
}

/// Decides what a foreign map shows.
///
/// # Errors
/// The reason for refusing the map altogether.
pub const fn judge(state: State, request: MapRequest) -> Result<View, Refusal> {
    match state {
        State::Building => return Ok(View::Live),
        State::Sealing | State::Refused => return Err(Refusal::Sealing),
        State::Running | State::Suspended | State::Dying => {}
    }
    if !request.write_back {
        return Err(Refusal::NotWriteBack);
    }
    match (request.frame, request.writable) {
        (Frame::Ring, _) => Ok(View::Live),
        (_, true) => Err(Refusal::WritableMap),
        (Frame::Xen(_), false) => Ok(View::Live),
        (Frame::Changing(class), false) => Ok(View::Snapshot(class)),
        (Frame::Ordinary, false) => Ok(View::Cipher),
    }
}
