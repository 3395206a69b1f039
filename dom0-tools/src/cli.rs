//! The verbs.

use std::fmt;
use std::io::{self, Write};

use vmcrypt_tools::escape;

/// Prints one line for people. If nobody reads on (`vmcrypt status | head -1`), that is no failure.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::print(format_args!($($text)*)) };
}

/// Prints one line of complaint.
macro_rules! complain {
    ($($text:tt)*) => { $crate::cli::complain(format_args!($($text)*)) };
}

pub mod args;
pub mod inspect;
pub mod key;
pub mod measure;
pub mod passphrase;
pub mod status;
pub mod sweep;

/// Where `say!` and `complain!` lead: what others wrote does not reach the terminal but escaped.
pub fn print(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{}", escape::line(text));
}

/// See [`print`].
pub fn complain(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "vmcrypt: {}", escape::line(text));
}
