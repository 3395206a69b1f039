//! The vector backends, directly and through the functions that Xen's half calls.

#![allow(unsafe_code, reason = "calls the exported functions")]

#[path = "../../../vmcrypt-core/tests/crypto/backend.rs"]
mod backend;

use backend::Random;
use core::arch::asm;
use vmcrypt_core::cipher::{Backend, Keys, Page, PageKey, PageTag, Portable, Tweak};
use vmcrypt_core::cipher::{decrypt_page, encrypt_page};
use vmcrypt_core::polyval::HashKey;
use vmcrypt_simd::avx2::{Avx2, Halves};
use vmcrypt_simd::avx512::Avx512;
use vmcrypt_simd::ni::AesNi;
use vmcrypt_simd::*;

/// The tests of one backend. A machine without AES-NI cannot run any of them, and passing there would mean nothing; the
/// wider ones do nothing but say so where the CPU has not got them.
macro_rules! tests {
    ($name:ident, $backend:ident, $encrypt:ident, $decrypt:ident) => {
        mod $name {
            use super::*;

            fn backend() -> Option<$backend> {
                let backend = $backend::detect();
                if backend.is_none() {
                    assert_ne!(
                        stringify!($name),
                        "aesni",
                        "these tests need a CPU with AES-NI"
                    );
                    eprintln!(concat!("this CPU has no ", stringify!($name)));
                }
                backend
            }

            #[test]
            fn published_vectors() {
                if let Some(backend) = backend() {
                    super::backend::published_vectors(&backend);
                }
            }

            #[test]
            fn agrees_with_portable() {
                if let Some(backend) = backend() {
                    super::backend::agrees_with_portable(&backend);
                }
            }

            #[test]
            fn diffusion() {
                if let Some(backend) = backend() {
                    super::backend::diffusion(&backend);
                }
            }

            #[test]
            fn every_block_count_agrees_with_portable() {
                if let Some(backend) = backend() {
                    every_block_count(&backend);
                }
            }

            #[test]
            fn exported_functions_on_a_misaligned_stack() {
                if backend().is_some() {
                    misaligned($encrypt, $decrypt);
                }
            }
        }
    };
}

tests!(aesni, AesNi, vmc_simd_aesni_encrypt, vmc_simd_aesni_decrypt);
tests!(halves, Halves, vmc_simd_halves_encrypt, vmc_simd_halves_decrypt);
tests!(avx2, Avx2, vmc_simd_avx2_encrypt, vmc_simd_avx2_decrypt);
tests!(avx512, Avx512, vmc_simd_avx512_encrypt, vmc_simd_avx512_decrypt);

/// Both walks alone, of every length up to several groups of the widest backend, from any state.
fn every_block_count(backend: &impl Backend) {
    const MOST: usize = 140;
    let mut random = Random(1);
    for length in 0..MOST {
        let key = random.key();
        let mut hash = HashKey::empty();
        hash.set(&random.bytes());
        let (acc, start) = (random.bytes(), random.bytes());
        let blocks: [[u8; 16]; MOST] = std::array::from_fn(|_| random.bytes());
        let (mut one, mut other) = (acc, acc);
        backend.hash(&hash, &mut one, &blocks[..length]);
        Portable.hash(&hash, &mut other, &blocks[..length]);
        assert_eq!(one, other, "{length} blocks");

        let keys = Keys {
            cipher: key.cipher(),
            hash: &hash,
        };
        let (mut here, mut there) = (blocks, blocks);
        let (mut one, mut other) = (acc, acc);
        backend.xctr_then_hash(keys, &start, &mut one, &mut here[..length]);
        Portable.xctr_then_hash(keys, &start, &mut other, &mut there[..length]);
        assert_eq!(here, there, "{length} blocks");
        assert_eq!(one, other, "{length} blocks");
    }
}

type Entry = unsafe extern "C" fn(*const PageKey, *const Tweak, *mut Page, *mut PageTag);

