//! Memory that changes all the time: every page is checked against its last generation, then rewritten.

use super::{fail, heartbeat};
use anyhow::{Result, ensure};
use std::thread;
use vmcrypt_guest::Role;

const PAGE_WORDS: usize = 512;
const PAGES: usize = 4096;

pub fn play() -> Result<()> {
    // One writer a CPU; the first reports, the others only complain.
    let writers = thread::available_parallelism()?.get();
    let pages = PAGES / writers;
    for writer in 1..writers {
        thread::Builder::new().spawn(move || {
            let mut memory = Memory::new(pages);
            loop {
                if let Err(error) = memory.check_and_rewrite() {
                    fail(Role::Dirty, &format!("writer {writer}: {error:#}"));
                }
            }
        })?;
    }
    let mut memory = Memory::new(pages);
    heartbeat(Role::Dirty, |_| {
        memory.check_and_rewrite()?;
        Ok(format!(
            "generation={} pages={pages} writers={writers}",
            memory.generation
        ))
    })
}

struct Memory {
    words: Vec<u64>,
    generation: u64,
}

impl Memory {
    fn new(pages: usize) -> Self {
        Memory {
            words: (0..pages * PAGE_WORDS).map(|i| value(0, i)).collect(),
            generation: 0,
        }
    }

    fn check_and_rewrite(&mut self) -> Result<()> {
        let (old, new) = (self.generation, self.generation + 1);
        self.generation = new;
        let mut wrong = 0;
        for (p, page) in self.words.chunks_exact_mut(PAGE_WORDS).enumerate() {
            let first = p * PAGE_WORDS;
            wrong += usize::from(
                page.iter()
                    .enumerate()
                    .any(|(i, &word)| word != value(old, first + i)),
            );
            for (i, word) in page.iter_mut().enumerate() {
                *word = value(new, first + i);
            }
        }
        ensure!(wrong == 0, "{wrong} pages do not hold generation {old}");
        Ok(())
    }
}

fn value(generation: u64, index: usize) -> u64 {
    (generation << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
