//! The cryptography, seen from outside.

mod backend;
mod hpke;
mod portable;
mod records;
