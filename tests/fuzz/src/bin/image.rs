//! `vmcrypt inspect` reads any file to its end, and reports every byte of it as read.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vmcrypt_tools::image::inspect;
use vmcrypt_tools::needle::Needles;

static NEEDLES: LazyLock<Needles> = LazyLock::new(|| Needles::new([b"secret".to_vec()]).expect("one needle"));

fuzz_target!(|bytes: &[u8]| {
    let report = inspect(bytes, &NEEDLES).expect("a slice has no read errors");
    assert_eq!(report.bytes, bytes.len() as u64);
});
