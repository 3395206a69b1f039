//! A secret file in tmpfs, hashed once a second.

use super::heartbeat;
use anyhow::Result;
use std::fs::File;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::{Role, secret};

const FILE: &str = "/tmp/secret";

pub fn play() -> Result<()> {
    let mut file = File::create(FILE)?;
    for line in secret::lines() {
        file.write_all(line.as_bytes())?;
    }
    heartbeat(Role::Secret, |_| {
        // The first round reports at once, the others once a second: an idle guest, as guests go.
        let detail = format!("sha256={}", secret::sha256(File::open(FILE)?)?);
        sleep(Duration::from_millis(950));
        Ok(detail)
    })
}
