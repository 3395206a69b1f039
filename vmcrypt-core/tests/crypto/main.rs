//! The cryptography, seen from outside.

mod backend;
mod hpke;
mod known_answer;
mod portable;
mod records;
