//! The source tree that is built: Debian's tarball, then the overlay, then the patch series.
//!
//! Only files whose content changed are written, so that make rebuilds only what they concern.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result, bail, ensure};
use vmcrypt_host::{cmd, paths, progress::Step};
use walkdir::WalkDir;

use super::{patches_dir, pin::Pin, write_if_changed};

/// Bring `DIR/source` up to date and return it.
pub fn materialise(dir: &Path, patched: bool) -> Result<PathBuf> {
    let base = unpacked()?;
    let step = Step::new(format!("source of {}", paths::short(dir)));
    let changed = if patched {
        patched_files(&base, dir, &step)?
    } else {
        BTreeMap::new()
    };
    let source = dir.join("source");
    let manifest = dir.join("source.changed");
    let base_stamp = dir.join("source.base");
    let base_name = base.display().to_string();
    if fs::read_to_string(&base_stamp).ok().as_ref() != Some(&base_name) {
        let _ = fs::remove_dir_all(&source);
        let _ = fs::remove_file(&manifest);
        cmd::output(Command::new("cp").arg("-a").arg(&base).arg(&source))?;
        fs::write(&base_stamp, &base_name)?;
    }

    let before = fs::read_to_string(&manifest).unwrap_or_default();
    let after: String = changed.keys().map(|path| format!("{path}\n")).collect();
    // Both lists, so that an interrupted run leaves nothing behind that the next one does not know of.
    fs::write(&manifest, format!("{before}{after}"))?;
    for path in before.lines().filter(|path| !changed.contains_key(*path)) {
        match fs::read(base.join(path)) {
            Ok(original) => drop(write_if_changed(&source.join(path), &original)?),
            Err(_) => drop(fs::remove_file(source.join(path))),
        }
    }
    let mut written = 0;
    for (path, content) in &changed {
        let to = source.join(path);
        match content {
            Some(content) => written += usize::from(write_if_changed(&to, content)?),
            None => drop(fs::remove_file(to)),
        }
    }
    fs::write(&manifest, after)?;
    step.done(format!(
        "{} files differ from Debian's, {written} new in this run",
        changed.len()
    ));
    Ok(source)
}

/// Date of a source tree, for reproducible builds.
pub fn source_date(source: &Path) -> u64 {
    // `COPYING` comes from the tarball and is never patched.
    let modified = fs::metadata(source.join("COPYING")).and_then(|meta| meta.modified());
    modified
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |age| age.as_secs())
}

