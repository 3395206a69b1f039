//! Pages per second of each backend, hot in cache and over 256 MiB: `cargo run --release --example throughput`.

use std::hint::black_box;
use std::time::Instant;
use vmcrypt_core::cipher::{Backend, Page, PageKey, Portable, Tweak, decrypt_page, encrypt_page};
use vmcrypt_core::ids::{Pfn, SessionId};
use vmcrypt_simd::ni::AesNi;

fn main() {
    let mut key = PageKey::empty();
    key.set(&[0x42; 64]);
    measure("portable", &Portable, &key, 4 << 10);
    if let Some(ni) = AesNi::detect() {
        measure("aes-ni", &ni, &key, 64 << 10);
    }
}

fn measure(name: &str, backend: &impl Backend, key: &PageKey, large: usize) {
    for (place, pages, passes) in [("hot", 8, large / 512), ("from memory", large, 1)] {
        let mut memory: Vec<Page> = vec![[0x5a; 4096]; pages];
        for (direction, decrypt) in [("encrypt", false), ("decrypt", true)] {
            let best = (0..if pages == 8 { 100 } else { 5 })
                .map(|_| {
                    let start = Instant::now();
                    for _ in 0..passes {
                        for (pfn, page) in (0..).zip(&mut memory) {
                            let tweak = Tweak {
                                session: SessionId([1; 16]),
                                pfn: Pfn(pfn),
                            };
                            let tag = match decrypt {
                                false => encrypt_page(backend, key, &tweak, page),
                                true => decrypt_page(backend, key, &tweak, page),
                            };
                            black_box(&tag);
                        }
                    }
                    start.elapsed().as_secs_f64() / (passes * pages) as f64
                })
                .fold(f64::INFINITY, f64::min);
            println!(
                "{name:9} {direction} {place:12} {:8.0} ns a page {:6.3} GB/s",
                best * 1e9,
                4096e-9 / best
            );
        }
    }
}
