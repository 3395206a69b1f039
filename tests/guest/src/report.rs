//! The lines a guest writes on its console, and how to read them back out of a console log.

use std::fmt;
use std::str::FromStr;

/// Every line of ours starts with this; the kernel's own lines do not.
pub const PREFIX: &str = "vmcrypt-guest: ";

/// What a guest can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds the secret file in tmpfs and hashes it once a second.
    Secret,
    /// Rewrites and checks memory as fast as it can.
    Dirty,
    /// Holds patterns in general, SSE and AVX registers.
    Regs,
    /// Writes and reads back its block device.
    Disk,
    /// Sends to an echo server in dom0 over one long TCP connection.
    Net,
    /// Answers lines typed on the console.
    Echo,
    /// Fills memory with the secret and gives it back.
    Spill,
    /// Starts processes that end at once, as many as it can.
    Fork,
    /// Has processes that map, touch and unmap memory all the time, and others that end at once.
    Storm,
    /// Maps a page that the guest grants to itself.
    Grants,
}

impl Role {
    const ALL: [(Role, &str); 10] = [
        (Role::Secret, "secret"),
        (Role::Dirty, "dirty"),
        (Role::Regs, "regs"),
        (Role::Disk, "disk"),
        (Role::Net, "net"),
        (Role::Echo, "echo"),
        (Role::Spill, "spill"),
        (Role::Fork, "fork"),
        (Role::Storm, "storm"),
        (Role::Grants, "grants"),
    ];

    /// The role's name on the command line and in reports.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(role, _)| *role == self)
            .map_or("?", |(_, name)| name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(_, n)| *n == name)
            .map(|(role, _)| *role)
            .ok_or_else(|| format!("no such role: {name}"))
    }
}

/// One line of a guest's console, as far as it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// All roles are set up.
    Ready {
        /// Value of the `roles=` word.
        roles: String,
    },
    /// A role has done another round of work and found everything as it should be.
    Alive {
        /// Which one.
        role: Role,
        /// Rounds so far; never repeats within a guest's life.
        round: u64,
        /// Role-specific result, for example `sha256=…`.
        detail: String,
    },
    /// A role found something that must not be.
    Fail {
        /// What.
        what: String,
    },
    /// Answer to a line typed on the console.
    Answer {
        /// Hash of the line.
        sha256: String,
    },
}

impl Report {
    /// Reads one console line; `None` if it is not a complete line of ours. A guest that was destroyed may have left its
    /// last line without an end, behind which the next one goes on.
    pub fn parse(line: &str) -> Option<Report> {
        let behind = |at: usize| line[at + PREFIX.len()..].trim_end();
        let (first, rest) = (behind(line.find(PREFIX)?), behind(line.rfind(PREFIX)?));
        // A complaint is one whatever follows it.
        if let Some(what) = [first, rest]
            .iter()
            .find_map(|report| report.strip_prefix("FAIL "))
        {
            return Some(Report::Fail {
                what: what.to_owned(),
            });
        }
        if let Some(roles) = rest.strip_prefix("ready roles=") {
            return Some(Report::Ready {
                roles: roles.to_owned(),
            });
        }
        if let Some(sha256) = rest.strip_prefix("answer sha256=") {
            return (sha256.len() == 64).then(|| Report::Answer {
                sha256: sha256.to_owned(),
            });
        }
        let mut words = rest.splitn(4, ' ');
        let role = words.next()?.parse().ok()?;
        if words.next()? != "alive" {
            return None;
        }
        let round = words.next()?.parse().ok()?;
        // The final dot proves that the line was not cut in the middle of a hash.
        let detail = words.next()?.strip_suffix('.')?.to_owned();
        Some(Report::Alive { role, round, detail })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Report::Ready { roles } => write!(f, "ready roles={roles}"),
            Report::Alive { role, round, detail } => write!(f, "{role} alive {round} {detail}."),
            Report::Fail { what } => write!(f, "FAIL {what}"),
            Report::Answer { sha256 } => write!(f, "answer sha256={sha256}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for report in [
            Report::Ready {
                roles: "secret,net".into(),
            },
            Report::Alive {
                role: Role::Regs,
                round: 7,
                detail: "checks=9 avx=yes".into(),
            },
            Report::Fail {
                what: "disk block 3".into(),
            },
            Report::Answer {
                sha256: "0".repeat(64),
            },
        ] {
            assert_eq!(Report::parse(&report.to_string()), Some(report));
        }
    }

    #[test]
    fn a_cut_line_is_not_a_report() {
        let line = Report::Alive {
            role: Role::Secret,
            round: 1,
            detail: "sha256=ab".into(),
        }
        .to_string();
        assert_eq!(Report::parse(&line[..line.len() - 1]), None);
        let behind = format!("{}{line}", &line[..line.len() - 1]);
        assert_eq!(Report::parse(&behind), Report::parse(&line));
        let complaint = format!("{PREFIX}FAIL disk{line}");
        assert!(matches!(Report::parse(&complaint), Some(Report::Fail { .. })));
        assert_eq!(Report::parse("Linux version 6.12"), None);
    }
}
