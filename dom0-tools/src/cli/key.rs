//! `vmcrypt key`

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use vmcrypt_core::Refusal;
use vmcrypt_core::hpke::PublicKey;
use vmcrypt_core::sealed_key::{self, Policy, SealedKey};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::owner::{LOG_N, OwnerKey};
use vmcrypt_tools::xen;

use super::args::exit;
use super::passphrase::{Passphrase, Secret};

/// Owners' keys: images that outlive the host's reboot, and that dom0 still cannot read
#[derive(Subcommand)]
pub enum Key {
    New(New),
    Seal(Seal),
    Show(Show),
    Load(Load),
    CheckAnswer(CheckAnswer),
}

impl Key {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::New(verb) => verb.run(),
            Self::Seal(verb) => verb.run(),
            Self::Show(verb) => verb.run(),
            Self::Load(verb) => verb.run(),
            Self::CheckAnswer(verb) => verb.run(),
        }
    }
}

/// Draw an owner's secret key (on the owner's machine, never in dom0)
#[derive(Args)]
pub struct New {
    /// File to keep it in; must not exist
    file: PathBuf,
    /// Keep it as it is: whoever reads the file has the key
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
    #[command(flatten)]
    passphrase: Passphrase,
}

impl New {
    fn run(self) -> Result<ExitCode> {
        let key = OwnerKey::draw()?;
        if self.no_passphrase {
            write_new(&self.file, 0o600, &*key.to_text())?;
        } else {
            let text = key.protect(&self.passphrase.choose()?, LOG_N)?;
            write_new(&self.file, 0o600, text.as_bytes())?;
        }
        print_owner(&key);
        exit(0)
    }
}

/// Seal a domain's key to hosts (on the owner's machine, never in dom0)
#[derive(Args)]
#[command(after_help = "\
The hosts that may run the domain's images are those that the key is sealed to. dom0 can print any key, on \
the serial console as well. What counts there is the first line in a log that begins when the machine is switched on, and what follows when you type three \
times Ctrl-A and then K. Or take the key from what measured boot attests. To a key that dom0 made up, you would hand your \
domain.

