//! The serial console's log, watched for words that no healthy run prints.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What Xen and dom0's kernel print when they are lost. A guest's own words carry a `(dN)` prefix and do not count.
const ALARMS: &[&str] = &[
    "Panic on CPU",
    "Xen BUG at",
    "Assertion '",
    "FATAL TRAP",
    "FATAL PAGE FAULT",
    "Kernel panic - not syncing",
];

/// The machine under test broke, which is no verdict on the case that saw it.
#[derive(Clone, Debug)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

/// Reads a growing log file.
pub struct ConsoleLog {
    path: PathBuf,
    seen: u64,
    unfinished: String,
}

impl ConsoleLog {
    pub fn new(path: &Path) -> Self {
        ConsoleLog {
            path: path.to_owned(),
            seen: 0,
            unfinished: String::new(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at what was added since the last call.
    pub fn check(&mut self) -> Result<(), Trouble> {
        let mut new = Vec::new();
        if let Ok(mut file) = File::open(&self.path) {
            let _ = file.seek(SeekFrom::Start(self.seen));
            let _ = file.read_to_end(&mut new);
        }
        self.seen += new.len() as u64;
        self.unfinished.push_str(&String::from_utf8_lossy(&new));
        let complete = self.unfinished.rfind('\n').map_or(0, |end| end + 1);
        let lines: String = self.unfinished.drain(..complete).collect();
        match lines.lines().find(|line| is_alarm(line)) {
            Some(line) => Err(Trouble(format!("the console says: {}", line.trim()))),
            None => Ok(()),
        }
    }
}

/// How Xen's own check of its notes, in debug builds, begins a line, and how it ends one that is good news.
pub const ORACLE: (&str, &str) = ("VMCrypt oracle:", " 0 differ");

fn is_alarm(line: &str) -> bool {
    let guest = line
        .trim_start()
        .strip_prefix("(d")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let (oracle, agrees) = ORACLE;
    let differs = line.contains(oracle) && !line.trim_end().ends_with(agrees);
    !guest && (differs || ALARMS.iter().any(|alarm| line.contains(alarm)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_told_from_a_guests_words() {
        assert!(is_alarm("(XEN) Panic on CPU 0:"));
        assert!(is_alarm(
            "[   2.1] Kernel panic - not syncing: Attempted to kill init!"
        ));
        assert!(!is_alarm(
            "(d3) [   2.1] Kernel panic - not syncing: Attempted to kill init!"
        ));
        assert!(!is_alarm("(XEN) Dom0 has maximum 1 VCPUs"));
        assert!(is_alarm(
            "(XEN) Assertion 'local_irq_is_enabled()' failed at smp.c:1"
        ));
    }

    #[test]
    fn the_oracle_alarms_unless_nothing_differs() {
        assert!(!is_alarm(
            "(XEN) VMCrypt oracle: d1: 65536 pages, 571 plain, 0 differ"
        ));
        assert!(is_alarm(
            "(XEN) VMCrypt oracle: d1: 65536 pages, 571 plain, 10 differ"
        ));
        assert!(is_alarm(
            "(XEN) VMCrypt oracle: d1: PFN 0x80 is noted as plain and found private"
        ));
        assert!(is_alarm("(XEN) VMCrypt oracle: d1: no memory"));
    }
}
