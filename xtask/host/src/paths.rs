//! Where things are.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Root of the workspace.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this crate lives in xtask/host")
        .to_path_buf()
}

/// Directory of everything that is generated: `target/` of the workspace, whatever cargo itself was told to use.
pub fn target_dir() -> PathBuf {
    workspace_root().join("target")
}

/// A directory below [`target_dir`], created when missing.
pub fn target_subdir(name: &str) -> Result<PathBuf> {
    let dir = target_dir().join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Take the lock `target/NAME.lock`, waiting for whoever holds it. It is released when the file is dropped.
pub fn lock(name: &str) -> Result<File> {
    let path = target_subdir("")?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another command that uses {}", short(&path));
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// `path` as a reader of this workspace would write it.
pub fn short(path: &Path) -> String {
    path.strip_prefix(workspace_root())
        .unwrap_or(path)
        .display()
        .to_string()
}
