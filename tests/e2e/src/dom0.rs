//! What a case does in dom0, in the words of somebody who sits there.

use crate::case::{Problem, Verdict, demand};
use crate::guest::{Guest, Spec};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmcrypt_guest::{Report, Role, secret};
use vmcrypt_testbed::{Answer, Machine};

/// Limit for things that take a moment.
pub const SHORT: Duration = Duration::from_secs(120);
/// Limit for things that move a guest's memory.
pub const LONG: Duration = Duration::from_secs(600);

/// Limit for a sign of life: seconds on an idle host, minutes on one that is busy with other things.
const LIFE: Duration = Duration::from_secs(240);

const CONSOLES: &str = "/var/log/xen/console";

/// dom0 of a running machine, with a log of everything that was done in it.
pub struct Dom0 {
    machine: Machine,
    transcript: PathBuf,
    echo: bool,
    expected_secret: String,
}

impl Dom0 {
    /// Takes over a machine. With `echo`, what happens is also shown on stderr.
    pub fn new(machine: Machine, echo: bool) -> Dom0 {
        Dom0 {
            machine,
            transcript: PathBuf::new(),
            echo,
            expected_secret: secret::expected_sha256(),
        }
    }

    /// Where the following commands are written down.
    pub fn log_to(&mut self, transcript: &Path) {
        self.transcript = transcript.to_owned();
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Runs a command and returns whatever it answers.
    pub fn try_run(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        let answer = self.machine.run(command, limit);
        let text = match &answer {
            Ok(a) => format!(
                "{:?} after {:.1} s\n{}",
                a.ending,
                a.time.as_secs_f64(),
                a.all_text().trim_end()
            ),
            Err(error) => format!("{error:#}"),
        };
        self.note(&format!("dom0# {command}\n{text}\n"));
        answer
    }

    /// Runs a command that must succeed for the case to make sense.
    pub fn run(&mut self, command: &str) -> Result<Answer> {
        self.run_for(command, SHORT)
    }

    /// The same with a limit of its own.
    pub fn run_for(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        let answer = self.try_run(command, limit)?;
        ensure!(
            answer.ok(),
            "`{command}` in dom0 ended with {:?}: {}",
            answer.ending,
            answer.all_text().trim()
        );
        Ok(answer)
    }

    /// Runs a command that what is under test must let succeed.
    pub fn must(&mut self, command: &str, limit: Duration) -> Result<Answer, Problem> {
        let answer = self.try_run(command, limit)?;
        demand!(
            answer.ok(),
            "`{command}` ended with {:?}: {}",
            answer.ending,
            last_lines(&answer.all_text())
        );
        Ok(answer)
    }

    /// Runs a command that what is under test must refuse.
    pub fn must_refuse(&mut self, command: &str, limit: Duration) -> Result<Answer, Problem> {
        let answer = self.try_run(command, limit)?;
        demand!(!answer.ok(), "`{command}` succeeded and should have been refused");
        Ok(answer)
    }

    /// Appends to the transcript.
    pub fn note(&mut self, text: &str) {
        if self.echo {
            eprintln!("{text}");
        }
        if let Ok(mut file) = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.transcript)
        {
            let _ = writeln!(file, "{text}");
        }
    }

    /// Ends every guest and forgets what earlier cases left, so that the next one starts as on a fresh boot.
    pub fn clean(&mut self) -> Result<()> {
        let command = format!(
            "for id in $(xl list | tail -n +2 | awk '$2 != 0 {{ print $2 }}'); do xl destroy $id; done; \
             for try in $(seq 100); do [ $(xl list | wc -l) = 2 ] && break; sleep 0.1; done; \
             rm -f {CONSOLES}/guest-*.log /root/*.img /root/*.wire /root/*.disk /root/*.cfg /out/*; xl list"
        );
        let answer = self.run(&command)?;
        ensure!(
            answer.text().lines().count() == 1 + 1,
            "guests that do not go away: {}",
            answer.text()
        );
        Ok(())
    }

    /// Creates a guest and waits until all its roles are at work.
    pub fn create(&mut self, spec: Spec) -> Result<Guest, Problem> {
        let mut guest = self.create_only(spec)?;
        self.await_work(&mut guest)?;
        Ok(guest)
    }

    /// Creates a guest and does not wait for it.
    pub fn create_only(&mut self, spec: Spec) -> Result<Guest, Problem> {
        self.create_with(spec, "")
    }

    /// Builds a guest that has not run an instruction yet.
    pub fn create_paused(&mut self, spec: Spec) -> Result<Guest, Problem> {
        self.create_with(spec, "-p ")
    }

