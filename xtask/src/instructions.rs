//! `cargo xtask instructions`: how many instructions the hot paths of the Rust part take.
//!
//! A time depends on what else the machine does; a count of instructions does not, and tells of a path that became
//! longer by a few percent.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use vmcrypt_host::{Tally, cmd, hostpkg, paths, progress::Step};

use crate::c_program;

/// Functions that are counted, with all that they call: every one that `tests/c/paths.c` calls in a path.
const COUNTED: &[&str] = &[
    "vmc_domain_state",
    "vmc_door_*",
    "vmc_map_*",
    "vmc_page_*",
    "vmc_plain_*",
    "vmc_record_*",
];

/// Compare how many instructions the hot paths take with the committed counts
#[derive(clap::Args, Default)]
pub struct Args {
    /// Write the counts instead
    #[arg(long)]
    write: bool,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    if args.write {
        ensure!(
            aes_ni(),
            "this CPU has no AES-NI: some of the paths cannot be counted here"
        );
        let new = Counts {
            compiler: compiler()?,
            paths: Program::build()?.count(&[])?,
            ..Counts::read()?
        };
        fs::write(file(), new.to_string())?;
        println!("{}: written", paths::short(&file()));
        return Ok(());
    }
    let tally = gate()?;
    ensure!(
        tally.failed == 0,
        "a path became longer, or is not counted ({tally})"
    );
    Ok(())
}

/// Count, and judge each path. The same paths with each call made twice must be refused.
pub fn gate() -> Result<Tally> {
    let committed = Counts::read()?;
    let program = Program::build()?;
    let same = compiler()? == committed.compiler;
    if !same {
        println!(
            "      counted with {}; a path may be {} % longer when another compiler made it",
            committed.compiler, committed.tolerance_of_others
        );
    }
    let mut tally = Tally::default();
    let counted = program.count(&[])?;
    for row in committed.judge(&counted, same) {
        println!("{row}");
        tally += row.tally();
    }
    // Against what was just counted: a path may have become shorter than it was.
    let now = Counts {
        paths: counted,
        ..committed
    };
    let longer = now.judge(&program.count(&["again"])?, same);
    let refused = |row: &&Row| matches!(row.verdict, Verdict::Longer(_));
    let missed: Vec<_> = longer.iter().filter(|row| !refused(row)).collect();
    for row in &missed {
        println!("FAIL  canary: each call is made twice, and it is not refused for that: {row}");
    }
    tally += if missed.is_empty() {
        println!("  ok  canary: paths whose calls are made twice are refused");
        Tally::PASS
    } else {
        Tally::FAIL
    };
    Ok(tally)
}

/// `tests/c/paths.c`, built.
struct Program(PathBuf);

impl Program {
    fn build() -> Result<Self> {
        hostpkg::ensure(&["valgrind"])?;
        let step = Step::new("build the paths that are counted");
        let program = c_program::with_hypervisor_code("paths", "paths.c", &[], &[], &step)?;
        step.done("");
        Ok(Self(program))
    }

    /// Instructions of each path.
    fn count(&self, arguments: &[&str]) -> Result<BTreeMap<String, u64>> {
        let step = Step::new("count instructions");
        let dumps = tempfile::tempdir()?;
        let mut valgrind = Command::new("valgrind");
        valgrind
            .arg("--tool=callgrind")
            .args(COUNTED.iter().map(|name| format!("--toggle-collect={name}")));
        valgrind.arg(format!(
            "--callgrind-out-file={}",
            dumps.path().join("dump").display()
        ));
        let log = paths::target_subdir("test")?.join("paths.log");
        cmd::logged(valgrind.arg(&self.0).args(arguments), &log, &step)?;
        let mut paths = BTreeMap::new();
        for entry in fs::read_dir(dumps.path())? {
            paths.extend(path_of(&entry?.path())?);
        }
        ensure!(!paths.is_empty(), "callgrind left no counts");
        step.done("");
        Ok(paths)
    }
}

/// The path that a dump of callgrind's is of, and its count; none if the program did not ask for the dump.
fn path_of(dump: &Path) -> Result<Option<(String, u64)>> {
    let text = fs::read_to_string(dump)?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let Some(path) = field("desc: Trigger: Client Request: ") else {
        return Ok(None);
    };
    let count = field("totals: ").context("a dump of callgrind's without a total")?;
    let count = count
        .parse()
        .with_context(|| format!("`{count}` is no number of instructions"))?;
    Ok(Some((path.to_owned(), count)))
}

/// What the committed file says.
#[derive(Debug, PartialEq)]
struct Counts {
    compiler: String,
    /// Percent that a path may be longer.
    tolerance: u64,
    tolerance_of_others: u64,
    paths: BTreeMap<String, u64>,
}

const HEADING: &str = "\
# Instructions of each path of paths.c, in the Rust part as it is linked into Xen. `cargo xtask instructions` refuses a
# path that is longer by more percent than the tolerance, the second one if another compiler than this made it;
# `cargo xtask instructions --write` counts anew.
";

