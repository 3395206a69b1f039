//! The `vmcrypt` command line.
fn main() {}
