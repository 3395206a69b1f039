//! The dom0 disk and everything else a boot needs, below `target/testbed/`.
//!
//! ```text
//! root.ext4           dom0's root: Debian packages and nothing else; rebuilt when the list of packages changes
//! modules/, vmlinuz   taken out of it
//! dom0.cpio           dom0's initramfs: busybox, the modules that reach the disk, a script
//! share/              seen read-only by dom0 at /share: our own programs, the guests' initramfs
//! ```
//!
//! The disk takes a minute and is stable; the rest is rebuilt in seconds whenever a program changes.

use crate::cpio::Archive;
use crate::modules::Modules;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use vmcrypt_guest::secret;
use vmcrypt_host::apt::PrivateApt;
use vmcrypt_host::progress::Step;
use vmcrypt_host::{Sha256, cmd, hostpkg, paths};

const SUITE: &str = "trixie";
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "xen-utils-4.20",
    "xenstore-utils",
    "busybox-static",
    "kmod",
    "iproute2",
    "bridge-utils",
];
/// Left out to keep the disk small; none of it takes part in a test.
const EXCLUDED: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
];
const HOST_PACKAGES: &[&str] = &["mmdebstrap", "e2fsprogs", "xz-utils", "zstd", "libc6-dev"];
/// Sparse, so that it costs what it holds; room for the images that cases save.
const DISK_SIZE: &str = "12G";

const DOM0_MODULES: &[&str] = &["virtio_blk", "crc32c_generic", "ext4", "9p", "9pnet_virtio"];
const GUEST_MODULES: &[&str] = &["xen-blkfront", "xen-netfront", "xen-gntalloc", "xen-gntdev"];
/// Another kernel, packed in another way, for what depends on a kernel's form.
const OTHER_KERNEL: &str = "linux-image-cloud-amd64";
/// Where the guests' kernel lies on dom0's disk: Debian's, unpacked.
const GUEST_KERNEL: &str = "boot/vmlinux";
const INITRAMFS_INIT: &str = include_str!("../dom0/initramfs-init.sh");
const DOM0_INIT: &str = include_str!("../dom0/dom0-init.sh");

/// A complete set of files to boot dom0 with.
#[derive(Clone, Debug)]
pub struct Image {
    dir: PathBuf,
}

impl Image {
    /// Builds whatever is missing or older than its inputs.
    pub fn ensure() -> Result<Image> {
        hostpkg::ensure(HOST_PACKAGES)?;
        let _lock = paths::lock("testbed")?;
        let image = Image {
            dir: paths::target_subdir("testbed")?,
        };
        image.ensure_root()?;
        image.ensure_initramfs()?;
        image.ensure_share()?;
        Ok(image)
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// dom0's disk.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }

    /// The kernel of dom0, and of the guests.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// dom0's initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join("dom0.cpio")
    }

    /// The directory that dom0 sees at `/share`.
    pub fn share(&self) -> PathBuf {
        self.dir.join("share")
    }

    fn ensure_root(&self) -> Result<()> {
        let inputs =
            format!("{SUITE} {PACKAGES:?} {EXCLUDED:?} {DISK_SIZE} {DOM0_MODULES:?} {GUEST_MODULES:?} v2");
        let key = Sha256::of(inputs.as_bytes()).to_string();
        let key_file = self.dir.join("root.key");
        if fs::read_to_string(&key_file).is_ok_and(|old| old == key) && self.root().exists() {
            return Ok(());
        }
        hostpkg::ensure_disk(3)?;
        let _ = fs::remove_file(&key_file);
        let tree = tempfile::tempdir_in(&self.dir)?;
        let root = tree.path().join("root");
        self.unpack_debian(&root)?;
        let step = Step::new("make the dom0 disk");
        self.take_out(&root)?;
        let disk = self.root();
        let _ = fs::remove_file(&disk);
        cmd::output(
            Command::new("/sbin/mke2fs")
                .args([
                    "-q",
                    "-t",
                    "ext4",
                    "-O",
                    "^has_journal",
                    "-E",
                    "root_owner=0:0",
                    "-d",
                ])
                .arg(&root)
                .arg(&disk)
                .arg(DISK_SIZE),
        )?;
        fs::write(key_file, key)?;
        step.done(paths::short(&disk));
        Ok(())
    }