/// Calls `entry` with a stack pointer that is off by 8 from what the ABI promises, as Xen's may be, and checks that
/// what the ABI calls preserved is preserved.
fn call_misaligned(entry: Entry, key: &PageKey, tweak: &Tweak, page: &mut Page, tag: &mut PageTag) {
    let (before, after): (u64, u64);
    // SAFETY: the stack pointer moves down and back up; all that the C ABI lets a callee change is declared.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov r13, rsp",
            "and rsp, -16",
            "sub rsp, 8",
            "call {entry}",
            "mov r14, r12",
            "mov rsp, r13",
            entry = in(reg) entry,
            in("rdi") key,
            in("rsi") tweak,
            in("rdx") page,
            in("rcx") tag,
            out("r12") before,
            out("r13") _,
            out("r14") after,
            clobber_abi("C"),
        );
    }
    assert_eq!(before, after);
}

fn misaligned(encrypt: Entry, decrypt: Entry) {
    let mut random = Random(2);
    for _ in 0..50 {
        let (key, tweak, plain) = (random.key(), random.tweak(), random.page());
        let (mut page, mut expected) = (plain, plain);
        let (mut tag, mut back) = (PageTag::default(), PageTag::default());
        call_misaligned(encrypt, &key, &tweak, &mut page, &mut tag);
        assert_eq!(tag, encrypt_page(&Portable, &key, &tweak, &mut expected));
        assert_eq!(page, expected);
        call_misaligned(decrypt, &key, &tweak, &mut page, &mut back);
        assert_eq!(back, decrypt_page(&Portable, &key, &tweak, &mut expected));
        assert_eq!(back, tag);
        assert_eq!(page, plain);
    }
}

/// Fills the registers with ones, calls a wipe, and expects zeros.
macro_rules! wiped {
    ($wipe:ident, $bytes:literal, $move:literal, [$($register:literal)*]) => {{
        let ones = [0xffu8; $bytes];
        let mut left = [[1u8; $bytes]; [$($register),*].len()];
        // SAFETY: loads from `ones`, stores to `left`; clobbers are declared.
        unsafe {
            asm!(
                $(concat!($move, " ", $register, ", [r13]"),)*
                "call {wipe}",
                $(concat!($move, " [r12], ", $register), concat!("add r12, ", $bytes),)*
                wipe = sym $wipe,
                inout("r12") left.as_mut_ptr() => _,
                in("r13") ones.as_ptr(),
                clobber_abi("C"),
            );
        }
        assert_eq!(left, [[0; $bytes]; _]);
    }};
}

#[test]
fn wipe_clears_the_registers() {
    wiped!(vmc_simd_aesni_wipe, 16, "movdqu", [
        "xmm0" "xmm1" "xmm2" "xmm3" "xmm4" "xmm5" "xmm6" "xmm7" "xmm8" "xmm9" "xmm10" "xmm11" "xmm12" "xmm13" "xmm14"
        "xmm15"
    ]);
    if Avx2::detect().is_some() {
        wiped!(vmc_simd_avx2_wipe, 32, "vmovdqu", [
            "ymm0" "ymm1" "ymm2" "ymm3" "ymm4" "ymm5" "ymm6" "ymm7" "ymm8" "ymm9" "ymm10" "ymm11" "ymm12" "ymm13"
            "ymm14" "ymm15"
        ]);
    }
    if Avx512::detect().is_some() {
        wiped!(vmc_simd_avx512_wipe, 64, "vmovdqu64", [
            "zmm0" "zmm1" "zmm2" "zmm3" "zmm4" "zmm5" "zmm6" "zmm7" "zmm8" "zmm9" "zmm10" "zmm11" "zmm12" "zmm13"
            "zmm14" "zmm15" "zmm16" "zmm17" "zmm18" "zmm19" "zmm20" "zmm21" "zmm22" "zmm23" "zmm24" "zmm25" "zmm26"
            "zmm27" "zmm28" "zmm29" "zmm30" "zmm31"
        ]);
    }
}
