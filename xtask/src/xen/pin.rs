//! Files that name what is fetched: lines of `key: value`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use vmcrypt_host::{Sha256, apt, paths};

use super::patches_dir;

/// A file of Debian's main pool, pinned by its hash.
pub struct Pin {
    name: String,
    fields: BTreeMap<String, String>,
}

impl Pin {
    /// Read `xen-patches/NAME`.
    pub fn read(name: &str) -> Result<Self> {
        let path = patches_dir().join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", paths::short(&path)))?;
        let mut fields = BTreeMap::new();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        {
            let Some((key, value)) = line.split_once(':') else {
                bail!(
                    "{}: `{line}` is not a line of the form `key: value`",
                    paths::short(&path)
                );
            };
            fields.insert(key.trim().to_owned(), value.trim().to_owned());
        }
        Ok(Self {
            name: paths::short(&path),
            fields,
        })
    }

    /// Value of a key that must be there.
    pub fn field(&self, key: &str) -> Result<&str> {
        self.fields
            .get(key)
            .map(String::as_str)
            .with_context(|| format!("{} has no line `{key}:`", self.name))
    }

    /// Pinned hash.
    pub fn sha256(&self) -> Result<Sha256> {
        self.field("sha256")?
            .parse()
            .with_context(|| format!("in {}", self.name))
    }

    /// The file itself, fetched once.
    pub fn fetch(&self) -> Result<PathBuf> {
        apt::fetch_pinned(self.field("pool")?, self.sha256()?)
    }
}
