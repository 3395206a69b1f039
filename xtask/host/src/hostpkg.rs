//! Debian packages that a command needs on the machine it runs on.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{apt, cmd, paths, progress::Step};

/// Make sure that every one of `packages` is installed: as root through apt, otherwise by naming those that are missing.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(
        rustix::process::geteuid().is_root(),
        "these packages are missing: {list}\nInstall them with `apt-get install {list}` as root, or run this command as root."
    );
    let step = Step::new(format!("install host packages: {list}"));
    let log = paths::target_subdir("host")?.join("apt-install.log");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args([
                "-y",
                "--no-install-recommends",
                "-o",
                "DPkg::Lock::Timeout=300",
                "install",
            ])
            .args(&missing);
        cmd::logged(&mut apt, &log, &step)
    };
    // Old or absent lists are the usual reason for a first failure, so a second try follows an update. That one of this
    // machine's suites cannot be refreshed matters only if the packages are not in the others.
    if install().is_err() {
        let mut update = Command::new("apt-get");
        update.arg("update");
        let updated = cmd::logged(&mut update, &log.with_file_name("apt-update.log"), &step);
        if let Err(error) = install() {
            updated
                .with_context(|| format!("apt could not refresh its package lists; {}", apt::NETWORK_HINT))?;
            return Err(error)
                .with_context(|| format!("apt could not install {list}; {}", apt::NETWORK_HINT));
        }
    }
    step.done("");
    Ok(())
}

/// Refuse early when fewer than `gib` GiB are free below the target directory.
pub fn ensure_disk(gib: u64) -> Result<()> {
    let dir = paths::target_subdir("")?;
    let stat = rustix::fs::statvfs(&dir)
        .with_context(|| format!("cannot ask for free space at {}", dir.display()))?;
    let free = (stat.f_bavail * stat.f_frsize) >> 30;
    ensure!(
        free >= gib,
        "{} has {free} GiB free, and this needs {gib} GiB; free some space or put the workspace on a larger disk",
        dir.display()
    );
    Ok(())
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    require_debian(Path::new("/etc/os-release"))?;
    let mut query = Command::new("dpkg-query");
    query
        .args(["-W", "-f", "${binary:Package} ${db:Status-Status}\n"])
        .args(packages);
    // dpkg-query fails when one package is unknown to it, and still prints the others.
    let out = query.output().context("cannot start dpkg-query")?;
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    let installed = |name: &str| {
        out.lines()
            .filter_map(|line| line.split_once(' '))
            .any(|(package, status)| package.split(':').next() == Some(name) && status == "installed")
    };
    Ok(packages.iter().copied().filter(|name| !installed(name)).collect())
}

fn require_debian(os_release: &Path) -> Result<()> {
    let text = fs::read_to_string(os_release).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    let version = field("VERSION_ID").and_then(|id| id.parse::<u32>().ok());
    match (field("ID"), version) {
        (Some("debian"), Some(12..)) => Ok(()),
        // Testing and unstable carry no version.
        (Some("debian"), None) => Ok(()),
        (id, _) => bail!(
            "this needs Debian 12 or newer, and this machine runs {} {}; use a Debian container or virtual machine",
            field("PRETTY_NAME").or(id).unwrap_or("an unknown system"),
            field("VERSION_ID").unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_systems_are_refused_by_name() {
        let file = paths::target_subdir("host").unwrap().join("os-release.test");
        for (text, accepted) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", true),
            ("ID=debian\nVERSION_ID=\"13\"\n", true),
            ("ID=debian\nVERSION_ID=\"11\"\nPRETTY_NAME=\"Debian 11\"\n", false),
            ("ID=fedora\nVERSION_ID=43\nPRETTY_NAME=\"Fedora 43\"\n", false),
            ("", false),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(require_debian(&file).is_ok(), accepted, "{text}");
        }
    }

    #[test]
    fn unknown_packages_are_missing() {
        if !cmd::exists("dpkg-query") {
            return;
        }
        assert_eq!(
            missing(&["dpkg", "no-such-package-vmcrypt"]).unwrap(),
            ["no-such-package-vmcrypt"]
        );
    }
}
