//! One TCP connection to dom0 that must outlive every save and restore.

use super::heartbeat;
use crate::machine::parameter;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::Role;

pub fn play() -> Result<()> {
    let server = parameter("vmcrypt.server")?.context("no vmcrypt.server= on the command line")?;
    let mut stream = connect(&server)?;
    let mut buffer = [0u8; 4096];
    heartbeat(Role::Net, |round| {
        let message: Vec<u8> = (0..buffer.len() as u64)
            .map(|i| (round.wrapping_mul(31) + i) as u8)
            .collect();
        stream.write_all(&message).context("sending")?;
        stream.read_exact(&mut buffer).context("receiving")?;
        ensure!(buffer[..] == message[..], "the echo differs");
        sleep(Duration::from_millis(20));
        Ok(format!("echoes={}", round + 1))
    })
}

/// The interface needs a moment after it was set up.
fn connect(server: &str) -> Result<TcpStream> {
    let mut last = None;
    for _ in 0..60 {
        match TcpStream::connect(server) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
        sleep(Duration::from_millis(500));
    }
    Err(last.expect("tried at least once")).with_context(|| format!("connecting to {server}"))
}
