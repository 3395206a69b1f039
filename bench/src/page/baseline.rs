//! What memory alone allows.

use anyhow::{Result, ensure};

use super::{Contender, Page, content};
use crate::model::{Frame, Mapped, resident};

/// Nothing is encrypted by these.
pub const NAMES: [&str; 2] = ["memcpy", "xor in place"];

/// Copying a page elsewhere, and changing every byte of it in place.
pub fn all(frames: usize) -> Result<Vec<Contender>> {
    let mut copies = resident(frames, Frame([0; 4096]), Mapped::Large);
    copy(&mut copies, 0, &content(1));
    ensure!(copies[0].0 == content(1), "the copy is another page");
    let mut page = content(1);
    flip(&mut page);
    ensure!(
        page.iter().zip(&content(1)).all(|(a, b)| a ^ b == 0x55),
        "not every byte was changed"
    );
    Ok(vec![
        Contender {
            name: NAMES[0],
            backend: "C library".to_owned(),
            share: 1,
            work: Box::new(move |number, page| {
                copy(&mut copies, number, page);
                Ok(())
            }),
        },
        Contender {
            name: NAMES[1],
            backend: "autovectorised".to_owned(),
            share: 1,
            work: Box::new(|_, page| {
                flip(page);
                Ok(())
            }),
        },
    ])
}

fn copy(copies: &mut [Frame], number: u64, page: &Page) {
    let frames = copies.len();
    copies[number as usize % frames].0.copy_from_slice(page);
}

/// Not inlined: what surrounds it must not be joined with it.
#[inline(never)]
fn flip(page: &mut Page) {
    page.iter_mut().for_each(|byte| *byte ^= 0x55);
}
