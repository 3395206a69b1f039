//! Xen on an emulated CPU with AVX-512, which QEMU does not emulate: far enough to see which backend of the page cipher
//! passes Xen's test at boot. There is no dom0, so Xen stops soon after.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};

use crate::xen::Flavour;

const PACKAGES: &[&str] = &[
    "bochs",
    "bochsbios",
    "isolinux",
    "syslinux-common",
    "vgabios",
    "xorriso",
];

/// Added to Xen's command line, and the backend that Xen then says it uses.
///
/// Bochs does not claim that its CPU is safe from Gather Data Sampling. Unless told not to mind, Xen switches off AVX and
/// what needs it, and VMCrypt must not use what Xen switched off.
const BOOTS: &[(&str, &str)] = &[
    ("spec-ctrl=gds-mit=no", "VAES and VPCLMULQDQ on 512 bits"),
    (
        "spec-ctrl=gds-mit=no vmcrypt-backend=avx2",
        "VAES and VPCLMULQDQ on 256 bits",
    ),
    ("vmcrypt-backend=avx512", "AES-NI"),
];

/// Some ten seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Boot Xen once for each backend.
pub fn run() -> Result<Tally> {
    hostpkg::ensure(PACKAGES)?;
    let dir = paths::target_subdir("test/bochs")?;
    let mut tally = Tally::default();
    for (number, (arguments, backend)) in BOOTS.iter().enumerate() {
        let step = Step::new(format!("Bochs: {arguments}"));
        let said = boot(&dir.join(number.to_string()), arguments)?;
        if said.contains(&format!("HCTR2-AES-256 by {backend},")) {
            step.done(*backend);
            tally += Tally::PASS;
        } else {
            step.println(format!("FAIL  not by {backend}: {said}"));
            tally += Tally::FAIL;
        }
    }
    Ok(tally)
}

/// Boots Xen, and gives the line in which VMCrypt says by what it encrypts.
fn boot(dir: &Path, arguments: &str) -> Result<String> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    let (disc, serial) = (disc(dir, arguments)?, dir.join("serial.log"));
    let configuration = dir.join("bochsrc");
    // No sound: where there is no card for it, Bochs may end itself over it.
    fs::write(
        &configuration,
        format!(
            "config_interface: textconfig\n\
             display_library: rfb, options=\"timeout=0\"\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             cpu: model=tigerlake, count=1, ips=50000000\n\
             memory: guest=1024, host=1024\n\
             ata0-master: type=cdrom, path={}, status=inserted\n\
             boot: cdrom\n\
             sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
             com1: enabled=1, mode=file, dev={}\n\
             log: {}\n\
             panic: action=fatal\n",
            disc.display(),
            serial.display(),
            dir.join("bochs.log").display()
        ),
    )?;
    // Debian's Bochs has a debugger, which waits for a word.
    let commands = dir.join("commands");
    fs::write(&commands, "continue\n")?;
    let output = File::create(dir.join("output.log"))?;
    let mut bochs = Command::new("bochs");
    bochs
        .arg("-q")
        .arg("-f")
        .arg(&configuration)
        .arg("-rc")
        .arg(&commands);
    bochs
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output);
    let mut bochs = Running(bochs.spawn().context("cannot start bochs")?);

    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let console = fs::read(&serial).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let mut lines = console.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        if let Some(line) = lines.find(|line| line.contains("VMCrypt: protecting")) {
            return Ok(line.trim().to_owned());
        }
        ensure!(
            bochs.0.try_wait()?.is_none() && !console.contains("Panic on CPU"),
            "Xen did not come that far; its console is in {}",
            paths::short(&serial)
        );
        sleep(Duration::from_millis(200));
    }
    bail!("no word of VMCrypt in {}", paths::short(&serial))
}

/// Makes a disc that boots Xen, with something in the place of dom0's kernel.
fn disc(dir: &Path, arguments: &str) -> Result<PathBuf> {
    let root = dir.join("disc");
    let loader = root.join("isolinux");
    fs::create_dir_all(&loader)?;
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, to)
            .map(drop)
            .with_context(|| format!("cannot copy {}", paths::short(from)))
    };
    copy(
        Path::new("/usr/lib/ISOLINUX/isolinux.bin"),
        loader.join("isolinux.bin"),
    )?;
    for module in ["ldlinux.c32", "libcom32.c32", "mboot.c32"] {
        copy(
            &Path::new("/usr/lib/syslinux/modules/bios").join(module),
            loader.join(module),
        )?;
    }
    copy(&Flavour::Product.dir().join("xen"), root.join("xen"))?;
    fs::write(root.join("dom0"), [0; 65_536])?;
    fs::write(
        loader.join("isolinux.cfg"),
        format!(
            "default xen\nlabel xen\nkernel mboot.c32\n\
             append /xen console=com1 com1=115200,8n1 loglvl=all noreboot sync_console cpuidle=0 {arguments} --- /dom0\n"
        ),
    )?;
    let disc = dir.join("disc.iso");
    let mut xorriso = Command::new("xorriso");
    xorriso.args([
        "-as",
        "mkisofs",
        "-b",
        "isolinux/isolinux.bin",
        "-c",
        "isolinux/boot.cat",
    ]);
    xorriso.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-o"]);
    cmd::output(xorriso.arg(&disc).arg(&root))?;
    Ok(disc)
}

/// Ends the emulator when its time is over.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
