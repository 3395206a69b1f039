//! The cryptography, seen from outside.

mod backend;
mod portable;
mod records;
