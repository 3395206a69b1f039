//! Backends of the page cipher that this CPU has.

use vmcrypt_ffi::host::{VMC_BACKEND_AESNI, VMC_BACKEND_AVX2, VMC_BACKEND_AVX512, VMC_BACKEND_PORTABLE};
use vmcrypt_simd::{avx2::Avx2, avx512::Avx512, ni::AesNi};

/// One backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its name in figures.
    pub name: &'static str,
    /// What Xen calls it.
    pub number: u32,
}

/// For every CPU.
pub const PORTABLE: Kind = Kind {
    name: "portable",
    number: VMC_BACKEND_PORTABLE,
};
/// With AES-NI.
pub const AESNI: Kind = Kind {
    name: "aes-ni",
    number: VMC_BACKEND_AESNI,
};
/// With VAES on 256 bits.
pub const AVX2: Kind = Kind {
    name: "avx2",
    number: VMC_BACKEND_AVX2,
};
/// With VAES on 512 bits.
pub const AVX512: Kind = Kind {
    name: "avx512",
    number: VMC_BACKEND_AVX512,
};

/// Those that this CPU has, the slowest first.
pub fn available() -> Vec<Kind> {
    [
        (PORTABLE, true),
        (AESNI, AesNi::detect().is_some()),
        (AVX2, Avx2::detect().is_some()),
        (AVX512, Avx512::detect().is_some()),
    ]
    .into_iter()
    .filter_map(|(kind, there)| there.then_some(kind))
    .collect()
}

/// Those but the portable one, which takes a long time, unless there is no other.
pub fn fast() -> Vec<Kind> {
    let all = available();
    match all.get(1..) {
        Some(fast) if !fast.is_empty() => fast.to_vec(),
        _ => all,
    }
}
