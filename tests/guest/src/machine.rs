//! What an operating system would set up: file systems, drivers, the network address.

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use vmcrypt_guest::Role;

/// Mounts what the roles use.
pub fn mount_everything() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
    ] {
        fs::create_dir_all(at)?;
        match mount(kind, at, kind, MountFlags::empty(), None) {
            // The kernel may have mounted devtmpfs already.
            Err(rustix::io::Errno::BUSY) => {}
            other => other.with_context(|| format!("mounting {kind}"))?,
        }
    }
    Ok(())
}

/// The value of `name=value` on the kernel command line.
pub fn parameter(name: &str) -> Result<Option<String>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    Ok(line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned))
}

/// Loads the driver a role needs and configures it.
pub fn prepare(role: Role) -> Result<()> {
    match role {
        Role::Disk => load_module("xen_blkfront"),
        Role::Net => {
            load_module("xen_netfront")?;
            busybox(&["ip", "link", "set", "lo", "up"])?;
            let address = parameter("vmcrypt.address")?.context("no vmcrypt.address= on the command line")?;
            busybox(&["ip", "addr", "add", &address, "dev", "eth0"])?;
            busybox(&["ip", "link", "set", "eth0", "up"])
        }
        Role::Grants => {
            load_module("xen_gntalloc")?;
            load_module("xen_gntdev")
        }
        Role::Secret | Role::Dirty | Role::Regs | Role::Echo | Role::Spill | Role::Fork | Role::Storm => {
            Ok(())
        }
    }
}

fn load_module(name: &str) -> Result<()> {
    let path = Path::new("/modules").join(name).with_extension("ko");
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    rustix::system::finit_module(&file, c"", 0).with_context(|| format!("loading {name}"))
}

fn busybox(arguments: &[&str]) -> Result<()> {
    let status = Command::new("/bin/busybox").args(arguments).status()?;
    ensure!(
        status.success(),
        "busybox {} ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}
