//! `/init` of a test guest: sets the machine up, then plays its roles.

mod machine;
mod roles;

use anyhow::{Context, Result};
use std::thread;
use std::time::Duration;
use vmcrypt_guest::{Report, Role};

fn main() {
    // This is process 1: if it ends, the kernel panics, which the host sees as a crash instead of a reason.
    if let Err(error) = run() {
        println!(
            "{}",
            Report::Fail {
                what: format!("init: {error:#}")
            }
        );
    }
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn run() -> Result<()> {
    machine::mount_everything()?;
    let wanted = machine::parameter("vmcrypt.roles")?.context("no vmcrypt.roles= on the command line")?;
    let roles: Vec<Role> = wanted
        .split(',')
        .map(str::parse)
        .collect::<Result<_, String>>()
        .map_err(anyhow::Error::msg)?;
    for &role in &roles {
        machine::prepare(role).with_context(|| format!("preparing {role}"))?;
    }
    println!("{}", Report::Ready { roles: wanted });
    for role in roles {
        thread::Builder::new()
            .name(role.to_string())
            .spawn(move || roles::play(role))?;
    }
    Ok(())
}
