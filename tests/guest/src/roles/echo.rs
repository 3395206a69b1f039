//! Answers typed lines with their hash, so that the terminal's own echo cannot pass for an answer.

use anyhow::Result;
use std::io::stdin;
use vmcrypt_guest::{Report, secret::sha256};

pub fn play() -> Result<()> {
    // An end of input is a typed ^D, and no reason to go.
    loop {
        for line in stdin().lines() {
            let sha256 = sha256(line?.trim_end().as_bytes())?;
            println!("{}", Report::Answer { sha256 });
        }
    }
}
