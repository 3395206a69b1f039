//! One run of QEMU with Xen in it.

use crate::client::{Answer, Client};
use crate::console::{ConsoleLog, Trouble};
use crate::esp;
use crate::image::Image;
use crate::protocol::PORT;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vmcrypt_host::hostpkg;

/// Which xenstore daemon dom0 starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Store {
    /// The one in C.
    C,
    /// The one in OCaml, which maps a guest's ring as a foreign page.
    OCaml,
}

/// Who has the serial console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Nobody: it is logged, and a test may [type](Machine::type_at_console).
    Log,
    /// The person at the terminal, who gets a shell in dom0.
    Terminal,
}

/// What the CPU has for the page cipher. QEMU emulates neither VPCLMULQDQ nor AVX-512.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vectors {
    /// Nothing.
    None,
    /// AES-NI and PCLMULQDQ.
    AesNi,
    /// The same, and VAES on 256 bits, which QEMU 7.2 gets wrong.
    Vaes,
}

/// How to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The hypervisor's ELF file.
    pub hypervisor: PathBuf,
    /// Added to Xen's command line.
    pub xen_arguments: String,
    /// What the CPU has for the page cipher.
    pub vectors: Vectors,
    /// CPUs.
    pub cpus: u8,
    /// The machine's memory; dom0 takes 900 MiB of it.
    pub memory_mib: u32,
    /// Which xenstore daemon.
    pub store: Store,
    /// Who has the console.
    pub console: Console,
    /// Its clock counts instructions, one a nanosecond: time in it does not depend on what else this host does. For one
    /// CPU alone.
    pub counted: bool,
    /// It has an IOMMU, and its disks and a network card are behind it.
    pub iommu: bool,
    /// Its firmware is UEFI, from which GRUB starts Xen; else QEMU starts Xen, as a BIOS's GRUB would.
    pub efi: bool,
}

impl Boot {
    /// One CPU, AES-NI, 2,560 MiB, nothing special.
    pub fn new(hypervisor: impl Into<PathBuf>) -> Boot {
        Boot {
            hypervisor: hypervisor.into(),
            xen_arguments: String::new(),
            vectors: Vectors::AesNi,
            cpus: 1,
            memory_mib: 2560,
            store: Store::C,
            console: Console::Log,
            counted: false,
            iommu: false,
            efi: false,
        }
    }
}

/// A running machine; dropping it ends QEMU.
pub struct Machine {
    qemu: Child,
    log: ConsoleLog,
    client: Option<Client>,
    out: PathBuf,
    transfer: PathBuf,
    /// Sockets: their paths must be short.
    sockets: tempfile::TempDir,
}

/// From power-on to the agent's first answer. Thirty seconds is usual, several times that on a loaded machine.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// Between two keys: Xen's UART takes them one by one.
const KEYSTROKE: Duration = Duration::from_millis(100);

/// What Xen does after its last words takes a moment.
const HALTING: Duration = Duration::from_secs(5);

/// The transfer disk as dom0 sees it, and its size: sparse, so that it costs what goes over it.
const TRANSFER: &str = "/dev/vdb";
const TRANSFER_SIZE: u64 = 2 << 30;

impl Machine {
    /// Boots and waits until dom0 answers. The console goes to `xen.log` in `dir`, what dom0 writes to `/out` to
    /// `out/` there.
    pub fn boot(image: &Image, boot: &Boot, dir: impl AsRef<Path>) -> Result<Machine> {
        let dir = dir.as_ref();
        let mut machine = Self::start(image, boot, dir)?;
        let deadline = Instant::now() + BOOT_LIMIT;
        let socket = machine.sockets.path().join("agent");
        machine.client = Some(Client::connect(&socket, deadline)?);
        // One long request: it is answered when the agent comes up.
        let answer = machine.run(
            "xl list >/dev/null && xenstore-read /local/domain/0/name",
            BOOT_LIMIT,
        );
        let answer = answer.context("dom0 did not come up")?;
        ensure!(
            answer.ok(),
            "dom0 came up without a working toolstack: {}",
            answer.all_text().trim()
        );
        Ok(machine)
    }

    /// Boots with the console on this process's terminal, and waits until the person is done.
    pub fn interactive(image: &Image, boot: &Boot, dir: impl AsRef<Path>) -> Result<()> {
        let boot = Boot {
            console: Console::Terminal,
            ..boot.clone()
        };
        let mut machine = Self::start(image, &boot, dir.as_ref())?;
        machine.qemu.wait()?;
        Ok(())
    }

