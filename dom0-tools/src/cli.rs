//! The verbs.

/// Prints a line for people. If nobody reads on (`vmcrypt status | head -1`), that is no failure.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub mod args;
pub mod inspect;
pub mod key;
pub mod measure;
pub mod status;
pub mod sweep;
