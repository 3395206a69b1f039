//! The patch series as a whole.

use std::fs;

use anyhow::Result;

use crate::xen::{patches_dir, tree};

/// What is wrong with the series.
pub fn findings() -> Result<Vec<String>> {
    let series = tree::series()?;
    let mut found = numbering(&series);
    for entry in fs::read_dir(patches_dir())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".patch") && !series.contains(&name) {
            found.push(format!("{name} is not in the series"));
        }
    }
    for name in &series {
        match fs::read_to_string(patches_dir().join(name)) {
            Ok(text) => found.extend(
                patch(&text)
                    .into_iter()
                    .map(|finding| format!("{name}: {finding}")),
            ),
            Err(error) => found.push(format!("the series names {name}: {error}")),
        }
    }
    for path in tree::overlay_files()? {
        let text = fs::read_to_string(patches_dir().join("overlay").join(&path))?;
        let source = path.ends_with(".c") || path.ends_with(".h") || path.ends_with(".S");
        if source
            && !text
                .lines()
                .next()
                .is_some_and(|line| line.contains("SPDX-License-Identifier: GPL-2.0-only"))
        {
            found.push(format!(
                "overlay/{path} does not begin with its licence (GPL-2.0-only)"
            ));
        }
        found.extend(
            bad_space(&text).map(|number| format!("overlay/{path}:{number}: space at the end of the line")),
        );
    }
    Ok(found)
}

/// Patches are numbered 0001, 0002 and so on, in the order of the series.
fn numbering(series: &[String]) -> Vec<String> {
    let wrong = |(index, name): (usize, &String)| {
        let number = format!("{:04}-", index + 1);
        (!name.starts_with(&number) || !name.ends_with(".patch")).then(|| {
            format!(
                "{name} is number {} of the series, and its name must be {number}*.patch",
                index + 1
            )
        })
    };
    series.iter().enumerate().filter_map(wrong).collect()
}

fn patch(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let message: Vec<_> = text
        .lines()
        .take_while(|line| !line.starts_with("diff ") && !line.starts_with("--- "))
        .collect();
    let body = message
        .iter()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .count();
    if message.first().is_none_or(|subject| subject.trim().is_empty()) || body == 0 {
        found.push("needs a subject and a text that says why".to_owned());
    }
    // A trailer vouches in a person's name; nobody is vouched for here.
    let trailer = ["Signed-off-", "Reviewed-", "Acked-", "Co-authored-"].map(|start| format!("{start}by:"));
    for line in message {
        if trailer.iter().any(|trailer| line.starts_with(trailer)) {
            found.push(format!("trailer `{line}`"));
        }
    }
    let added: Vec<_> = text
        .lines()
        .map(|line| line.strip_prefix('+').unwrap_or_default())
        .collect();
    found.extend(
        bad_space(&added.join("\n")).map(|number| format!("line {number}: adds space at the end of a line")),
    );
    found
}

/// Numbers of the lines that end in white space.
fn bad_space(text: &str) -> impl Iterator<Item = usize> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.ends_with([' ', '\t']))
        .map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_patch_passes() {
        assert!(
            patch("x86: hook\n\nBecause.\n\ndiff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a \n+b\n")
                .is_empty()
        );
        assert!(numbering(&["0001-a.patch".into(), "0002-b.patch".into()]).is_empty());
    }

    #[test]
    fn bad_patches_are_told() {
        assert_eq!(patch("subject only\n\n--- a/f\n").len(), 1);
        let signed = [
            "x86: hook\n\nBecause.\nSigned-off-",
            "by: A <a@example.org>\n--- a/f\n",
        ]
        .concat();
        assert_eq!(patch(&signed).len(), 1);
        assert_eq!(patch("s\n\nb\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b \n").len(), 1);
        assert_eq!(
            numbering(&["0001-a.patch".into(), "0003-b.patch".into()]).len(),
            1
        );
    }
}
