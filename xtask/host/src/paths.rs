//! Where things are.

use std::path::{Path, PathBuf};

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

/// `path` as a reader of this workspace would write it.
pub fn short(path: &Path) -> String {
    path.strip_prefix(workspace_root())
        .unwrap_or(path)
        .display()
        .to_string()
}
