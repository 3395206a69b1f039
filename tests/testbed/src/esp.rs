//! An EFI system partition from which GRUB starts Xen, as on an installed host.

use crate::image::Image;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use vmcrypt_host::{cmd, hostpkg};

/// OVMF, and GRUB for it.
const PACKAGES: &[&str] = &["grub-common", "grub-efi-amd64-bin", "ovmf"];

const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What GRUB needs to find the partition and to start Xen from it.
const MODULES: &[&str] = &["part_msdos", "fat", "search", "search_fs_file", "multiboot2"];

/// What the machine boots from.
pub struct System {
    partition: PathBuf,
    variables: PathBuf,
}

/// Makes a directory that QEMU shows the machine as a FAT partition, and a store for the firmware's variables.
pub fn make(image: &Image, hypervisor: &Path, xen: &str, dom0: &str, dir: &Path) -> Result<System> {
    hostpkg::ensure(PACKAGES)?;
    let partition = dir.join("esp");
    let _ = fs::remove_dir_all(&partition);
    let loader = partition.join("EFI/BOOT");
    fs::create_dir_all(&loader)?;
    fs::copy(hypervisor, partition.join("xen"))?;
    fs::copy(image.kernel(), partition.join("vmlinuz"))?;
    fs::copy(image.initramfs(), partition.join("initrd"))?;
    let script = dir.join("grub.cfg");
    fs::write(
        &script,
        format!(
            "search --file --set=root /xen\nmultiboot2 /xen {xen}\nmodule2 /vmlinuz {dom0}\nmodule2 /initrd\nboot\n"
        ),
    )?;
    let mut make = Command::new("grub-mkimage");
    make.args(["-O", "x86_64-efi", "-p", "/", "-c"])
        .arg(&script)
        .arg("-o")
        .arg(loader.join("BOOTX64.EFI"))
        .args(MODULES);
    cmd::output(&mut make)?;
    let variables = dir.join("variables.fd");
    fs::copy(VARIABLES, &variables).with_context(|| format!("copying {VARIABLES}"))?;
    Ok(System { partition, variables })
}

/// QEMU's arguments for it.
pub fn arguments(system: &System) -> [String; 8] {
    [
        "-drive".to_owned(),
        format!("if=pflash,format=raw,readonly=on,file={CODE}"),
        "-drive".to_owned(),
        format!("if=pflash,format=raw,file={}", system.variables.display()),
        "-drive".to_owned(),
        format!(
            "file=fat:{},if=none,id=esp,format=raw,readonly=on",
            system.partition.display()
        ),
        "-device".to_owned(),
        "virtio-blk-pci,drive=esp".to_owned(),
    ]
}
