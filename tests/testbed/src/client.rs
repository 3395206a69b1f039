//! The host's end of the conversation with the agent in dom0.

use crate::console::Trouble;
use crate::protocol::{Ending, Message};
use anyhow::{Context, Result};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a command in dom0 printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub ending: Ending,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// From request to end, as the host's clock sees it.
    pub time: Duration,
}

impl Answer {
    /// Whether it exited with code 0.
    pub fn ok(&self) -> bool {
        self.ending == Ending::Code(0)
    }

    /// Standard output as trimmed text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Both outputs as text.
    pub fn all_text(&self) -> String {
        format!(
            "{}\n{}",
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr)
        )
    }
}

/// The connection.
pub struct Client {
    stream: UnixStream,
    seq: u32,
}

/// How often a waiting host looks whether the machine still lives.
const LOOK: Duration = Duration::from_millis(200);
/// What an answer may take beyond its command's own limit: the agent needs time to end it.
const GRACE: Duration = Duration::from_secs(60);

impl Client {
    /// Connects to the socket behind the virtio port, which QEMU creates a moment after its start.
    pub fn connect(socket: &Path, deadline: Instant) -> Result<Client> {
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LOOK))?;
                    return Ok(Client { stream, seq: 0 });
                }
                Err(error) if Instant::now() > deadline => return Err(error).context("connecting to QEMU"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Runs a command; `alive` is asked again and again while waiting.
    pub fn run(
        &mut self,
        command: &str,
        limit: Duration,
        mut alive: impl FnMut() -> Result<(), Trouble>,
    ) -> Result<Answer> {
        let start = Instant::now();
        let deadline = start + limit + GRACE;
        self.seq += 1;
        Message::Run {
            limit,
            command: command.to_owned(),
        }
        .send(self.seq, &mut &self.stream)?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let mut reader = Watched {
                stream: &self.stream,
                deadline,
                alive: &mut alive,
            };
            let (seq, message) = Message::receive(&mut reader)
                .with_context(|| format!("waiting for dom0 to run `{command}`"))?;
            match message {
                _ if seq != self.seq => {}
                Message::Stdout(bytes) => stdout.extend(bytes),
                Message::Stderr(bytes) => stderr.extend(bytes),
                Message::Exit(ending) => {
                    let time = start.elapsed();
                    return Ok(Answer {
                        command: command.to_owned(),
                        ending,
                        stdout,
                        stderr,
                        time,
                    });
                }
                Message::Run { .. } => anyhow::bail!("the agent sent a request"),
            }
        }
    }
}

/// Reads in slices of time, between which it looks at the clock and at the machine.
struct Watched<'a, F> {
    stream: &'a UnixStream,
    deadline: Instant,
    alive: &'a mut F,
}

impl<F: FnMut() -> Result<(), Trouble>> Read for Watched<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&mut &*self.stream).read(buffer) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Ok(0) => return Err(io::Error::other(Trouble("QEMU closed the agent's port".into()))),
                other => return other,
            }
            (self.alive)().map_err(io::Error::other)?;
            if Instant::now() > self.deadline {
                return Err(io::Error::other(Trouble("dom0 no longer answers".into())));
            }
        }
    }
}