impl Counts {
    fn read() -> Result<Self> {
        let text =
            fs::read_to_string(file()).with_context(|| format!("cannot read {}", paths::short(&file())))?;
        Self::parse(&text).with_context(|| format!("in {}", paths::short(&file())))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut fields = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line
                .rsplit_once(": ")
                .with_context(|| format!("`{line}` is not `NAME: VALUE`"))?;
            fields.insert(name.to_owned(), value);
        }
        let mut take = |name: &str| {
            fields
                .remove(name)
                .with_context(|| format!("there is no line `{name}: VALUE`"))
        };
        let compiler = take("compiler")?.to_owned();
        let (tolerance, tolerance_of_others) = (
            take("tolerance")?.parse()?,
            take("tolerance of another compiler")?.parse()?,
        );
        let paths = fields.into_iter().map(|(path, count)| Ok((path, count.parse()?)));
        Ok(Self {
            compiler,
            tolerance,
            tolerance_of_others,
            paths: paths.collect::<Result<_>>()?,
        })
    }

    /// A row for each path that was counted or should have been.
    fn judge(&self, counted: &BTreeMap<String, u64>, same_compiler: bool) -> Vec<Row> {
        let tolerance = if same_compiler {
            self.tolerance
        } else {
            self.tolerance_of_others
        };
        let names = self
            .paths
            .keys()
            .chain(counted.keys().filter(|name| !self.paths.contains_key(*name)));
        let verdict = |name: &String| match (self.paths.get(name), counted.get(name)) {
            (Some(&was), Some(&is)) => {
                let change = Change { was, is };
                if change.is * 100 > change.was * (100 + tolerance) {
                    Verdict::Longer(change)
                } else {
                    Verdict::Good(change)
                }
            }
            (Some(_), None) if name.ends_with(", AES-NI") && !aes_ni() => Verdict::NoAesNi,
            (Some(_), None) => Verdict::Missing,
            (None, _) => Verdict::Unknown,
        };
        names
            .map(|name| Row {
                path: name.clone(),
                verdict: verdict(name),
            })
            .collect()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HEADING)?;
        writeln!(f, "compiler: {}", self.compiler)?;
        writeln!(f, "tolerance: {}", self.tolerance)?;
        writeln!(f, "tolerance of another compiler: {}", self.tolerance_of_others)?;
        self.paths
            .iter()
            .try_for_each(|(path, count)| writeln!(f, "{path}: {count}"))
    }
}

/// Two counts of one path.
#[derive(Debug, Clone, Copy)]
struct Change {
    was: u64,
    is: u64,
}

impl Change {
    fn percent(self) -> f64 {
        100.0 * (self.is as f64 / self.was as f64 - 1.0)
    }
}

/// What came out for a path.
struct Row {
    path: String,
    verdict: Verdict,
}

enum Verdict {
    Good(Change),
    Longer(Change),
    NoAesNi,
    Missing,
    Unknown,
}

impl Row {
    fn tally(&self) -> Tally {
        match self.verdict {
            Verdict::Good(_) => Tally::PASS,
            Verdict::NoAesNi => Tally::SKIP,
            _ => Tally::FAIL,
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const WRITE: &str = "`cargo xtask instructions --write`";
        let path = &self.path;
        match self.verdict {
            Verdict::Good(change) => {
                let percent = change.percent();
                write!(f, "  ok  {path}: {} instructions ({percent:+.1} %)", change.is)?;
                // What was won can be lost again unseen.
                if percent < -1.0 {
                    write!(f, "; keep that by {WRITE}")?;
                }
                Ok(())
            }
            Verdict::Longer(change) => write!(
                f,
                "FAIL  {path}: {} instructions, {:.1} % more than {}; make it as short as it was, or, if it is worth it, {WRITE}",
                change.is,
                change.percent(),
                change.was
            ),
            Verdict::NoAesNi => write!(f, "SKIP  {path}: this CPU has no AES-NI"),
            Verdict::Missing => write!(f, "FAIL  {path}: it was not counted; if it is gone, {WRITE}"),
            Verdict::Unknown => write!(f, "FAIL  {path}: it is new; {WRITE}"),
        }
    }
}

fn aes_ni() -> bool {
    std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq")
}

fn compiler() -> Result<String> {
    let version = cmd::output(Command::new("rustc").arg("--version"))?;
    let version = version.trim();
    if version.is_empty() || version.contains(": ") {
        bail!("`{version}` is no version of rustc");
    }
    Ok(version.to_owned())
}

fn file() -> PathBuf {
    paths::workspace_root().join("tests/c/INSTRUCTIONS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Counts {
        let text = "# c\ncompiler: rustc 1\ntolerance: 3\ntolerance of another compiler: 25\na page: 1000\n";
        let counts = Counts::parse(text).unwrap();
        assert_eq!(Counts::parse(&counts.to_string()).unwrap(), counts);
        counts
    }

    fn verdict(path: &str, count: u64, same_compiler: bool) -> Tally {
        let counted = BTreeMap::from([(path.to_owned(), count)]);
        let rows = committed().judge(&counted, same_compiler);
        rows.iter().map(Row::tally).sum()
    }

    #[test]
    fn a_path_may_change_within_the_tolerance_alone() {
        for (count, same, expected) in [
            (1000, true, Tally::PASS),
            (1030, true, Tally::PASS),
            (1031, true, Tally::FAIL),
            (500, true, Tally::PASS),
            (1250, false, Tally::PASS),
            (1251, false, Tally::FAIL),
        ] {
            assert_eq!(verdict("a page", count, same), expected, "{count}");
        }
    }

    #[test]
    fn every_path_is_counted_and_committed() {
        assert_eq!(verdict("another", 1000, true).failed, 2);
    }

    #[test]
    fn a_line_without_a_value_is_refused() {
        for text in [
            "compiler\n",
            "compiler: r\ntolerance: 3\n",
            "tolerance: x\ncompiler: r\ntolerance of another compiler: 1\n",
        ] {
            assert!(Counts::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_dump_names_its_path() {
        let dump = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            &dump,
            "version: 1\ndesc: Trigger: Client Request: map\nsummary: 7\n\ntotals: 7\n",
        )
        .unwrap();
        assert_eq!(path_of(dump.path()).unwrap(), Some(("map".to_owned(), 7)));
        fs::write(&dump, "desc: Trigger: Program termination\ntotals: 7\n").unwrap();
        assert_eq!(path_of(dump.path()).unwrap(), None);
    }
}