    fn create_with(&mut self, spec: Spec, options: &str) -> Result<Guest, Problem> {
        let name = spec.name.clone();
        if spec.roles.contains(&Role::Disk) {
            self.run(&format!("truncate -s 64M /root/{name}.disk"))?;
        }
        if spec.grub {
            self.run(&format!("cp /share/grub.disk /root/{name}.disk"))?;
        }
        // What an earlier guest of this name said is not this one's.
        self.run(&format!(
            "rm -f {CONSOLES}/guest-{name}.log; cat >/root/{name}.cfg <<'EOF'\n{}EOF",
            spec.xl_config()
        ))?;
        self.must(&format!("xl create -q {options}/root/{name}.cfg"), LONG)?;
        Ok(Guest::new(spec))
    }

    /// Destroys a guest, if it is there, and waits until it is gone.
    pub fn destroy(&mut self, name: &str) -> Result<()> {
        self.run(&format!(
            "xl destroy {name} 2>/dev/null; for try in $(seq 50); do xl domid {name} >/dev/null 2>&1 || exit 0; sleep 0.2; done; exit 1"
        ))?;
        Ok(())
    }

    /// `xl restore` with these arguments, which must fail for a cause that Xen's log must name.
    pub fn restore_refused(&mut self, arguments: &str, cause: &str) -> Result<(), Problem> {
        self.xen_log()?;
        self.must_refuse(&format!("xl restore {arguments}"), LONG)?;
        let log = self.xen_log()?;
        demand!(
            log.contains(cause),
            "{arguments} was refused, but not because \"{cause}\": {log}"
        );
        Ok(())
    }

    /// Unpauses a guest for the first time, and waits until it is at work.
    pub fn start(&mut self, guest: &mut Guest) -> Result<(), Problem> {
        self.must(&format!("xl unpause {}", guest.name()), SHORT)?;
        self.await_work(guest)
    }

    /// Waits until a guest that has begun to boot is at work.
    pub fn await_work(&mut self, guest: &mut Guest) -> Result<(), Problem> {
        self.await_ready(guest, LIFE)?;
        self.await_alive(guest)
    }

    /// The domain's number.
    pub fn domid(&mut self, guest: &Guest) -> Result<u32> {
        let answer = self.run(&format!("xl domid {}", guest.name()))?;
        answer
            .text()
            .parse()
            .with_context(|| format!("xl domid said {:?}", answer.text()))
    }

    /// `xl save`, which ends the domain.
    pub fn save(&mut self, guest: &Guest) -> Result<Answer, Problem> {
        self.must(&format!("xl save {} {}", guest.name(), guest.image()), LONG)
    }

    /// `xl restore`, and then fresh signs of life.
    pub fn restore(&mut self, guest: &mut Guest) -> Result<Answer, Problem> {
        let answer = self.must(&format!("xl restore {}", guest.image()), LONG)?;
        self.await_alive(guest)?;
        Ok(answer)
    }

    /// Waits until the guest has set up its roles.
    pub fn await_ready(&mut self, guest: &mut Guest, limit: Duration) -> Result<(), Problem> {
        self.wait(guest, limit, "get ready", |guest| guest.boots > 0)
    }

    /// Waits until every role has done another round since now, and found what it should.
    pub fn await_alive(&mut self, guest: &mut Guest) -> Result<(), Problem> {
        self.read_console(guest)?;
        let before = guest.rounds.clone();
        let heartbeats: Vec<Role> = guest
            .spec
            .roles
            .iter()
            .copied()
            .filter(|r| *r != Role::Echo)
            .collect();
        self.wait(
            guest,
            Duration::from_secs(120),
            "give a new sign of life",
            |guest| {
                heartbeats
                    .iter()
                    .all(|role| guest.rounds.get(role) > before.get(role))
            },
        )?;
        demand!(
            guest.boots <= 1,
            "{} was booted again instead of going on",
            guest.name()
        );
        Ok(())
    }

