//! A secret file in tmpfs, hashed once a second.

use super::heartbeat;
use anyhow::Result;
use std::fs;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::{Role, secret};

const FILE: &str = "/tmp/secret";

pub fn play() -> Result<()> {
    fs::write(FILE, secret::text())?;
    heartbeat(Role::Secret, |_| {
        // The first round reports at once, the others once a second: an idle guest, as guests go.
        let detail = format!("sha256={}", secret::sha256(&fs::read(FILE)?));
        sleep(Duration::from_millis(950));
        Ok(detail)
    })
}