/// Names of the patches, in the order in which they are applied.
pub fn series() -> Result<Vec<String>> {
    let path = patches_dir().join("series");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", paths::short(&path)))?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Files of the overlay, relative to Xen's root.
pub fn overlay_files() -> Result<BTreeSet<String>> {
    let root = patches_dir().join("overlay");
    let mut files = BTreeSet::new();
    for entry in WalkDir::new(&root) {
        let entry = entry.with_context(|| format!("cannot read {}", paths::short(&root)))?;
        if entry.file_type().is_file() {
            let path = entry
                .path()
                .strip_prefix(&root)
                .expect("it was found below this root");
            files.insert(
                path.to_str()
                    .with_context(|| format!("{} is not UTF-8", path.display()))?
                    .to_owned(),
            );
        }
    }
    Ok(files)
}

/// Debian's source, unpacked once for each pinned hash.
pub fn unpacked() -> Result<PathBuf> {
    let pin = Pin::read("UPSTREAM")?;
    let short_hash = pin.sha256()?.to_string()[..16].to_owned();
    let parent = paths::target_subdir("xen-upstream")?;
    let to = parent.join(&short_hash);
    if to.exists() {
        return Ok(to);
    }
    let tarball = pin.fetch()?;
    let step = Step::new("unpack Xen");
    let partial = parent.join(format!("{short_hash}.partial"));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let mut tar = Command::new("tar");
    tar.arg("-xJf")
        .arg(&tarball)
        .arg("-C")
        .arg(&partial)
        .args(["--strip-components=1", "--no-same-owner"]);
    cmd::logged(&mut tar, &parent.join("unpack.log"), &step)?;
    fs::rename(&partial, &to)?;
    step.done(pin.field("version")?);
    Ok(to)
}

/// Every file that overlay and patches add or change; `None` is a file that a patch removes.
fn patched_files(base: &Path, dir: &Path, step: &Step) -> Result<BTreeMap<String, Option<Vec<u8>>>> {
    let overlay = overlay_files()?;
    let series = series()?;
    let mut touched = overlay.clone();
    for name in &series {
        touched.extend(touched_by(&patches_dir().join(name))?);
    }

    // The patches are applied to a small copy that holds the files they touch and nothing else.
    let stage = tempfile::tempdir_in(dir)?;
    for path in &touched {
        let to = stage.path().join(path);
        fs::create_dir_all(to.parent().expect("it was joined to a directory"))?;
        let over = patches_dir().join("overlay").join(path);
        if overlay.contains(path) {
            ensure!(
                !base.join(path).exists(),
                "the overlay holds {path}, which Xen has itself; the overlay adds files, patches change them"
            );
            fs::copy(over, to)?;
        } else if base.join(path).exists() {
            fs::copy(base.join(path), to)?;
        }
    }
    for name in &series {
        step.note(name.clone());
        apply(&patches_dir().join(name), stage.path())?;
    }
    touched
        .into_iter()
        .map(|path| {
            let file = stage.path().join(&path);
            let content = if file.exists() {
                Some(fs::read(&file)?)
            } else {
                None
            };
            Ok((path, content))
        })
        .collect()
}

/// Apply one patch exactly where it says: neither fuzz nor offset is accepted.
fn apply(patch: &Path, root: &Path) -> Result<()> {
    let mut command = Command::new("patch");
    command
        .args([
            "-p1",
            "--fuzz=0",
            "--batch",
            "--forward",
            "--no-backup-if-mismatch",
            "--verbose",
            "-i",
        ])
        .arg(patch)
        .current_dir(root)
        .env("LC_ALL", "C");
    let out = command
        .output()
        .context("cannot start `patch`; is it installed?")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let inexact: Vec<_> = text
        .lines()
        .filter(|line| line.contains("(offset ") || line.contains(" with fuzz "))
        .collect();
    if !out.status.success() || !inexact.is_empty() {
        let (what, lines) = if out.status.success() {
            (
                "does not apply exactly; refresh it against the source that it follows",
                inexact,
            )
        } else {
            let noise =
                |line: &&str| line.starts_with("Hunk") && line.contains("succeeded") || line.starts_with('|');
            (
                "does not apply",
                text.lines().filter(|line| !noise(line)).collect(),
            )
        };
        bail!("{} {what}:\n    {}", paths::short(patch), lines.join("\n    "));
    }
    Ok(())
}

/// Paths that a patch names in its headers.
fn touched_by(patch: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(patch).with_context(|| {
        format!(
            "xen-patches/series names {}, which cannot be read",
            paths::short(patch)
        )
    })?;
    let mut paths = BTreeSet::new();
    for line in text.lines() {
        let name = line
            .strip_prefix("--- a/")
            .or_else(|| line.strip_prefix("+++ b/"));
        if let Some(name) = name {
            paths.insert(name.split('\t').next().unwrap_or(name).trim_end().to_owned());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";
    const PATCH: &str = "--- a/f\n+++ b/f\n@@ -2,5 +2,5 @@\n two\n three\n-four\n+4\n five\n six\n";

    /// Apply [`PATCH`] to a file.
    fn try_on(file: &str) -> Result<String> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("f"), file)?;
        fs::write(dir.path().join("p"), PATCH)?;
        apply(&dir.path().join("p"), dir.path())?;
        Ok(fs::read_to_string(dir.path().join("f"))?)
    }

    #[test]
    fn exact_patches_apply() {
        assert_eq!(try_on(FILE).unwrap(), FILE.replace("four", "4"));
    }

    #[test]
    fn offset_and_fuzz_are_refused() {
        let error = try_on(&format!("zero\n{FILE}")).unwrap_err().to_string();
        assert!(error.contains("offset 1 line"), "{error}");
        let error = try_on(&FILE.replace("two", "2")).unwrap_err().to_string();
        assert!(error.contains("does not apply"), "{error}");
    }

    #[test]
    fn paths_come_from_the_headers() {
        let dir = tempfile::tempdir().unwrap();
        let patch = dir.path().join("p");
        fs::write(
            &patch,
            "--- /dev/null\n+++ b/new/file\n--- a/old\t2026\n+++ /dev/null\n",
        )
        .unwrap();
        assert_eq!(
            touched_by(&patch).unwrap().into_iter().collect::<Vec<_>>(),
            ["new/file", "old"]
        );
    }
}
