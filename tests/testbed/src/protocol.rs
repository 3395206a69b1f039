//! What the host and the agent in dom0 say to each other: frames of one tag byte, a sequence number, a length and
//! that many bytes. Every frame of an answer carries its request's sequence number, so that a host that gave up on a
//! request can tell late frames from the ones it waits for.

use std::io::{self, Read, Write};
use std::time::Duration;

/// Name of the virtio serial port.
pub const PORT: &str = "vmcrypt.agent";

/// A frame's length field is trusted up to here; anything longer means that the two sides lost step.
const MAX_PAYLOAD: usize = 1 << 20;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Host: run a shell command, end it after the time limit.
    Run {
        /// How long it may take.
        limit: Duration,
        /// Given to `sh -c`.
        command: String,
    },
    /// Agent: bytes of the command's standard output.
    Stdout(Vec<u8>),
    /// Agent: bytes of its standard error.
    Stderr(Vec<u8>),
    /// Agent: the command ended.
    Exit(Ending),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exited with this code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// The agent ended it because its time was over.
    Timeout,
    /// It could not be started.
    NotStarted,
}

impl Message {
    /// Writes one frame.
    pub fn send(&self, seq: u32, to: &mut impl Write) -> io::Result<()> {
        let (tag, payload) = match self {
            Message::Run { limit, command } => {
                let mut payload = (limit.as_millis() as u32).to_le_bytes().to_vec();
                payload.extend(command.as_bytes());
                (b'R', payload)
            }
            Message::Stdout(bytes) => (b'O', bytes.clone()),
            Message::Stderr(bytes) => (b'E', bytes.clone()),
            Message::Exit(Ending::Code(code)) => (b'X', vec![0, *code]),
            Message::Exit(Ending::Signal(signal)) => (b'X', vec![1, *signal]),
            Message::Exit(Ending::Timeout) => (b'X', vec![2, 0]),
            Message::Exit(Ending::NotStarted) => (b'X', vec![3, 0]),
        };
        let mut frame = vec![tag];
        frame.extend(seq.to_le_bytes());
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(payload);
        to.write_all(&frame)?;
        to.flush()
    }

    /// Reads one frame and its sequence number.
    pub fn receive(from: &mut impl Read) -> io::Result<(u32, Message)> {
        let mut head = [0u8; 9];
        from.read_exact(&mut head)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (seq, length) = (word(1), word(5) as usize);
        if length > MAX_PAYLOAD {
            return Err(bad("frame too long"));
        }
        let mut payload = vec![0u8; length];
        from.read_exact(&mut payload)?;
        let message = match (head[0], payload.as_slice()) {
            (b'R', [a, b, c, d, command @ ..]) => Message::Run {
                limit: Duration::from_millis(u32::from_le_bytes([*a, *b, *c, *d]).into()),
                command: String::from_utf8(command.to_vec()).map_err(|_| bad("command is not UTF-8"))?,
            },
            (b'O', _) => Message::Stdout(payload),
            (b'E', _) => Message::Stderr(payload),
            (b'X', [0, code]) => Message::Exit(Ending::Code(*code)),
            (b'X', [1, signal]) => Message::Exit(Ending::Signal(*signal)),
            (b'X', [2, _]) => Message::Exit(Ending::Timeout),
            (b'X', [3, _]) => Message::Exit(Ending::NotStarted),
            _ => return Err(bad("unknown frame")),
        };
        Ok((seq, message))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let messages = [
            Message::Run {
                limit: Duration::from_secs(9),
                command: "echo ü".into(),
            },
            Message::Stdout(vec![0, 255, 10]),
            Message::Stderr(vec![]),
            Message::Exit(Ending::Code(7)),
            Message::Exit(Ending::Signal(9)),
            Message::Exit(Ending::Timeout),
        ];
        let mut wire = Vec::new();
        for (seq, message) in messages.iter().enumerate() {
            message.send(seq as u32, &mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        for (seq, message) in messages.into_iter().enumerate() {
            assert_eq!(Message::receive(&mut wire).unwrap(), (seq as u32, message));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Message::receive(&mut [b'?'; 64].as_slice()).is_err());
        assert!(Message::receive(&mut [b'X', 0, 0, 0, 0, 0, 0, 0, 0].as_slice()).is_err());
    }
}
