//! Every single change of a save image.

use crate::case::{Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT, marker};
use anyhow::{Context, Result};
use vmcrypt_kernel::Line;

/// What `xl create` reads.
const CONFIG: &str = "name = \"tiny\"\ntype = \"pv\"\nkernel = \"/usr/local/bin/vmcrypt-kernel\"\nmemory = 8\n\
                      maxmem = 8\nvcpus = 2\non_crash = \"preserve\"\non_reboot = \"destroy\"\n";
const LOG: &str = "/var/log/xen/console/guest-tiny.log";

/// The kernel itself: it boots, is saved, and goes on with the same memory.
pub fn kernel(dom0: &mut Dom0) -> Verdict {
    dom0.run(&format!("cat >/root/tiny.cfg <<'EOF'\n{CONFIG}EOF"))?;
    dom0.must("xl create -q /root/tiny.cfg", LONG)?;
    let before = rounds(dom0, 0)?;
    dom0.must("xl save tiny /root/tiny.img", LONG)?;
    dom0.must("xl restore /root/tiny.img", LONG)?;
    let after = rounds(dom0, before.0)?;
    demand!(before.1 == after.1, "its memory is {} instead of {}", after.1, before.1);
    marker(format!("round {} before, {} after, memory {}", before.0, after.0, after.1))
}

/// The next round that the kernel reports, and the hash of its memory.
fn rounds(dom0: &mut Dom0, after: u64) -> Result<(u64, String)> {
    for _ in 0..40 {
        let log = dom0.try_run(&format!("cat {LOG}"), SHORT)?.text();
        for line in log.lines() {
            if let Some(Line::Fail(what)) = Line::parse(line) {
                anyhow::bail!("the kernel says: {what}");
            }
        }
        let last = log.lines().filter_map(|line| match Line::parse(line) {
            Some(Line::Intact(round, hash)) => Some((round, hash.to_owned())),
            _ => None,
        });
        if let Some(last) = last.last().filter(|last| last.0 > after) {
            return Ok(last);
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    dom0.try_run("xl list; xl dmesg | tail -n 30", SHORT)?;
    None.context("the kernel gives no sign of life")
}
