//! Fetching Debian's files through the machine's own apt, without touching its configuration.
//!
//! The mirror is the machine's own: it is asked for with `apt-get indextargets`. Everything else (source list, package
//! lists, cache) lives in a private state below `target/apt`, checked against the system's Debian keyring.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Sha256, cmd, hostpkg, paths, progress::Step};

/// What to look at when apt cannot reach its mirror.
pub const NETWORK_HINT: &str = "is the network up, and does `apt-get update` work on this machine?";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The Debian sites that this machine's apt is configured for.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Base address of the main archive, without a slash at its end.
    pub debian: String,
    /// Base address of the security archive, when there is one.
    pub security: Option<String>,
}

impl Mirror {
    /// Ask the machine's apt. The answer is kept for the life of the process.
    pub fn of_this_machine() -> Result<&'static Self> {
        static MIRROR: OnceLock<Mirror> = OnceLock::new();
        if let Some(mirror) = MIRROR.get() {
            return Ok(mirror);
        }
        let mut targets = index_targets(None)?;
        if targets.trim().is_empty() {
            // apt answers nothing before its first update; lists of our own serve the question as well.
            let lists = paths::target_subdir("apt/machine-lists/partial")?;
            let lists = lists.parent().expect("it was joined above");
            let mut update = Command::new("apt-get");
            update
                .arg("-o")
                .arg(state_lists(lists))
                .args(["-o", "APT::Sandbox::User=root", "update"]);
            let _ = cmd::output(&mut update);
            targets = index_targets(Some(lists))?;
        }
        let mirror = Self::parse(&targets)
            .with_context(|| format!("apt on this machine names no Debian archive; {NETWORK_HINT}"))?;
        Ok(MIRROR.get_or_init(|| mirror))
    }

    /// Read lines of `label|address`.
    fn parse(targets: &str) -> Option<Self> {
        let mut debian = None;
        let mut security = None;
        for (label, address) in targets.lines().filter_map(|line| line.split_once('|')) {
            let address = address.trim_end_matches('/').to_owned();
            match label {
                "Debian" => debian.get_or_insert(address),
                "Debian-Security" => security.get_or_insert(address),
                _ => continue,
            };
        }
        Some(Self {
            debian: debian?,
            security,
        })
    }

    /// Lines of a source list for `suites`; a suite whose name ends in `-security` comes from the security archive.
    pub fn source_list(&self, suites: &[&str]) -> Result<String> {
        let mut list = String::new();
        for suite in suites {
            let site = match (suite.ends_with("-security"), &self.security) {
                (false, _) => &self.debian,
                (true, Some(security)) => security,
                (true, None) => bail!("apt on this machine names no security archive, and {suite} is needed"),
            };
            list += &format!("deb [signed-by={KEYRING}] {site} {suite} main\n");
        }
        Ok(list)
    }
}

/// A private apt state for a set of suites.
#[derive(Debug)]
pub struct PrivateApt {
    config: PathBuf,
    source_list: PathBuf,
    suites: Vec<String>,
}

impl PrivateApt {
    /// Open the state for `suites`, refreshing its package lists when there are none or `suites` changed.
    pub fn new(suites: &[&str]) -> Result<Self> {
        hostpkg::ensure(&["debian-archive-keyring"])?;
        let list = Mirror::of_this_machine()?.source_list(suites)?;
        let dir = paths::target_subdir("apt")?.join(suites.join("+"));
        for sub in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let this = Self {
            config: dir.join("apt.conf"),
            source_list: dir.join("etc/sources.list"),
            suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
        };
        fs::write(&this.config, config(&dir)?)?;
        if fs::read_to_string(&this.source_list).is_ok_and(|old| old == list) && dir.join("updated").exists()
        {
            return Ok(this);
        }
        fs::write(&this.source_list, list)?;
        this.update()?;
        Ok(this)
    }

