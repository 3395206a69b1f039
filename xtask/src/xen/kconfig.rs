//! Configuring Xen from a fragment, and checking that every line of it was taken.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use vmcrypt_host::{cmd, progress::Step};

use super::{Make, write_if_changed};

/// Write Xen's `.config` from `fragment` and Xen's defaults. It keeps its date when nothing changed.
pub fn configure(make: &Make<'_>, fragment: &str, dir: &Path, step: &Step) -> Result<()> {
    step.note("configure");
    let scratch = make.source.join("xen/.config.vmcrypt");
    fs::write(&scratch, fragment)?;
    let mut olddefconfig = make.command();
    olddefconfig
        .arg("KCONFIG_CONFIG=.config.vmcrypt")
        .arg("olddefconfig");
    cmd::logged(&mut olddefconfig, &dir.join("configure.log"), step)?;
    let config = fs::read_to_string(&scratch).context("Xen's configuration wrote no file")?;
    let refused = refused_lines(fragment, &config);
    if !refused.is_empty() {
        bail!(
            "Xen's configuration did not take: {}\nThe option does not exist in this source, or something that it depends on is off.",
            refused.join(", ")
        );
    }
    write_if_changed(&make.source.join("xen/.config"), config.as_bytes())?;
    Ok(())
}

/// Lines of `fragment` that `config` contradicts. An option that is off is either commented out or absent.
fn refused_lines<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let has = |wanted: &str| config.lines().any(|line| line == wanted);
    let on = |name: &str| {
        config
            .lines()
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    let taken = |line: &str| match line
        .strip_prefix("# ")
        .and_then(|line| line.strip_suffix(" is not set"))
    {
        Some(name) => !on(name),
        None => !line.starts_with("CONFIG_") || has(line),
    };
    fragment
        .lines()
        .map(str::trim)
        .filter(|line| !taken(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_not_taken_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_N=14\n";
        assert!(
            refused_lines(
                "# why\nCONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_Z is not set\nCONFIG_N=14\n",
                config
            )
            .is_empty()
        );
        assert_eq!(
            refused_lines(
                "CONFIG_B=y\n# CONFIG_C is not set\nCONFIG_D=y\nCONFIG_N=15\n",
                config
            ),
            ["CONFIG_B=y", "# CONFIG_C is not set", "CONFIG_D=y", "CONFIG_N=15"]
        );
    }
}
