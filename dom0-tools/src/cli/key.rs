//! `vmcrypt key`

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use vmcrypt_core::hpke::PublicKey;
use vmcrypt_core::sealed_key::{self, Policy, SealedKey};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::owner::OwnerKey;
use vmcrypt_tools::xen;
use zeroize::Zeroize;

use super::args::exit;

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
}

impl New {
    fn run(self) -> Result<ExitCode> {
        let key = OwnerKey::draw()?;
        write_new(&self.file, 0o600, &*key.to_text())?;
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
domain.")]
pub struct Seal {
    /// The owner's key, from `vmcrypt key new`
    key: PathBuf,
    /// Public key that Xen shows on a host since it booted; may be repeated
    #[arg(long, value_name = "HEX", required = true, num_args = 1.., value_parser = public_key)]
    host: Vec<PublicKey>,
    /// The domain's uuid, as in its configuration
    #[arg(long, value_parser = uuid)]
    uuid: [u8; 16],
    /// Only for a domain that was launched as this: the measurement that Xen shows
    #[arg(long, value_name = "HEX", value_parser = bytes32)]
    measurement: Option<[u8; 32]>,
    /// How often images from before a host's boot, or from another host, may be restored while it is up: once, many, or a
    /// number. The latest image of the same boot may always be restored, once; "many" allows any image again and again
    #[arg(long, default_value = "once", value_parser = restores)]
    restores: u32,
    /// Number of this grant: a host takes none below the highest it has seen for the domain
    #[arg(long, default_value_t = 0)]
    serial: u64,
    /// Where to write the sealed key; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Seal {
    fn run(self) -> Result<ExitCode> {
        ensure!(
            self.measurement != Some(NONE),
            "a measurement of zeros is none: leave --measurement out to seal the key for whatever is launched"
        );
        let policy = Policy {
            measurement: self.measurement.unwrap_or_default(),
            serial: self.serial,
            restores: self.restores,
        };
        let file = read_owner(&self.key)?.seal(self.uuid, policy, &self.host)?;
        write_new(&self.out, 0o644, &file)?;
        exit(0)
    }
}

/// Show what is known of a key without its secret
#[derive(Args)]
pub struct Show {
    /// An owner's key, or a sealed one
    file: PathBuf,
}

impl Show {
    fn run(self) -> Result<ExitCode> {
        let bytes = read(&self.file)?;
        if let Ok(key) = OwnerKey::from_text(&bytes) {
            print_owner(&key);
            return exit(0);
        }
        let sealed = SealedKey::read(&bytes).ok().with_context(|| {
            format!(
                "{} is neither an owner's key nor a sealed one",
                self.file.display()
            )
        })?;
        print_sealed(&sealed);
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
        let bytes = read(&self.file)?;
        if OwnerKey::from_text(&bytes).is_ok() {
            bail!(
                "{name} is an owner's secret key: it must not be in dom0; seal it with `vmcrypt key seal` elsewhere"
            );
        }
        let sealed = match SealedKey::read(&bytes) {
            Ok(sealed) => sealed,
            Err(refusal) => bail!("{name}: {}", refusal.text()),
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
    /// What the guest was to ask with: 32 random bytes, used once
    #[arg(long, value_name = "HEX", value_parser = bytes32)]
    nonce: [u8; 32],
    /// What the domain must have been launched as
    #[arg(long, value_name = "HEX", value_parser = bytes32)]
    measurement: Option<[u8; 32]>,
    /// Public key of a host where it may run, all if none is named; may be repeated
    #[arg(long, value_name = "HEX", num_args = 1.., value_parser = public_key)]
    host: Vec<PublicKey>,
}

impl CheckAnswer {
    fn run(self) -> Result<ExitCode> {
        let bytes = hex::decode(self.answer.trim()).context("hexadecimal digits are wanted")?;
        let answer = read_owner(&self.key)?.check(&self.uuid, &self.nonce, &bytes)?;
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
    say!("key         {:?}", header.key);
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

fn read_owner(path: &Path) -> Result<OwnerKey> {
    OwnerKey::from_text(&read(path)?).with_context(|| path.display().to_string())
}

/// Reads a small file; what is larger is none of ours.
fn read(path: &Path) -> Result<Secret> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut bytes = Secret(Vec::with_capacity(sealed_key::MAX + 1));
    file.take(sealed_key::MAX as u64 + 1)
        .read_to_end(&mut bytes.0)
        .with_context(|| format!("cannot read {name}"))?;
    ensure!(
        bytes.0.len() <= sealed_key::MAX,
        "{name} is too large to be a key"
    );
    Ok(bytes)
}

/// What may be a secret key: wiped on drop.
struct Secret(Vec<u8>);

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
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
