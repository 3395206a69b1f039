//! Passphrases of owners' keys, and the files that hold secrets.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use vmcrypt_core::sealed_key;
use vmcrypt_tools::owner::OwnerKey;
use zeroize::Zeroize;

/// Longer ones are none: somebody named the wrong file.
const LONGEST: usize = 1024;

/// Where the passphrase of an owner's key comes from.
#[derive(Args)]
pub struct Passphrase {
    /// Read the passphrase of the owner's key from the first line of this file; by default it is asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    /// A passphrase for a new key.
    pub fn choose(&self) -> Result<Wiped> {
        if let Some(file) = &self.passphrase_file {
            return first_line(file);
        }
        let mut terminal = Terminal::open()?;
        let first = terminal.ask("Passphrase for the new key: ")?;
        ensure!(
            !first.is_empty(),
            "an empty passphrase protects nothing; --no-passphrase keeps the key as it is"
        );
        ensure!(
            *first == *terminal.ask("The same again: ")?,
            "the two passphrases differ"
        );
        Ok(first)
    }

    /// The owner's key in a file, which nobody else may be able to read.
    pub fn read_owner(&self, path: &Path) -> Result<OwnerKey> {
        let bytes = Secret::read(path)?;
        self.owner_in(path, &bytes)
    }

    /// The same, of a file that was read already.
    pub fn owner_in(&self, path: &Path, bytes: &Secret) -> Result<OwnerKey> {
        let name = path.display();
        if !OwnerKey::is_one(bytes) {
            OwnerKey::from_text(bytes).with_context(|| name.to_string())?;
        }
        bytes.demand_private(path)?;
        if !OwnerKey::is_protected(bytes) {
            return OwnerKey::from_text(bytes).with_context(|| name.to_string());
        }
        let passphrase = match &self.passphrase_file {
            Some(file) => first_line(file)?,
            None => Terminal::open()?.ask(&format!("Passphrase of {name}: "))?,
        };
        OwnerKey::unprotect(bytes, &passphrase).with_context(|| name.to_string())
    }
}

fn first_line(path: &Path) -> Result<Wiped> {
    let bytes = Secret::read(path)?;
    bytes.demand_private(path)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    ensure!(
        !line.is_empty() && line.len() <= LONGEST,
        "the first line of {} is no passphrase",
        path.display()
    );
    Ok(Wiped(line.to_vec()))
}

/// Bytes that are wiped on drop.
pub struct Wiped(Vec<u8>);

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

/// The contents of a small file, and who may read it.
pub struct Secret {
    bytes: Wiped,
    mode: u32,
}

impl Secret {
    /// Reads a file; what is larger than a key is none of ours.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let mode = file
            .metadata()
            .with_context(|| format!("cannot read {name}"))?
            .mode();
        let mut bytes = Wiped(Vec::with_capacity(sealed_key::MAX + 1));
        file.take(sealed_key::MAX as u64 + 1)
            .read_to_end(&mut bytes.0)
            .with_context(|| format!("cannot read {name}"))?;
        ensure!(bytes.len() <= sealed_key::MAX, "{name} is too large to be a key");
        Ok(Self { bytes, mode })
    }

    /// Refuses a secret that others than the file's owner can read or write.
    fn demand_private(&self, path: &Path) -> Result<()> {
        if self.mode & 0o077 != 0 {
            let name = path.display();
            bail!(
                "{name} holds a secret, and its mode {:03o} lets others at it: if nobody has read it, `chmod 600 {name}`; if somebody may have, make a new one",
                self.mode & 0o777
            );
        }
        Ok(())
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The terminal of the person at the keyboard, wherever stdin and stdout go.
struct Terminal {
    device: File,
    shows: Termios,
}

impl Terminal {
    fn open() -> Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .context("no terminal to ask for a passphrase; name one with --passphrase-file")?;
        let shows = termios::tcgetattr(&device).context("cannot look at the terminal")?;
        Ok(Self { device, shows })
    }

    fn ask(&mut self, what: &str) -> Result<Wiped> {
        let mut hides = self.shows.clone();
        hides.local_modes &= !LocalModes::ECHO;
        hides.local_modes |= LocalModes::ECHONL | LocalModes::ICANON;
        let question = vmcrypt_tools::escape::line(format_args!("{what}"));
        termios::tcsetattr(&self.device, OptionalActions::Flush, &hides)
            .context("cannot stop the terminal from showing what is typed")?;
        self.device
            .write_all(question.as_bytes())
            .context("cannot write to the terminal")?;
        let mut line = Wiped(Vec::with_capacity(LONGEST));
        let mut byte = [0];
        loop {
            let read = self
                .device
                .read(&mut byte)
                .context("cannot read the passphrase")?;
            if read == 0 || byte == *b"\n" {
                break;
            }
            ensure!(line.len() < LONGEST, "a passphrase has at most {LONGEST} bytes");
            line.0.push(byte[0]);
        }
        byte.zeroize();
        let _ = termios::tcsetattr(&self.device, OptionalActions::Flush, &self.shows);
        Ok(line)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.device, OptionalActions::Flush, &self.shows);
    }
}
