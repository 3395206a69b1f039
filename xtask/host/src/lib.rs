//! What every developer command needs from the machine it runs on.
//!
//! Host packages are installed here, Debian's files are fetched here, and long work reports here,
//! so that no verb has its own idea of any of it.

pub mod apt;
pub mod cmd;
pub mod hostpkg;
pub mod paths;
pub mod progress;
mod sha;
mod tally;

pub use sha::Sha256;
pub use tally::Tally;
