//! The testbed's hand inside dom0: runs commands for the host, and plays the few parts that a shell cannot.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use vmcrypt_testbed::protocol::{Ending, Message, PORT};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["serve"] => serve(),
        ["echo", address] => echo(address),
        _ => bail!("usage: vmcrypt-agent serve | echo ADDRESS:PORT"),
    }
}

/// Runs what the host asks for, one command at a time.
fn serve() -> Result<()> {
    let path = find_port()?;
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    loop {
        // The port reads as ended while nobody is connected at the host's side.
        let Ok((seq, message)) = Message::receive(&mut Patient(&port)) else {
            bail!("the host broke the protocol");
        };
        if let Message::Run { limit, command } = message {
            let ending = run(&command, limit, |part| Ok(part.send(seq, &mut port)?))?;
            Message::Exit(ending).send(seq, &mut port)?;
        }
    }
}

/// Finds the port by its name, as udev would.
fn find_port() -> Result<PathBuf> {
    for _ in 0..100 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten() {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name"))
                .unwrap_or_default()
                .trim()
                == PORT
            {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("no virtio serial port named {PORT}")
}

struct Patient<'a>(&'a File);

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                0 => thread::sleep(Duration::from_millis(50)),
                n => return Ok(n),
            }
        }
    }
}

fn run(command: &str, limit: Duration, mut report: impl FnMut(Message) -> Result<()>) -> Result<Ending> {
    let deadline = Instant::now() + limit;
    let spawned = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            report(Message::Stderr(format!("agent: {error}").into_bytes()))?;
            return Ok(Ending::NotStarted);
        }
    };
    let (to, parts) = channel();
    pump(
        child.stdout.take().context("stdout is piped")?,
        to.clone(),
        Message::Stdout,
    );
    pump(
        child.stderr.take().context("stderr is piped")?,
        to,
        Message::Stderr,
    );
    let timely = relay(&parts, deadline, &mut report)?;
    // Output may stay open in a background child; what counts is the shell itself.
    while timely && Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(match (status.code(), status.signal()) {
                (Some(code), _) => Ending::Code(code as u8),
                (None, signal) => Ending::Signal(signal.unwrap_or_default() as u8),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    let group = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    child.wait()?;
    Ok(Ending::Timeout)
}

/// Reports parts until both outputs have ended; false if the deadline comes first.
fn relay(
    parts: &Receiver<Message>,
    deadline: Instant,
    report: &mut impl FnMut(Message) -> Result<()>,
) -> Result<bool> {
    loop {
        match parts.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(part) => report(part)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
        }
    }
}

fn pump(mut from: impl Read + Send + 'static, to: Sender<Message>, wrap: fn(Vec<u8>) -> Message) {
    thread::spawn(move || {
        let mut buffer = vec![0u8; 32 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.send(wrap(buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// The far end of the guests' network role.
fn echo(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    for connection in listener.incoming() {
        let mut stream = connection?;
        thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}
