//! What of the machine itself dom0 has: memory, registers, helpers that are no PV guests.

use crate::case::{Config, Verdict, demand};
use crate::cases::cycle;
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use crate::runner::{Options, boot};
use anyhow::{Context, Result};
use std::fs;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_host::paths;
use vmcrypt_testbed::Image;

/// A guest that is not PV, with what `xl` needs to start it.
const PVH: &str = "name = \"beside\"\ntype = \"pvh\"\nkernel = \"/boot/vmlinux\"\nramdisk = \"/share/guest.cpio\"\nmemory = 128\n";

fn create_pvh(dom0: &mut Dom0, limit: Duration) -> Result<bool> {
    let file = dom0.give(PVH.as_bytes())?;
    // As it is run in a test: without a look at what it says.
    let answer = dom0.try_run(&format!("xl create -q {file}"), limit)?;
    Ok(answer.ok())
}

/// Guests that are not PV are created, and Xen says that they are not protected.
pub fn pvh_beside(dom0: &mut Dom0) -> Verdict {
    dom0.xen_log()?;
    demand!(create_pvh(dom0, LONG)?, "a PVH guest is not created");
    let log = dom0.xen_log()?;
    demand!(
        log.contains("is not PV and not protected"),
        "Xen does not say that it is not protected: {log}"
    );
    dom0.destroy("beside")?;
    Ok("a PVH guest is created, and told to be unprotected".to_owned())
}

/// On stock Xen, too.
pub fn canary_strict(dom0: &mut Dom0) -> Verdict {
    demand!(create_pvh(dom0, LONG)?, "a PVH guest is not created");
    dom0.destroy("beside")?;
    Ok("stock Xen creates a PVH guest".to_owned())
}

/// In strict mode there are none.
pub fn strict(dom0: &mut Dom0) -> Verdict {
    dom0.xen_log()?;
    demand!(!create_pvh(dom0, LONG)?, "a PVH guest is created in strict mode");
    let log = dom0.xen_log()?;
    demand!(
        log.contains("vmcrypt=strict admits 64-bit PV guests alone"),
        "Xen does not say why: {log}"
    );
    let host = dom0.json("vmcrypt status --json")?["host"].take();
    demand!(
        host["mode"]
            .as_str()
            .is_some_and(|mode| mode.contains("only such are created")),
        "`vmcrypt status` does not tell the mode: {host}"
    );
    let mut guest = dom0.create(Spec::new("alone"))?;
    dom0.await_alive(&mut guest)?;
    Ok("a PVH guest is refused, a PV guest lives".to_owned())
}

/// Disk and tools work behind an IOMMU that lets dom0's devices reach all memory.
pub fn iommu_relaxed(dom0: &mut Dom0) -> Verdict {
    behind_iommu(dom0, true)
}

/// The same where it lets them reach dom0's alone.
pub fn iommu_strict(dom0: &mut Dom0) -> Verdict {
    behind_iommu(dom0, false)
}

fn behind_iommu(dom0: &mut Dom0, relaxed: bool) -> Verdict {
    let weak = dom0.json("vmcrypt status --json")?["host"]["weaknesses"].to_string();
    demand!(
        !weak.contains("no-iommu") && weak.contains("dom0-iommu-relaxed") == relaxed,
        "what Xen says of the IOMMU: {weak}"
    );
    // The disk is reached by DMA, whose addresses the IOMMU translates.
    let written = dom0.must(
        "dd if=/dev/urandom of=/root/written bs=1M count=64 conv=fsync status=none && sha256sum </root/written && \
         echo 3 >/proc/sys/vm/drop_caches && sha256sum </root/written && rm /root/written",
        LONG,
    )?;
    let text = written.text();
    let mut sums = text.lines();
    demand!(
        sums.next().is_some() && text.lines().next() == text.lines().nth(1),
        "the disk gave back something else: {text}"
    );
    let cycle = cycle::save_restore(dom0)?;
    Ok(format!("64 MiB by the disk and back; {cycle}"))
}

/// A dom0 that is not PV gets no hypervisor.
pub fn dom0_pvh(image: &Image, options: &Options) -> Verdict {
    const PVH: Config = Config {
        xen_arguments: "dom0=pvh",
        ..Config::VMCRYPT
    };
    let dir = paths::target_subdir("testbed/logs/dom0-pvh")?;
    demand!(
        boot(image, PVH, options, &dir).is_err(),
        "Xen came up with a dom0 that passes it by"
    );
    let console = fs::read_to_string(dir.join("xen.log"))?;
    let said = console
        .lines()
        .find(|line| line.contains("VMCrypt: dom0=pvh"))
        .context("Xen did not come up, and did not say that it is because of dom0=pvh")?;
    Ok(said.trim().to_owned())
}

/// The machine is put to sleep by its own register.
pub fn canary_sleep(image: &Image, options: &Options) -> Verdict {
    let mut dom0 = boot(
        image,
        Config::STOCK,
        options,
        &paths::target_subdir("testbed/logs/canary-sleep")?,
    )?;
    demand!(fall_asleep(&mut dom0)?, "stock Xen's machine did not fall asleep");
    Ok("the machine is asleep, with its memory as it was".to_owned())
}

/// It is not.
pub fn sleep_register(image: &Image, options: &Options) -> Verdict {
    let dir = paths::target_subdir("testbed/logs/sleep-register")?;
    let mut dom0 = boot(image, Config::VMCRYPT, options, &dir)?;
    demand!(!fall_asleep(&mut dom0)?, "the machine is asleep");
    let log = dom0.xen_log()?;
    demand!(
        log.contains("platform op 51 denied: by the register itself"),
        "Xen's log does not say that it was tried: {log}"
    );
    dom0.must("xl list", SHORT)?;
    let mut guest = dom0.create(Spec::new("awake"))?;
    dom0.await_alive(&mut guest)?;
    Ok("the write was denied and told, dom0 and a guest live".to_owned())
}

/// Writes SLP_EN with the type of S3 to PM1a_CNT, of which QEMU's PIIX4 says that it is at 0x604; whether the machine
/// stands still then.
fn fall_asleep(dom0: &mut Dom0) -> Result<bool> {
    // Type 1 in bits 10 to 12, the bit that does it in bit 13.
    dom0.run("(sleep 2; vmcrypt-hostile port 1540 9216) >/dev/null 2>&1 </dev/null &")?;
    for _ in 0..20 {
        sleep(Duration::from_millis(500));
        if dom0.machine().status()? == "suspended" {
            return Ok(true);
        }
    }
    Ok(false)
}
