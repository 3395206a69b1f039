//! Memory full of the secret, given back to the kernel as it is.

use super::heartbeat;
use anyhow::Result;
use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::{Role, secret};

/// Of some 2 MiB each.
const COPIES: usize = 32;

pub fn play() -> Result<()> {
    let text: String = secret::lines().collect();
    drop(black_box(text.repeat(COPIES)));
    heartbeat(Role::Spill, |_| {
        sleep(Duration::from_millis(950));
        Ok(format!("copies={COPIES}"))
    })
}
