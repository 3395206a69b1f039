//! Answers typed lines with their hash, so that the terminal's own echo cannot pass for an answer.

use anyhow::Result;
use std::io::stdin;
use vmcrypt_guest::{Report, secret::sha256};

pub fn play() -> Result<()> {
    for line in stdin().lines() {
        println!(
            "{}",
            Report::Answer {
                sha256: sha256(line?.trim_end().as_bytes())?
            }
        );
    }
    Ok(())
}