    fn start(image: &Image, boot: &Boot, dir: &Path) -> Result<Machine> {
        hostpkg::ensure(&["qemu-system-x86"])?;
        ensure!(
            boot.hypervisor.is_file(),
            "there is no hypervisor at {}",
            boot.hypervisor.display()
        );
        let out = dir.join("out");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out)?;
        let log = dir.join("xen.log");
        File::create(&log)?;
        let transfer = dir.join("transfer.disk");
        File::create(&transfer)?.set_len(TRANSFER_SIZE)?;
        let sockets = tempfile::Builder::new().prefix("vmcrypt-").tempdir()?;
        let arguments = arguments(image, boot, dir, sockets.path())?;
        fs::write(dir.join("qemu.cmd"), arguments.join("\n"))?;
        let (stdin, errors) = match boot.console {
            Console::Terminal => (Stdio::inherit(), Stdio::inherit()),
            Console::Log => (Stdio::null(), File::create(dir.join("qemu.err"))?.into()),
        };
        let qemu = Command::new("qemu-system-x86_64")
            .args(arguments)
            .stdin(stdin)
            .stderr(errors)
            .spawn();
        let qemu = qemu.context("starting qemu-system-x86_64")?;
        Ok(Machine {
            qemu,
            log: ConsoleLog::new(&log),
            client: None,
            out,
            transfer,
            sockets,
        })
    }

    /// Runs a shell command in dom0. An error means that the machine broke; a command that fails is an answer.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        let Machine {
            qemu, log, client, ..
        } = self;
        let client = client
            .as_mut()
            .context("this machine's console belongs to a person")?;
        let answer = client.run(command, limit, || alive(qemu, log))?;
        alive(qemu, log)?;
        Ok(answer)
    }

    /// The console's log so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.path()).unwrap_or_default()).into_owned()
    }

    /// The host's side of dom0's `/out`, for small files.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Reads a file of dom0's. It goes over a disk of its own, ten times faster than the shared directory.
    pub fn take(&mut self, file: &str, limit: Duration) -> Result<Vec<u8>> {
        let answer = self.run(
            &format!("dd if={file} of={TRANSFER} bs=1M conv=fsync && stat -c %s {file}"),
            limit,
        )?;
        ensure!(
            answer.ok(),
            "{file} could not be read: {}",
            answer.all_text().trim()
        );
        let size = answer.text().parse().with_context(|| format!("size of {file}"))?;
        let mut bytes = Vec::new();
        File::open(&self.transfer)?.take(size).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Makes a file in dom0.
    pub fn give(&mut self, bytes: &[u8], file: &str, limit: Duration) -> Result<()> {
        File::options()
            .write(true)
            .open(&self.transfer)?
            .write_all(bytes)?;
        let size = bytes.len();
        let command = format!("blockdev --flushbufs {TRANSFER} && head -c {size} {TRANSFER} >{file}");
        let answer = self.run(&command, limit)?;
        ensure!(
            answer.ok(),
            "{file} could not be written: {}",
            answer.all_text().trim()
        );
        Ok(())
    }

    /// Writes the machine's whole physical memory to a file, as a thief of the memory modules would see it.
    pub fn dump_memory(&mut self, bytes: u64, to: &Path) -> Result<()> {
        let arguments = serde_json::json!({"val": 0, "size": bytes, "filename": to});
        self.ask("pmemsave", arguments)?;
        Ok(())
    }

    /// Writes what the vector registers of all CPUs hold to a file, each as it would lie in memory.
    pub fn dump_vectors(&mut self, to: &Path) -> Result<()> {
        let arguments = serde_json::json!({"command-line": "info registers -a"});
        let answer = self.ask("human-monitor-command", arguments)?;
        let vectors = vectors(answer.as_str().context("QEMU says nothing of registers")?);
        ensure!(!vectors.is_empty(), "QEMU shows no vector registers");
        fs::write(to, vectors)?;
        Ok(())
    }

    /// From now on a machine that resets or powers off stands still instead, with its memory as it was.
    pub fn hold_at_end(&mut self) -> Result<()> {
        self.ask(
            "set-action",
            serde_json::json!({"reboot": "shutdown", "shutdown": "pause"}),
        )?;
        Ok(())
    }

    /// What QEMU says of the machine: `running`, `suspended` and so on.
    pub fn status(&mut self) -> Result<String> {
        let status = self.ask("query-status", serde_json::json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Types at the serial line, as a person there would, and waits until the console has said these words since.
    pub fn type_at_console(&mut self, keys: &[u8], words: &str, limit: Duration) -> Result<()> {
        let before = self.console().len();
        let mut line = UnixStream::connect(self.sockets.path().join("com1")).context("connecting to COM1")?;
        line.set_read_timeout(Some(KEYSTROKE))?;
        let deadline = Instant::now() + limit;
        let mut keys = keys.iter();
        loop {
            if let Some(key) = keys.next() {
                line.write_all(&[*key])?;
            }
            // QEMU waits for whoever is connected to take what it sends.
            let _ = line.read(&mut [0; 4096]);
            if self
                .console()
                .get(before..)
                .is_some_and(|said| said.contains(words))
            {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "typed, and the console does not say {words:?}"
            );
        }
    }

    /// Sends every CPU a non-maskable interrupt.
    pub fn inject_nmi(&mut self) -> Result<()> {
        self.ask("inject-nmi", serde_json::json!({}))?;
        Ok(())
    }

    /// Waits until the machine, [held](Self::hold_at_end), has reset or powered off, or, with `halts`, until it has said
    /// these words on the console and had time to do what it does after them.
    pub fn await_end(&mut self, halts: Option<&str>, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match halts {
                Some(words) if self.console().contains(words) => {
                    std::thread::sleep(HALTING);
                    return Ok(());
                }
                Some(_) => {}
                None if self.ask("query-status", serde_json::json!({}))?["status"] == "shutdown" => {
                    return Ok(());
                }
                None => {}
            }
            ensure!(
                Instant::now() < deadline,
                "the machine did not go down within {} s",
                limit.as_secs()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn ask(&mut self, command: &str, arguments: serde_json::Value) -> Result<serde_json::Value> {
        let stream = UnixStream::connect(self.sockets.path().join("qmp")).context("connecting to QMP")?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut ask = |request: serde_json::Value| -> Result<serde_json::Value> {
            writeln!(&stream, "{request}")?;
            for line in lines.by_ref() {
                let mut answer: serde_json::Value = serde_json::from_str(&line?)?;
                if let Some(result) = answer.get_mut("return") {
                    return Ok(result.take());
                }
                ensure!(answer.get("error").is_none(), "QEMU refuses {request}: {answer}");
            }
            bail!("QEMU closed its monitor")
        };
        ask(serde_json::json!({"execute": "qmp_capabilities"}))?;
        ask(serde_json::json!({"execute": command, "arguments": arguments}))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_file(&self.transfer);
    }
}

/// The vector registers in QEMU's words: `XMM00=` and hexadecimal digits, of wider ones in groups, the highest first.
fn vectors(text: &str) -> Vec<u8> {
    let mut registers: Vec<Vec<u8>> = Vec::new();
    let mut within = false;
    for word in text.split_whitespace() {
        let (name, digits) = word.split_once('=').unwrap_or(("", word));
        if word.contains('=') {
            within = ["XMM", "YMM", "ZMM"].iter().any(|kind| name.starts_with(kind));
            if within {
                registers.push(Vec::new());
            }
        }
        if let (true, Some(register)) = (within, registers.last_mut()) {
            let digits = digits.as_bytes().as_chunks::<2>().0;
            let bytes = digits
                .iter()
                .filter_map(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok());
            register.extend(bytes);
        }
    }
    registers
        .into_iter()
        .flat_map(|bytes| bytes.into_iter().rev())
        .collect()
}

fn alive(qemu: &mut Child, log: &mut ConsoleLog) -> Result<(), Trouble> {
    log.check()?;
    match qemu.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(Trouble(format!("QEMU ended with {status}"))),
        Err(error) => Err(Trouble(format!("QEMU cannot be asked: {error}"))),
    }
}

fn arguments(image: &Image, boot: &Boot, dir: &Path, sockets: &Path) -> Result<Vec<String>> {
    let text = |path: &Path| path.display().to_string();
    let mut dom0 = "console=hvc0 quiet loglevel=4".to_owned();
    if boot.store == Store::OCaml {
        dom0 += " vmcrypt.store=oxenstored";
    }
    let serial = match boot.console {
        // Nobody need be connected, and what is written is logged all the same.
        Console::Log => format!(
            "socket,id=com1,path={}/com1,server=on,wait=off,logfile={}",
            text(sockets),
            text(&dir.join("xen.log"))
        ),
        Console::Terminal => {
            dom0 += " vmcrypt.shell";
            format!("stdio,id=com1,signal=off,logfile={}", text(&dir.join("xen.log")))
        }
    };
    // Without eager FPU switching, TCG lets a vCPU run with another's vector registers, on stock Xen as well: memory
    // of dom0's programs gets corrupted, and register checks fail. A debug build tells two lines of each map that it
    // refuses, which drown all others, unless guest messages are turned down; VMCrypt's are not of that kind.
    let xen = format!(
        "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=error noreboot sync_console cpuidle=0 \
         spec-ctrl=eager-fpu dom0_mem=900M,max:900M {}",
        boot.xen_arguments
    );
    let share = "security_model=none,id";
    let mut arguments = [
        "-accel",
        "tcg",
        "-cpu",
        &cpu(boot.vectors)?,
        "-smp",
        &boot.cpus.to_string(),
        "-m",
        &boot.memory_mib.to_string(),
        "-display",
        "none",
        "-no-reboot",
        "-nodefaults",
        "-chardev",
        &serial,
        "-serial",
        "chardev:com1",
        "-drive",
        &format!(
            "file={},if=none,id=root,format=raw,snapshot=on,cache=unsafe",
            text(&image.root())
        ),
        "-drive",
        &format!(
            "file={},if=none,id=transfer,format=raw,cache=unsafe",
            text(&dir.join("transfer.disk"))
        ),
        "-fsdev",
        &format!("local,path={},readonly=on,{share}=share", text(&image.share())),
        "-device",
        "virtio-9p-pci,fsdev=share,mount_tag=share",
        "-fsdev",
        &format!("local,path={},{share}=out", text(&dir.join("out"))),
        "-device",
        "virtio-9p-pci,fsdev=out,mount_tag=out",
        // Without a source of entropy, some first `xl create` in ten hangs.
        "-device",
        "virtio-rng-pci",
        // A device with a table of interrupts that dom0 has no driver for, behind a bridge: attacks use both.
        "-device",
        "pci-bridge,id=bridge,chassis_nr=1",
        "-device",
        "nvme,serial=idle,bus=bridge",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        &format!("socket,id=agent,path={}/agent,server=on,wait=off", text(sockets)),
        "-device",
        &format!("virtserialport,chardev=agent,name={PORT}"),
        "-qmp",
        &format!("unix:{}/qmp,server=on,wait=off", text(sockets)),
    ]
    .map(str::to_owned)
    .to_vec();
    // Devices come behind the IOMMU on the command line, too.
    let behind = if boot.iommu {
        arguments.splice(
            0..0,
            ["-machine", "q35", "-device", "intel-iommu"].map(str::to_owned),
        );
        ",iommu_platform=on,disable-legacy=on"
    } else {
        ""
    };
    for disk in ["root", "transfer"] {
        arguments.extend([
            "-device".to_owned(),
            format!("virtio-blk-pci,drive={disk}{behind}"),
        ]);
    }
    if boot.iommu {
        let network = format!("virtio-net-pci,netdev=network{behind}");
        arguments.extend(["-netdev", "user,id=network", "-device", &network].map(str::to_owned));
    }
    if boot.efi {
        let system = esp::make(image, &boot.hypervisor, &xen, &dom0, dir)?;
        arguments.extend(esp::arguments(&system));
    } else {
        let modules = format!("{} {dom0},{}", text(&image.kernel()), text(&image.initramfs()));
        let files = [
            "-kernel",
            &text(&boot.hypervisor),
            "-append",
            &xen,
            "-initrd",
            &modules,
        ];
        arguments.extend(files.map(str::to_owned));
    }
    if boot.counted {
        arguments.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
    }
    Ok(arguments)
}

/// An EPYC without what TCG's emulation gets wrong: MONITOR faults in Xen's idle loop, RDTSCP gives nested
/// virtualisation no next instruction; before QEMU 10, SMAP and SMEP kill dom0 at its first bounce frame.
fn cpu(vectors: Vectors) -> Result<String> {
    let mut cpu = "EPYC,-monitor,-rdtscp".to_owned();
    if qemu_major()? < 10 {
        cpu += ",-smap,-smep";
    }
    cpu += match vectors {
        Vectors::None => ",-aes,-pclmulqdq",
        Vectors::AesNi => ",+aes,+pclmulqdq",
        Vectors::Vaes => ",+aes,+pclmulqdq,+vaes",
    };
    Ok(cpu)
}

/// First number of the version of the QEMU that is installed.
pub fn qemu_major() -> Result<u32> {
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .context("starting QEMU")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split("version ")
        .nth(1)
        .and_then(|rest| rest.split('.').next()?.parse().ok())
        .with_context(|| format!("QEMU tells no version: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_registers_are_read_lowest_byte_first() {
        let text = "CPU#0\nRAX=00000000000000ff\nFCW=037f FSW=0000\nFPR0=00 01\n\
                    XMM00=0f0e0d0c0b0a09080706050403020100 XMM01=00000000000000000000000000000001\nCPU#1\n\
                    YMM00=0000000000000002 0000000000000000 0000000000000000 0000000000000003\nCode=90 90\n";
        let mut wanted: Vec<u8> = (0..16).collect();
        wanted.extend(1u128.to_le_bytes());
        wanted.extend(3u128.to_le_bytes());
        wanted.extend((2u128 << 64).to_le_bytes());
        assert_eq!(vectors(text), wanted);
        assert!(vectors("RAX=00000000000000ff").is_empty());
    }
}
