//! Kernel modules out of a Debian root: which others one needs, and in which order.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module directory of one kernel.
pub struct Modules {
    dir: PathBuf,
    /// Module name to its file and the files it needs, as `modules.dep` says.
    needs: HashMap<String, (String, Vec<String>)>,
}

impl Modules {
    /// Opens the only kernel's modules below a root directory.
    pub fn of_root(root: &Path) -> Result<Self> {
        let all = root.join("usr/lib/modules");
        let dir = fs::read_dir(&all)?
            .next()
            .with_context(|| format!("no kernel in {}", all.display()))??
            .path();
        let text = fs::read_to_string(dir.join("modules.dep"))?;
        let needs = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                (
                    name_of(file),
                    (
                        file.to_owned(),
                        needs.split_whitespace().map(str::to_owned).collect(),
                    ),
                )
            })
            .collect();
        Ok(Modules { dir, needs })
    }

    /// Name and unpacked content of each wanted module and of all it needs, ready to be loaded in this order.
    /// A name that `modules.dep` does not know is built into the kernel (or missing, which the boot then shows).
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files: Vec<&str> = Vec::new();
        for name in wanted {
            let Some((file, needs)) = self.needs.get(&name.replace('-', "_")) else {
                continue;
            };
            // modules.dep lists what must be loaded last first.
            for file in needs.iter().rev().chain([file]) {
                if !files.contains(&file.as_str()) {
                    files.push(file);
                }
            }
        }
        files
            .into_iter()
            .map(|file| Ok((name_of(file), unpack(&self.dir.join(file))?)))
            .collect()
    }
}

fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

fn unpack(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|e| e == "xz") {
        let output = Command::new("xz")
            .arg("-dc")
            .arg(file)
            .output()
            .context("running xz")?;
        anyhow::ensure!(output.status.success(), "xz could not unpack {}", file.display());
        return Ok(output.stdout);
    }
    Ok(fs::read(file)?)
}
