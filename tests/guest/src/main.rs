//! Test guest program.
fn main() {}
