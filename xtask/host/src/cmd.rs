//! Running other programs: quiet when they succeed, telling when they fail.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{paths::short, progress::Step};

/// Lines of a log that are shown when a command fails.
const TAIL: usize = 25;

/// Run `command`, write all of its output to `log`, show its latest line in `step`.
/// The error holds the log's tail and says where the rest is.
pub fn logged(command: &mut Command, log: &Path, step: &Step) -> Result<()> {
    let shown = display(command);
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start `{shown}`; is it installed?"))?;
    // The command keeps both ends of the pipe that it was given until it is replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = std::collections::VecDeque::with_capacity(TAIL);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        file.write_all(&line)?;
        file.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        step.note(line.clone());
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    if !status.success() {
        let tail = Vec::from(tail).join("\n    ");
        bail!(
            "`{shown}` ended with {status}; the end of {}:\n    {tail}",
            short(log)
        );
    }
    Ok(())
}

/// Run `command` and return what it printed; its error output becomes part of the error.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = display(command);
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{shown}`; is it installed?"))?;
    if !out.status.success() {
        bail!(
            "`{shown}` ended with {}:\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a program of this name is on the search path.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy);
    let text = words.collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
