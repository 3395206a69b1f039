//! The cryptography, seen from outside.

mod answer;
mod backend;
mod frozen;
mod hpke;
mod known_answer;
mod portable;
mod records;
