//! What is allowed, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail, ensure};
use vmcrypt_host::paths;

use crate::xen::patches_dir;

/// Contents of `xen-patches/LINK-GATE`.
#[derive(Debug, Default)]
pub struct Rules {
    /// Symbols that Xen provides.
    pub undefined: BTreeSet<String>,
    /// Panicking functions that may be reached.
    pub panics: BTreeSet<String>,
    /// Functions of Xen whose code differs from stock when the option is off.
    pub off: BTreeSet<String>,
    /// Functions and modules of the vector part that may use VEX encodings: 256 bits.
    pub vex: BTreeSet<String>,
    /// Those that may use EVEX encodings as well: 512 bits, but no mask.
    pub evex: BTreeSet<String>,
    /// Largest stack frame of one function.
    pub frame: u64,
    /// Largest size of each section.
    pub sections: BTreeMap<String, u64>,
}

impl Rules {
    /// Read the project's own.
    pub fn of_the_project() -> Result<Self> {
        let path = &patches_dir().join("LINK-GATE");
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", paths::short(path)))?;
        Self::parse(&text).with_context(|| format!("in {}", paths::short(path)))
    }

    /// Read lines of `KIND VALUE: reason`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut rules = Self::default();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        {
            let (rule, reason) = line
                .split_once(": ")
                .with_context(|| format!("`{line}` gives no reason after a colon"))?;
            ensure!(
                !reason.trim().is_empty(),
                "`{line}` gives no reason after its colon"
            );
            let (kind, value) = rule
                .split_once(' ')
                .with_context(|| format!("`{line}` names nothing"))?;
            let number = |text: &str| {
                text.parse()
                    .with_context(|| format!("`{line}`: {text} is not a number"))
            };
            match kind {
                "undefined" => drop(rules.undefined.insert(value.to_owned())),
                "panic" => drop(rules.panics.insert(value.to_owned())),
                "off" => drop(rules.off.insert(value.to_owned())),
                "vex" => drop(rules.vex.insert(value.to_owned())),
                "evex" => drop(rules.evex.insert(value.to_owned())),
                "frame" => rules.frame = number(value)?,
                "section" => {
                    let (name, size) = value
                        .split_once(' ')
                        .with_context(|| format!("`{line}` gives no size"))?;
                    rules.sections.insert(name.to_owned(), number(size)?);
                }
                _ => bail!(
                    "`{line}`: {kind} is no kind of rule; there are undefined, panic, vex, evex, off, frame and section"
                ),
            }
        }
        Ok(rules)
    }
}