    fn unpack_debian(&self, root: &Path) -> Result<()> {
        let apt = PrivateApt::new(&[SUITE])?;
        let step = Step::new(format!("install Debian {SUITE} for dom0"));
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--variant=minbase", "--mode=root"])
            .arg(format!("--include={}", PACKAGES.join(",")));
        command.args(
            EXCLUDED
                .iter()
                .map(|path| format!("--dpkgopt=path-exclude={path}")),
        );
        // Our own initramfs replaces the one that the kernel package would spend half a minute on.
        command
            .env("INITRD", "No")
            .arg(SUITE)
            .arg(root)
            .arg(apt.source_list());
        cmd::logged(&mut command, &self.dir.join("mmdebstrap.log"), &step)?;
        step.done("");
        Ok(())
    }

    /// Copies out of the root what a boot needs beside the disk, and unpacks the guests' kernel in it.
    fn take_out(&self, root: &Path) -> Result<()> {
        fs::copy(kernel_below(root)?, self.kernel())?;
        fs::write(root.join(GUEST_KERNEL), unpack_kernel(&fs::read(self.kernel())?)?)?;
        fs::copy(root.join("usr/bin/busybox"), self.dir.join("busybox"))?;
        let all = Modules::of_root(root)?;
        for (name, wanted) in [("dom0", DOM0_MODULES), ("guest", GUEST_MODULES)] {
            let dir = self.dir.join("modules").join(name);
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir)?;
            let modules = all.closure(wanted)?;
            for (module, content) in &modules {
                fs::write(dir.join(module).with_extension("ko"), content)?;
            }
            let order: Vec<&str> = modules.iter().map(|(module, _)| module.as_str()).collect();
            fs::write(dir.join("order"), order.join("\n"))?;
        }
        Ok(())
    }

    fn ensure_initramfs(&self) -> Result<()> {
        let mut archive = self.initramfs_with_modules("dom0")?;
        archive.file("init", INITRAMFS_INIT.as_bytes());
        archive.link("bin/sh", "busybox");
        fs::write(self.initramfs(), archive.finish())?;
        Ok(())
    }

    /// An archive with busybox, the modules below `modules/<name>`, and the usual empty directories.
    fn initramfs_with_modules(&self, name: &str) -> Result<Archive> {
        let mut archive = Archive::default();
        for dir in ["bin", "dev", "modules", "proc", "root", "sys", "tmp"] {
            archive.directory(dir);
        }
        archive.device("dev/console", 5, 1);
        archive.file("bin/busybox", &fs::read(self.dir.join("busybox"))?);
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.join("modules").join(name))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("modules/{name}"), &fs::read(&file)?);
        }
        Ok(archive)
    }

    fn ensure_share(&self) -> Result<()> {
        let programs = build_programs()?;
        let share = self.share();
        fs::create_dir_all(&share)?;
        for (name, path) in &programs {
            let content = fs::read(path)?;
            ensure!(
                !contains(&content, secret::needle().as_bytes()),
                "{name} holds the secret in clear: the compiler folded it; a leak could not be told from the program"
            );
            if name != "vmcrypt-guest" {
                write_if_changed(&share.join(name), &content)?;
            }
        }
        let guest = &programs
            .iter()
            .find(|(name, _)| name == "vmcrypt-guest")
            .context("no guest program")?
            .1;
        let mut archive = self.initramfs_with_modules("guest")?;
        archive.file("init", &fs::read(guest)?);
        write_if_changed(&share.join("guest.cpio"), &archive.finish())?;
        self.ensure_other_kernel(&share.join("vmlinuz-other"))?;
        self.ensure_grub(&share)?;
        write_if_changed(&share.join("dom0-init.sh"), DOM0_INIT.as_bytes())
    }

    fn ensure_other_kernel(&self, file: &Path) -> Result<()> {
        if file.exists() {
            return Ok(());
        }
        let apt = PrivateApt::new(&[SUITE])?;
        let needs = cmd::output(apt.command("apt-cache").args(["depends", OTHER_KERNEL]))?;
        let package = needs
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .with_context(|| format!("{OTHER_KERNEL} names no kernel"))?;
        let tree = self.unpack(&apt, package)?;
        fs::copy(kernel_below(tree.path())?, file)?;
        Ok(())
    }

    /// GRUB as a PV guest's kernel, and a disk from which it loads what other guests are given.
    fn ensure_grub(&self, share: &Path) -> Result<()> {
        const MENU: &str =
            "linux /vmlinux console=hvc0 loglevel=4 vmcrypt.roles=secret\ninitrd /guest.cpio\nboot\n";
        let program = share.join("grub-xen");
        if !program.exists() {
            let tree = self.unpack(&PrivateApt::new(&[SUITE])?, "grub-xen-host")?;
            fs::copy(tree.path().join("usr/lib/grub-xen/grub-x86_64-xen.bin"), program)?;
        }
        let (disk, initrd) = (share.join("grub.disk"), share.join("guest.cpio"));
        let changed = |file: &Path| -> Result<SystemTime> { Ok(fs::metadata(file)?.modified()?) };
        // Unpacking the kernel takes seconds, at the start of each run.
        if let Ok(made) = changed(&disk)
            && made > changed(&initrd)?
            && made > changed(&self.kernel())?
        {
            return Ok(());
        }
        let tree = tempfile::tempdir_in(&self.dir)?;
        let grub = tree.path().join("boot/grub");
        fs::create_dir_all(&grub)?;
        fs::write(grub.join("grub.cfg"), MENU)?;
        fs::copy(initrd, tree.path().join("guest.cpio"))?;
        fs::write(
            tree.path().join("vmlinux"),
            unpack_kernel(&fs::read(self.kernel())?)?,
        )?;
        let _ = fs::remove_file(&disk);
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-t", "ext2", "-d"])
            .arg(tree.path())
            .arg(disk)
            .arg("80M");
        cmd::output(&mut make)?;
        Ok(())
    }

    /// The newest version of a package, unpacked.
    fn unpack(&self, apt: &PrivateApt, package: &str) -> Result<tempfile::TempDir> {
        let versions = apt.versions(package)?;
        let version = versions
            .first()
            .with_context(|| format!("there is no {package}"))?;
        let package = apt.fetch_deb(package, version)?;
        let tree = tempfile::tempdir_in(&self.dir)?;
        cmd::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(tree.path()))?;
        Ok(tree)
    }
}

