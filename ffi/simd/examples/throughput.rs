//! Time per page of each backend, hot in cache and in address order through more memory than caches hold:
//! `cargo run --release --package vmcrypt-simd --example throughput`.
//!
//! Pages are timed in short slices and the median slice counts, so that other load on the machine hardly shows.

use std::hint::black_box;
use std::time::Instant;
use vmcrypt_core::cipher::{Backend, Page, PageKey, Portable, Tweak, decrypt_page, encrypt_page};
use vmcrypt_core::ids::{Pfn, SessionId};
use vmcrypt_simd::ni::AesNi;

/// Pages of one slice when hot: 32 KiB.
const HOT: usize = 8;

fn main() {
    let mut key = PageKey::empty();
    key.set(&[0x42; 64]);
    measure("portable", &Portable, &key, 16 << 10);
    match AesNi::detect() {
        Some(ni) => measure("aes-ni", &ni, &key, 64 << 10),
        None => println!("aes-ni    not on this CPU"),
    }
}

fn measure(name: &str, backend: &impl Backend, key: &PageKey, pages: usize) {
    let mut memory: Vec<Page> = vec![[0x5a; 4096]; pages];
    for decrypt in [false, true] {
        let crypt = |page: &mut Page, pfn| {
            let tweak = Tweak {
                kind: vmcrypt_core::cipher::PageKind::PRIVATE,
                session: SessionId([1; 16]),
                pfn: Pfn(pfn),
            };
            let tag = match decrypt {
                false => encrypt_page(backend, key, &tweak, page),
                true => decrypt_page(backend, key, &tweak, page),
            };
            black_box(&tag);
        };
        let mut slice = |slice: &mut [Page]| {
            let start = Instant::now();
            for (pfn, page) in (0..).zip(&mut *slice) {
                crypt(page, pfn);
            }
            start.elapsed().as_secs_f64() / slice.len() as f64
        };
        let hot = median((0..200).map(|_| slice(&mut memory[..HOT])).collect());
        let cold = median(memory.chunks_mut(32).map(&mut slice).collect());
        let direction = if decrypt { "decrypt" } else { "encrypt" };
        for (place, time) in [("hot", hot), ("from memory", cold)] {
            println!(
                "{name:9} {direction} {place:12} {:8.0} ns a page {:6.3} GB/s",
                time * 1e9,
                4096e-9 / time
            );
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