    /// Refresh the package lists. A suite that cannot be refreshed is told, and the others are used: what is looked for may
    /// well be in one of them, and whoever does not find it says where it looked.
    pub fn update(&self) -> Result<()> {
        let step = Step::new("refresh Debian package lists");
        let dir = self.config.parent().expect("it was joined to a directory");
        let mut update = self.command("apt-get");
        update.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        if let Err(error) = cmd::logged(&mut update, &dir.join("update.log"), &step) {
            let (mut usable, mut missing) = (Vec::new(), Vec::new());
            for suite in &self.suites {
                match self.holds(suite)? {
                    true => usable.push(suite.as_str()),
                    false => missing.push(suite.as_str()),
                }
            }
            if usable.is_empty() {
                return Err(error).context(format!(
                    "apt could not fetch Debian's package lists; {NETWORK_HINT}"
                ));
            }
            let lacking = match missing.is_empty() {
                true => "some of them old".to_owned(),
                false => format!("without {}", missing.join(", ")),
            };
            step.done(format!(
                "of {}, {lacking}: {} says why",
                usable.join(", "),
                paths::short(&dir.join("update.log"))
            ));
            // Not marked as done: the next run tries again.
            return Ok(());
        }
        fs::write(dir.join("updated"), "")?;
        step.done("");
        Ok(())
    }

    /// Whether there are package lists of a suite.
    fn holds(&self, suite: &str) -> Result<bool> {
        let mut ask = self.command("apt-get");
        ask.args([
            "indextargets",
            "--format",
            "$(RELEASE)|$(FILENAME)",
            "Created-By: Packages",
        ]);
        let lists = cmd::output(&mut ask)?;
        let mut lists = lists.lines().filter_map(|line| line.split_once('|'));
        Ok(lists.any(|(release, file)| release == suite && Path::new(file).exists()))
    }

    /// The source list, for tools that take one.
    pub fn source_list(&self) -> &Path {
        &self.source_list
    }

    /// Configuration file; give it to apt's tools in the environment as `APT_CONFIG`.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Any tool of apt, bound to this state.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// Every version of a package that these suites hold, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let out = cmd::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(out
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// Fetch one binary package, checked by apt's own chain of signatures. Nothing is fetched twice.
    pub fn fetch_deb(&self, package: &str, version: &str) -> Result<PathBuf> {
        let dir = paths::target_subdir("downloads")?;
        let stem = format!("{package}_{}_", version.replace(':', "%3a"));
        if let Some(file) = find(&dir, &stem)? {
            return Ok(file);
        }
        let step = Step::new(format!("fetch {package} {version}"));
        let partial = paths::target_subdir("downloads/partial")?;
        let mut download = self.command("apt-get");
        download
            .arg("download")
            .arg(format!("{package}={version}"))
            .current_dir(&partial);
        cmd::logged(&mut download, &dir.join(format!("{package}.log")), &step)
            .with_context(|| format!("Debian's archive did not give {package} {version}; {NETWORK_HINT}"))?;
        let file =
            find(&partial, &stem)?.with_context(|| format!("apt fetched no file named {stem}*.deb"))?;
        let to = dir.join(file.file_name().expect("found by its name"));
        fs::rename(&file, &to)?;
        step.done("");
        Ok(to)
    }
}

