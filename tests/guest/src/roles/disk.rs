//! Block device I/O past the page cache: write a generation, read it back, compare.

use super::heartbeat;
use anyhow::{Context, Result, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_guest::Role;

const DEVICE: &str = "/dev/xvda";
const BLOCK: usize = 64 * 1024;
const BLOCKS: u64 = 16;
const ALIGNMENT: usize = 4096;
/// Between two generations: without a rest, dom0's backend has no time for what else a case does.
const REST: Duration = Duration::from_millis(100);

pub fn play() -> Result<()> {
    let device = open()?;
    let mut buffer = vec![0u8; BLOCK + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let block = &mut buffer[start..start + BLOCK];
    heartbeat(Role::Disk, |round| {
        for number in 0..BLOCKS {
            fill(block, round, number);
            device
                .write_all_at(block, number * BLOCK as u64)
                .context("writing")?;
        }
        let mut expected = vec![0u8; BLOCK];
        for number in 0..BLOCKS {
            block.fill(0);
            device
                .read_exact_at(block, number * BLOCK as u64)
                .context("reading")?;
            fill(&mut expected, round, number);
            ensure!(*block == expected[..], "block {number} holds something else");
        }
        sleep(REST);
        Ok(format!("bytes={}", (round + 1) * BLOCKS * BLOCK as u64))
    })
}

/// The disk appears a moment after its driver is loaded.
fn open() -> Result<std::fs::File> {
    let o_direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(o_direct);
    for _ in 0..200 {
        match options.open(DEVICE) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => sleep(Duration::from_millis(100)),
            other => return other.context(DEVICE),
        }
    }
    anyhow::bail!("{DEVICE} did not appear")
}

fn fill(block: &mut [u8], round: u64, number: u64) {
    for (i, word) in block.chunks_exact_mut(8).enumerate() {
        let value = (round << 24 | number << 16 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}
