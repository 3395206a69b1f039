//! Where a save's bytes go.

use std::{
    fmt,
    fs::File,
    io::{self, IoSlice, Read, Write},
    thread,
    time::{Duration, Instant},
};

/// A disk that takes so many bytes a second, and as many at once as its cache has room for. What it gets is not kept.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Bytes (10^6) a second.
    rate: u64,
    /// MiB.
    cache: u64,
}

impl Disk {
    /// Of that many MB/s (10^6) and a cache of that many MiB.
    pub const fn new(rate: u64, cache: u64) -> Self {
        Self { rate, cache }
    }

    /// Its cache empty.
    pub fn start(self) -> Busy {
        Busy {
            disk: self,
            done: Instant::now(),
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk of {} MB/s", self.rate)
    }
}

/// A disk at work.
pub struct Busy {
    disk: Disk,
    /// When it has written all that it got.
    done: Instant,
}

impl Busy {
    fn take(&mut self, bytes: usize) {
        let time = |bytes: u64| Duration::from_secs_f64(bytes as f64 / (self.disk.rate as f64 * 1e6));
        let now = Instant::now();
        self.done = self.done.max(now) + time(bytes as u64);
        let room = time(self.disk.cache << 20);
        thread::sleep((self.done - now).saturating_sub(room));
    }

    fn finish(self) {
        thread::sleep(self.done.saturating_duration_since(Instant::now()));
    }
}

/// Somewhere to write to.
pub enum Sink {
    /// A file; left to the system to bring it to its disk.
    File(File),
    /// A modelled disk; a save is over when it has everything.
    Disk(Busy),
}

impl Sink {
    /// Takes everything from a reader.
    pub fn drain(mut self, mut from: impl Read) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match from.read(&mut buffer)? {
                0 => break,
                len => self.write_all(&buffer[..len])?,
            }
        }
        self.finish();
        Ok(())
    }

    /// Waits for what takes its time.
    pub fn finish(self) {
        if let Self::Disk(disk) = self {
            disk.finish();
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write_vectored(slices),
            Self::Disk(disk) => {
                let bytes = slices.iter().map(|slice| slice.len()).sum();
                disk.take(bytes);
                Ok(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock only says that a disk is not faster than it is.
    #[test]
    fn a_disk_is_ready_when_it_has_written_everything() {
        let start = Instant::now();
        let mut sink = Sink::Disk(Disk::new(1000, 1).start());
        sink.write_all(&[0; 4 << 20]).unwrap();
        let Sink::Disk(disk) = &sink else { unreachable!() };
        assert!(disk.done >= start + Duration::from_micros(4194));
        // One MiB may still be in its cache.
        assert!(Instant::now() >= start + Duration::from_micros(3145));
        sink.finish();
        assert!(Instant::now() >= start + Duration::from_micros(4194));
    }
}