/// Fetch a file of the main archive's pool by name and check it against a pinned hash. Nothing is fetched twice.
pub fn fetch_pinned(pool_path: &str, hash: Sha256) -> Result<PathBuf> {
    let name = Path::new(pool_path)
        .file_name()
        .and_then(|name| name.to_str())
        .context("pool path without a file name")?;
    let to = paths::target_subdir("downloads")?.join(name);
    if to.exists() {
        let found = Sha256::of_file(&to)?;
        ensure!(
            found == hash,
            "{} has SHA-256 {found}, and the project pins {hash}: it is damaged or another file; delete it and run again",
            paths::short(&to)
        );
        return Ok(to);
    }
    let step = Step::new(format!("fetch {name}"));
    let url = format!("{}/pool/main/{pool_path}", Mirror::of_this_machine()?.debian);
    let partial = paths::target_subdir("downloads/partial")?.join(name);
    let mut download = Command::new("/usr/lib/apt/apt-helper");
    download
        .args(["-o", "APT::Sandbox::User=root", "download-file", &url])
        .arg(&partial);
    // apt's own verdict does not decide: the pinned hash does.
    let verdict = cmd::logged(&mut download, &to.with_extension("log"), &step);
    if !partial.exists() {
        return Err(verdict.err().unwrap_or_else(|| anyhow::anyhow!("apt-helper wrote no file"))).with_context(|| {
            format!(
                "{name} could not be fetched: {NETWORK_HINT}\nIf Debian has replaced this version, its main pool no longer \
                 has the file: take it from Debian's snapshot archive or another mirror and put it at {}; \
                 its SHA-256 must be {hash}",
                paths::short(&to)
            )
        });
    }
    let found = Sha256::of_file(&partial)?;
    if found != hash {
        fs::remove_file(&partial)?;
        bail!(
            "{name} from the mirror has SHA-256 {found}, and the project pins {hash}; not used. Try another mirror."
        );
    }
    fs::rename(&partial, &to)?;
    step.done("SHA-256 as pinned");
    Ok(to)
}

fn index_targets(lists: Option<&Path>) -> Result<String> {
    let mut command = Command::new("apt-get");
    if let Some(lists) = lists {
        command.arg("-o").arg(state_lists(lists));
    }
    command.args(["indextargets", "--format", "$(LABEL)|$(REPO_URI)"]);
    cmd::output(&mut command)
}

fn state_lists(lists: &Path) -> String {
    format!("Dir::State::lists={}", lists.display())
}

/// A configuration that keeps the machine's way to the network (proxies, retries) and nothing else of it.
fn config(dir: &Path) -> Result<String> {
    let machine = cmd::output(Command::new("apt-config").arg("dump"))?;
    let keep = [
        "Acquire::http",
        "Acquire::https",
        "Acquire::Retries",
        "Acquire::ForceIPv",
    ];
    let mut text: String = machine
        .lines()
        .filter(|line| keep.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    let dir = dir.display();
    let settings = BTreeMap::from([
        ("Dir::State", format!("{dir}")),
        ("Dir::State::lists", format!("{dir}/lists")),
        ("Dir::State::status", "/dev/null".into()),
        ("Dir::Cache", format!("{dir}/cache")),
        ("Dir::Etc::sourcelist", format!("{dir}/etc/sources.list")),
        ("Dir::Etc::sourceparts", "/dev/null".into()),
        ("Dir::Etc::parts", "/dev/null".into()),
        ("Dir::Etc::main", "/dev/null".into()),
        ("Dir::Etc::preferences", "/dev/null".into()),
        ("Dir::Etc::preferencesparts", "/dev/null".into()),
        ("APT::Architecture", "amd64".into()),
        // The private state need not be readable for apt's own unprivileged user.
        ("APT::Sandbox::User", "root".into()),
        ("Acquire::Languages", "none".into()),
    ]);
    for (key, value) in settings {
        text += &format!("{key} \"{value}\";\n");
    }
    Ok(text)
}

fn find(dir: &Path, stem: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with(stem) && name.ends_with(".deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_told_by_its_label() {
        let targets = "Other|http://other.example/debian/\nDebian|http://mirror.example/d/\n\
                       Debian-Security|http://mirror.example/s/\n";
        let mirror = Mirror::parse(targets).unwrap();
        let list = mirror.source_list(&["trixie", "trixie-security"]).unwrap();
        assert!(list.contains("http://mirror.example/d trixie main\n"));
        assert!(list.contains("http://mirror.example/s trixie-security main\n"));
        assert!(!list.contains("other"));
        assert!(Mirror::parse("Other|http://other.example/debian/\n").is_none());
    }
}
