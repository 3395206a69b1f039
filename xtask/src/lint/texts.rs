//! Words that have no place in the tree.

use std::fs;

use anyhow::Result;
use vmcrypt_host::paths;

/// Written in two halves, so that this list does not find itself.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    // Downloads go through the machine's own configuration of apt and cargo.
    (
        "deb.",
        "debian.org",
        "names a mirror; ask apt of the machine for its own",
    ),
    (
        "security.",
        "debian.org",
        "names a mirror; ask apt of the machine for its own",
    ),
    (
        "snapshot.",
        "debian.org",
        "names a mirror; say what to look for instead",
    ),
    ("crates", ".io/", "names a registry; cargo knows its own"),
    (
        "static.",
        "rust-lang.org",
        "names a registry; rustup knows its own",
    ),
    // The tree stands anywhere.
    ("/work", "/main", "is a path of one machine"),
    ("/work", "/scratch", "is a path of one machine"),
    ("/work", "/shared", "is a path of one machine"),
    ("/root", "/.", "is a path of one machine"),
    ("/home", "/", "is a path of one machine"),
    ("<<<<", "<<< ", "is a merge left half-way"),
    ("TODO", ":", "is work left undone; do it or write down why not"),
    ("FIX", "ME", "is work left undone; do it or write down why not"),
    ("todo", "!(", "is work left undone; do it or write down why not"),
    (
        "unimplemented",
        "!(",
        "is work left undone; do it or write down why not",
    ),
];

/// Licences speak for others; the lock file is cargo's.
const NOT_OURS: &[&str] = &["LICENSES/", "Cargo.lock"];

/// What is written where it should not be.
pub fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in super::project_files()? {
        if NOT_OURS.iter().any(|other| name.starts_with(other)) {
            continue;
        }
        // Pictures and other data are no text.
        let Ok(text) = fs::read_to_string(paths::workspace_root().join(&name)) else {
            continue;
        };
        found.extend(
            judge(&text)
                .into_iter()
                .map(|(line, why)| format!("{name}:{line}: {why}")),
        );
    }
    Ok(found)
}

fn judge(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (first, second, why) in FORBIDDEN {
            let word = [*first, *second].concat();
            if line.contains(&word) {
                found.push((index + 1, format!("`{word}` {why}")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found() {
        for (first, second, _) in FORBIDDEN {
            assert_eq!(
                judge(&format!("one\nsee {first}{second} there\n")).len(),
                1,
                "{first}{second}"
            );
        }
        assert!(judge("nothing of that kind: /work, debian, main\n").is_empty());
    }
}
