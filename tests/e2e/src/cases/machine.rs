//! What of the machine itself dom0 has: memory, registers, helpers that are no PV guests.

use crate::case::{Config, Verdict, demand};
use crate::cases::cycle;
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use crate::runner::{Options, boot};
use anyhow::{Context, Result, ensure};
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
    // QEMU's router answers to nothing but what the card sent, and that a neighbour is known shows that the answer came in.
    dom0.must(
        "modprobe virtio_net && card=$(basename $(ls -d /sys/bus/virtio/drivers/virtio_net/*/net/*)) && \
         ip address add 10.0.2.15/24 dev $card && ip link set $card up && \
         for try in $(seq 30); do \
             bash -c 'echo >/dev/udp/10.0.2.2/9'; ip neighbour show 10.0.2.2 | grep lladdr && exit 0; sleep 1; \
         done; exit 1",
        LONG,
    )?;
    let cycle = cycle::save_restore(dom0)?;
    Ok(format!(
        "64 MiB by the disk and back, a neighbour by the network card; {cycle}"
    ))
}

/// The usual machine, started by UEFI.
const EFI: Config = Config {
    efi: true,
    ..Config::VMCRYPT
};

/// A host that UEFI started: a guest is saved and restored, what Xen calls of the firmware keeps what it holds and goes on
/// serving dom0, and dom0 restarts the machine.
pub fn efi(image: &Image, options: &Options) -> Verdict {
    let mut dom0 = boot(image, EFI, options, &paths::target_subdir("testbed/logs/efi")?)?;
    let [refused, lost, written] = firmware_writes(&mut dom0)?;
    demand!(
        written == 0 && refused + lost > 0,
        "of dom0's writes to firmware that Xen calls {written} arrived, {lost} were lost, {refused} refused"
    );
    // A variable goes through the firmware's services, which Xen calls.
    let variable = "/sys/firmware/efi/efivars/VmCrypt-7f0dd1a5-9a31-4f02-8a07-3d4ea1a35c11";
    dom0.must(
        &format!(
            "mount -t efivarfs efivarfs /sys/firmware/efi/efivars && printf '\\007\\000\\000\\000kept' >{variable} && \
             [ $(tail -c 4 {variable}) = kept ]"
        ),
        SHORT,
    )?;
    let cycle = cycle::save_restore(&mut dom0)?;
    dom0.machine().hold_at_end()?;
    dom0.run("(sleep 1; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &")?;
    dom0.machine().await_end(None, SHORT)?;
    Ok(format!(
        "of {} writes to firmware that Xen calls {lost} were lost, {refused} refused; {cycle}",
        lost + refused
    ))
}

/// dom0 changes the code that Xen calls.
pub fn canary_efi(image: &Image, options: &Options) -> Verdict {
    let dir = paths::target_subdir("testbed/logs/canary-efi")?;
    let config = Config {
        efi: true,
        ..Config::STOCK
    };
    let [refused, lost, written] = firmware_writes(&mut boot(image, config, options, &dir)?)?;
    demand!(
        refused == 0 && written > 0,
        "of dom0's writes to stock Xen's firmware only {written} arrived, {lost} were lost, {refused} refused"
    );
    Ok(format!(
        "stock Xen: {written} of {} writes arrive in firmware that Xen calls",
        written + lost
    ))
}

/// Writes to the first and last frame of each range of the firmware's code and data that Xen names at boot; how many were
/// refused, lost, and arrived.
fn firmware_writes(dom0: &mut Dom0) -> Result<[usize; 3]> {
    const CODE_AND_DATA: [&str; 2] = ["type=5", "type=6"];
    let console = dom0.machine().console();
    let mut frames = Vec::new();
    for line in console.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(range), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        if let (true, Some((first, last))) = (CODE_AND_DATA.contains(&kind), range.split_once('-')) {
            for address in [first, last] {
                frames.push((u64::from_str_radix(address, 16)? >> 12).to_string());
            }
        }
    }
    ensure!(
        !frames.is_empty(),
        "Xen names no firmware that it calls: it was not started by EFI"
    );
    let answers = dom0.json(&format!("vmcrypt-hostile write-unowned {}", frames.join(" ")))?;
    let said = |word: &str| {
        answers
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, said)| *said == word)
            .count()
    };
    Ok(["refused", "lost", "written"].map(said))
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