/// Builds our own programs, linked statically: the disk's libraries are another Debian's.
fn build_programs() -> Result<Vec<(String, PathBuf)>> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    const STATIC: &str = "-Ctarget-feature=+crt-static";
    let dir = paths::target_dir().join("static");
    let step = Step::new("build the programs for dom0 and the guests");
    let build = |flags: &str, arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .current_dir(paths::workspace_root())
            .args(["build", "--profile", "static", "--target", TARGET, "--target-dir"])
            .arg(&dir)
            .args(arguments)
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        cmd::logged(
            &mut command,
            &paths::target_dir().join("testbed/programs.log"),
            &step,
        )
    };
    let packages = [
        "vmcrypt-guest",
        "vmcrypt-hostile",
        "vmcrypt-tamper",
        "vmcrypt-tools",
    ];
    build(STATIC, &packages.map(|package| ["-p", package]).concat())?;
    build(
        STATIC,
        &[
            "-p",
            "vmcrypt-testbed",
            "--no-default-features",
            "--features",
            "agent",
            "--bin",
            "vmcrypt-agent",
        ],
    )?;
    // Linked where its pages lie.
    let fixed = format!("{STATIC} -Crelocation-model=static");
    build(&fixed, &["-p", "vmcrypt-kernel", "--features", "bare"])?;
    step.done("");
    let out = dir.join(TARGET).join("static");
    let names = [
        "vmcrypt-guest",
        "vmcrypt-agent",
        "vmcrypt-hostile",
        "vmcrypt-kernel",
        "vmcrypt-tamper",
        "vmcrypt",
    ];
    Ok(names
        .iter()
        .map(|name| ((*name).to_owned(), out.join(name)))
        .collect())
}

/// Where a kernel package puts its kernel.
fn kernel_below(root: &Path) -> Result<PathBuf> {
    fs::read_dir(root.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .context("the kernel package brought no vmlinuz")
}

/// The ELF file inside a kernel image, which Xen's domain builder would otherwise unpack, slowly, at every start of
/// a guest. Offsets: Linux, `Documentation/arch/x86/boot.rst`.
fn unpack_kernel(image: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel image is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let setup_sectors = usize::from(*image.get(0x1f1).context("the kernel image is too short")?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the size of what comes out, and no part of the compressed stream.
    let payload = image
        .get(start..start + word(0x24c)?.saturating_sub(4))
        .context("the kernel image is too short")?;
    let mut packed = tempfile::NamedTempFile::new()?;
    packed.write_all(payload)?;
    let output = Command::new("zstd")
        .args(["-q", "-dc"])
        .arg(packed.path())
        .output()
        .context("running zstd")?;
    ensure!(
        output.stdout.starts_with(b"\x7fELF"),
        "the kernel is not an ELF file packed by zstd"
    );
    Ok(output.stdout)
}

fn write_if_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
