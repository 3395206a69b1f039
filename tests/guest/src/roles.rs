//! The roles. Each runs in a thread of its own, for ever, and never stops at a failure: it reports and goes on, so
//! that the log shows whether a damage stays.

mod dirty;
mod disk;
mod echo;
mod fork;
mod grants;
mod net;
mod regs;
mod secret;
mod spill;
mod storm;

use anyhow::Result;
use std::time::{Duration, Instant};
use vmcrypt_guest::{Report, Role};

/// Plays `role` until the guest ends.
pub fn play(role: Role) {
    let outcome = match role {
        Role::Secret => secret::play(),
        Role::Dirty => dirty::play(),
        Role::Regs => regs::play(),
        Role::Disk => disk::play(),
        Role::Net => net::play(),
        Role::Echo => echo::play(),
        Role::Spill => spill::play(),
        Role::Fork => fork::play(),
        Role::Storm => storm::play(),
        Role::Grants => grants::play(),
    };
    if let Err(error) = outcome {
        fail(role, &format!("{error:#}"));
    }
}

/// Reports something that must not be.
fn fail(role: Role, what: &str) {
    println!(
        "{}",
        Report::Fail {
            what: format!("{role} {what}")
        }
    );
}

/// Calls `work` for ever with the number of the round, and reports its result about once a second.
fn heartbeat(role: Role, mut work: impl FnMut(u64) -> Result<String>) -> Result<()> {
    let mut round = 0;
    let mut last = Instant::now() - Duration::from_secs(60);
    loop {
        match work(round) {
            Ok(detail) if last.elapsed() >= Duration::from_secs(1) => {
                println!("{}", Report::Alive { role, round, detail });
                last = Instant::now();
            }
            Ok(_) => {}
            Err(error) => fail(role, &format!("round {round}: {error:#}")),
        }
        round += 1;
    }
}