    /// Waits until a condition on what the console said comes true.
    pub fn wait(
        &mut self,
        guest: &mut Guest,
        limit: Duration,
        what: &str,
        done: impl Fn(&Guest) -> bool,
    ) -> Result<(), Problem> {
        let deadline = Instant::now() + limit;
        loop {
            self.read_console(guest)?;
            if done(guest) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let state = self.try_run("xl list; xl dmesg | tail -n 20", SHORT)?.text();
                let name = guest.name();
                self.try_run(&format!("tail -n 30 {CONSOLES}/guest-{name}*.log"), SHORT)?;
                demand!(
                    false,
                    "{name} did not {what} within {} s; {}",
                    limit.as_secs(),
                    crashed(&state, name)
                );
            }
            std::thread::sleep(Duration::from_millis(700));
        }
    }

    /// Reads what the guest has said since the last call; a role's complaint fails the case.
    pub fn read_console(&mut self, guest: &mut Guest) -> Result<(), Problem> {
        let mut logs = vec![format!("guest-{}.log", guest.name())];
        if guest.migrated {
            // While it is being received, a guest has another name, and so its log.
            logs.push(format!("guest-{}--incoming.log", guest.name()));
        }
        for log in logs {
            let seen = guest.read.get(&log).copied().unwrap_or(0);
            let command = format!("exec tail -c +{} {CONSOLES}/{log} 2>/dev/null", seen + 1);
            let answer = self.machine.run(&command, SHORT)?;
            if answer.stdout.is_empty() {
                continue;
            }
            guest.read.insert(log.clone(), seen + answer.stdout.len() as u64);
            let new = String::from_utf8_lossy(&answer.stdout).into_owned();
            self.note(&new);
            let text = guest.unfinished.remove(&log).unwrap_or_default() + &new;
            let (lines, rest) = text.rsplit_once('\n').unwrap_or(("", &text));
            guest.unfinished.insert(log, rest.to_owned());
            for report in lines.lines().filter_map(Report::parse) {
                self.judge(guest, report)?;
            }
        }
        Ok(())
    }

    fn judge(&self, guest: &mut Guest, report: Report) -> Result<(), Problem> {
        match report {
            Report::Fail { what } => demand!(false, "{} says: {what}", guest.name()),
            Report::Ready { .. } => guest.boots += 1,
            Report::Answer { sha256 } => guest.answers.push(sha256),
            Report::Alive { role, round, detail } => {
                if role == Role::Secret {
                    let wanted = format!("sha256={}", self.expected_secret);
                    demand!(detail == wanted, "{}'s secret is damaged: {detail}", guest.name());
                }
                let last = guest.rounds.insert(role, round);
                demand!(
                    last < Some(round),
                    "{}: {role} went back from {last:?} to round {round}",
                    guest.name()
                );
            }
        }
        Ok(())
    }

    /// Number of lines with the secret's needle in a file of dom0's.
    pub fn secret_lines(&mut self, file: &str) -> Result<u64> {
        self.run(&format!("test -s {file}"))?;
        let answer = self.try_run(&format!("grep -c -a -F '{}' {file}", secret::needle()), LONG)?;
        answer
            .text()
            .parse()
            .map_err(|_| anyhow!("grep said {:?}", answer.all_text()))
    }

    /// What `vmcrypt inspect` says of a file of dom0's, searched for the secret.
    pub fn inspect(&mut self, file: &str) -> Result<Value> {
        self.json(&format!(
            "vmcrypt inspect {file} --needle '{}' --json 2>/dev/null",
            secret::needle()
        ))
    }

    /// What `vmcrypt sweep` finds of the secret in a guest's memory.
    pub fn sweep(&mut self, guest: &Guest) -> Result<Value> {
        let domid = self.domid(guest)?;
        self.json(&format!(
            "vmcrypt sweep {domid} --needle '{}' --json 2>/dev/null",
            secret::needle()
        ))
    }

    /// What Xen says of itself, and of the guest (in `domains[0]`).
    pub fn status(&mut self, guest: &Guest) -> Result<Value> {
        let domid = self.domid(guest)?;
        self.json(&format!("vmcrypt status {domid} --json"))
    }

    /// Runs one of `vmcrypt-hostile`'s attacks.
    pub fn attack(&mut self, attack: &str, limit: Duration) -> Result<Value> {
        let answer = self.run_for(&format!("vmcrypt-hostile {attack}"), limit)?;
        serde_json::from_slice(&answer.stdout).with_context(|| format!("reading the outcome of {attack}"))
    }

    /// Runs a command that prints JSON.
    pub fn json(&mut self, command: &str) -> Result<Value> {
        let answer = self.run_for(command, LONG)?;
        serde_json::from_slice(&answer.stdout).with_context(|| format!("`{command}` printed no JSON"))
    }

    /// Reads a file of dom0's.
    pub fn take(&mut self, file: &str) -> Result<Vec<u8>> {
        self.note(&format!("host takes {file}\n"));
        self.machine.take(file, LONG)
    }

    /// Makes bytes of the host's a file in dom0, and says where.
    pub fn give(&mut self, bytes: &[u8]) -> Result<&'static str> {
        const FILE: &str = "/root/given.img";
        self.note(&format!("host gives {FILE}, {} bytes\n", bytes.len()));
        self.machine.give(bytes, FILE, LONG)?;
        Ok(FILE)
    }

    /// What Xen has logged since the last call.
    pub fn xen_log(&mut self) -> Result<String> {
        Ok(self.try_run("xl dmesg -c", SHORT)?.text())
    }
}

fn crashed(list: &str, name: &str) -> String {
    let line = list.lines().find(|line| line.starts_with(name));
    line.map_or("it no longer exists".to_owned(), |line| {
        let mut text = String::new();
        let _ = write!(
            text,
            "xl list says: {}",
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        text
    })
}

/// The end of an output, in one line.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}

/// The evidence of a case that passed.
pub fn marker(text: impl Into<String>) -> Verdict {
    Ok(text.into())
}