What a grant allows can be withdrawn from a host by a later one, of a higher serial, once that host has taken it, and until \
the host reboots: Xen forgets then what it has seen, but a grant is good for no other boot than those it was sealed to.")]
pub struct Seal {
    /// The owner's key, from `vmcrypt key new`
    key: PathBuf,
    /// Public key that Xen shows on a host since it booted; may be repeated
    #[arg(long, value_name = "HEX", required = true, num_args = 1.., value_parser = public_key)]
    host: Vec<PublicKey>,
    /// The domain's uuid, as in its configuration
    #[arg(long, value_parser = uuid)]
    uuid: [u8; 16],
    /// Only for a domain that was launched as this: what `vmcrypt measure` prints
    #[arg(long, value_name = "HEX", value_parser = bytes32, required_unless_present = "any_launch")]
    measurement: Option<[u8; 32]>,
    /// For whatever dom0 launches with that uuid, a kernel of its own choice that prints the guest's secrets among it
    #[arg(long, conflicts_with = "measurement")]
    any_launch: bool,
    /// Which of the domain's keys: a host holds the two of the latest epochs it was given, opens images made under either, and
    /// goes on under the later one
    #[arg(long, default_value_t = 0)]
    epoch: u32,
    /// How often images from before a host's boot, or from another host, may be restored while it is up: once, many, or a
    /// number. The latest image of the same boot may always be restored, once; "many" allows any image again and again
    #[arg(long, default_value = "once", value_parser = restores)]
    restores: u32,
    /// Number of this grant: a host takes none below the highest that it has seen for the domain, and of that number the
    /// same one alone. By default the time, in seconds since 1970
    #[arg(long)]
    serial: Option<u64>,
    /// Where to write the sealed key; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

impl Seal {
    fn run(self) -> Result<ExitCode> {
        ensure!(
            self.measurement != Some(NONE),
            "a measurement of zeros is none: --any-launch seals the key for whatever is launched"
        );
        let policy = Policy {
            measurement: self.measurement.unwrap_or_default(),
            serial: self.serial.map_or_else(now, Ok)?,
            restores: self.restores,
        };
        let owner = self.passphrase.read_owner(&self.key)?;
        let file = owner.seal(self.uuid, self.epoch, policy, &self.host)?;
        write_new(&self.out, 0o644, &file)?;
        exit(0)
    }
}

/// Show what is known of a key without its secret
#[derive(Args)]
pub struct Show {
    /// An owner's key, or a sealed one
    file: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

impl Show {
    fn run(self) -> Result<ExitCode> {
        let bytes = Secret::read(&self.file)?;
        if OwnerKey::is_one(&bytes) {
            print_owner(&self.passphrase.owner_in(&self.file, &bytes)?);
            return exit(0);
        }
        let name = self.file.display();
        match SealedKey::read(&bytes) {
            Ok(sealed) => print_sealed(&sealed),
            Err(Refusal::KeyFormat) => bail!("{name} is neither an owner's key nor a sealed one"),
            Err(refusal) => bail!("{name}: {}{}", numbers(&bytes), refusal.text()),
        }
        exit(0)
    }
}

/// Give Xen a sealed key (in dom0)
#[derive(Args)]
pub struct Load {
    /// What `vmcrypt key seal` wrote
    file: PathBuf,
}

impl Load {
    fn run(self) -> Result<ExitCode> {
        let name = self.file.display();
        let bytes = Secret::read(&self.file)?;
        if OwnerKey::is_one(&bytes) {
            bail!(
                "{name} is an owner's secret key: it must not be in dom0; seal it with `vmcrypt key seal` elsewhere"
            );
        }
        let sealed = match SealedKey::read(&bytes) {
            Ok(sealed) => sealed,
            Err(refusal) => bail!("{name}: {}{}", numbers(&bytes), refusal.text()),
        };
        if let Err(refusal) = xen::load_key(&Privcmd::open()?, &sealed)? {
            bail!("{name}: Xen refused it: {}", refusal.text());
        }
        let header = sealed.header();
        say!(
            "Xen has the key {:?} for domain {}",
            header.key,
            xen::uuid(header.uuid)
        );
        exit(0)
    }
}

/// Check what a guest says that Xen told it about itself (on the owner's machine, never in dom0)
#[derive(Args)]
#[command(after_help = "\
An agent in the guest gets a nonce from its owner, asks Xen (hypercall 50, operation 3) and sends the 168 bytes back. If they \
are genuine, the domain with this uuid asked with this nonce while it ran protected, under the owner's key, on the host \
whose public key is printed: compare it with those that the key was sealed to.")]
pub struct CheckAnswer {
    /// The owner's key, from `vmcrypt key new`
    key: PathBuf,
    /// What the guest got, in hexadecimal digits
    answer: String,
    /// The domain's uuid
    #[arg(long, value_parser = uuid)]
    uuid: [u8; 16],
    /// Epoch of the key that the domain is under
    #[arg(long, value_name = "N", default_value_t = 0)]
    epoch: u32,
    /// What the guest was to ask with: 32 random bytes, used once
    #[arg(long, value_name = "HEX", value_parser = bytes32)]
    nonce: [u8; 32],
    /// What the domain must have been launched as
    #[arg(long, value_name = "HEX", value_parser = bytes32)]
    measurement: Option<[u8; 32]>,
    /// Public key of a host where it may run, all if none is named; may be repeated
    #[arg(long, value_name = "HEX", num_args = 1.., value_parser = public_key)]
    host: Vec<PublicKey>,
    #[command(flatten)]
    passphrase: Passphrase,
}

impl CheckAnswer {
    fn run(self) -> Result<ExitCode> {
        let bytes = hex::decode(self.answer.trim()).context("hexadecimal digits are wanted")?;
        let answer =
            self.passphrase
                .read_owner(&self.key)?
                .check(&self.uuid, self.epoch, &self.nonce, &bytes)?;
        let host = PublicKey(answer.host);
        ensure!(
            self.measurement.is_none_or(|wanted| wanted == answer.measurement),
            "the domain was launched as something else: {}",
            hex::encode(answer.measurement)
        );
        ensure!(
            self.host.is_empty() || self.host.contains(&host),
            "the domain runs on another host: {host:?}"
        );
        say!(
            "genuine     domain {} is protected, under its owner's key",
            xen::uuid(answer.uuid)
        );
        say!("launched as {}", hex::encode(answer.measurement));
        say!("host        {host:?}");
        exit(0)
    }
}

/// No measurement.
const NONE: [u8; 32] = [0; 32];

fn print_owner(key: &OwnerKey) {
    say!("owner       {:?}", key.public());
    say!(
        "            boot Xen with vmcrypt-owner={:?} to let it take keys of this owner",
        key.public()
    );
}

fn print_sealed(sealed: &SealedKey<'_>) {
    let header = sealed.header();
    let policy = &header.policy;
    say!("domain      {}", xen::uuid(header.uuid));
    say!("key         {:?}, epoch {}", header.key, header.epoch);
    say!("owner       {:?}", header.owner);
    match policy.measurement {
        NONE => say!("launched as anything"),
        measured => say!("launched as {}", hex::encode(measured)),
    }
    match policy.restores {
        0 => say!("restores    many"),
        1 => say!("restores    once"),
        n => say!("restores    {n}"),
    }
    say!("serial      {}", policy.serial);
    for envelope in sealed.envelopes() {
        say!("host        {:?}", envelope.host);
    }
    say!("            (as the file says: only a host that opens it finds out whether that is true)");
}

/// What a sealed key of another version says of itself.
fn numbers(bytes: &[u8]) -> String {
    sealed_key::numbers(bytes).map_or_else(String::new, |(version, cipher)| {
        format!("version {version}, cipher {cipher}: ")
    })
}

/// Seconds since 1970.
fn now() -> Result<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(since
        .context("this machine's clock is before 1970; give a --serial")?
        .as_secs())
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let name = path.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {name}"))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.with_context(|| format!("cannot write {name}"))
}

fn public_key(digits: &str) -> Result<PublicKey> {
    bytes32(digits).map(PublicKey)
}

fn bytes32(digits: &str) -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes)
        .ok()
        .context("64 hexadecimal digits are wanted")?;
    Ok(bytes)
}

fn uuid(text: &str) -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let digits: String = text.split('-').collect();
    let known = groups == [8, 4, 4, 4, 12] || groups == [32];
    (known && hex::decode_to_slice(digits, &mut bytes).is_ok())
        .then_some(bytes)
        .context("a uuid like 01234567-89ab-cdef-0123-456789abcdef is wanted")
}

fn restores(text: &str) -> Result<u32> {
    Ok(match text {
        "once" => 1,
        "many" => 0,
        number => number
            .parse()
            .ok()
            .filter(|&number| number > 0)
            .context("\"once\", \"many\" or a number above 0 is wanted")?,
    })
}
