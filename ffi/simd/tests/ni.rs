//! The AES-NI backend, directly and through the functions that Xen's half calls.

#![allow(unsafe_code, reason = "calls the exported functions")]

#[path = "../../../vmcrypt-core/tests/crypto/backend.rs"]
mod backend;

use backend::Random;
use core::arch::asm;
use vmcrypt_core::cipher::{Backend, Page, PageKey, PageTag, Portable, Tweak, decrypt_page, encrypt_page};
use vmcrypt_core::polyval::HashKey;
use vmcrypt_simd::ni::AesNi;
use vmcrypt_simd::{vmc_simd_page_decrypt, vmc_simd_page_encrypt, vmc_simd_wipe};

/// A machine without AES-NI cannot run these tests; passing there would mean nothing.
fn ni() -> AesNi {
    AesNi::detect().expect("these tests need a CPU with AES-NI, PCLMULQDQ and SSE4.1")
}

#[test]
fn published_vectors() {
    backend::published_vectors(&ni());
}

#[test]
fn agrees_with_portable() {
    backend::agrees_with_portable(&ni());
}

#[test]
fn diffusion() {
    backend::diffusion(&ni());
}

#[test]
fn polyval_of_every_length_agrees_with_portable() {
    let mut random = Random(1);
    for length in 0..40 {
        let mut key = HashKey::empty();
        key.set(&random.bytes());
        let start = random.bytes();
        let blocks: [[u8; 16]; 40] = std::array::from_fn(|_| random.bytes());
        let (mut one, mut other) = (start, start);
        ni().hash(&key, &mut one, &blocks[..length]);
        Portable.hash(&key, &mut other, &blocks[..length]);
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

#[test]
fn exported_functions_on_a_misaligned_stack() {
    let mut random = Random(2);
    for _ in 0..50 {
        let (key, tweak, plain) = (random.key(), random.tweak(), random.page());
        let (mut page, mut expected) = (plain, plain);
        let (mut tag, mut back) = (PageTag::default(), PageTag::default());
        call_misaligned(vmc_simd_page_encrypt, &key, &tweak, &mut page, &mut tag);
        assert_eq!(tag, encrypt_page(&Portable, &key, &tweak, &mut expected));
        assert_eq!(page, expected);
        call_misaligned(vmc_simd_page_decrypt, &key, &tweak, &mut page, &mut back);
        assert_eq!(back, decrypt_page(&Portable, &key, &tweak, &mut expected));
        assert_eq!(back, tag);
        assert_eq!(page, plain);
    }
}

#[test]
fn wipe_clears_the_registers() {
    let mut left: [[u64; 2]; 16] = [[1; 2]; 16];
    // SAFETY: stores to `left` alone; clobbers are declared.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0",
            "movdqa xmm1, xmm0", "movdqa xmm2, xmm0", "movdqa xmm3, xmm0", "movdqa xmm4, xmm0", "movdqa xmm5, xmm0",
            "movdqa xmm6, xmm0", "movdqa xmm7, xmm0", "movdqa xmm8, xmm0", "movdqa xmm9, xmm0", "movdqa xmm10, xmm0",
            "movdqa xmm11, xmm0", "movdqa xmm12, xmm0", "movdqa xmm13, xmm0", "movdqa xmm14, xmm0", "movdqa xmm15, xmm0",
            "call {wipe}",
            "movdqu [r12], xmm0", "movdqu [r12 + 16], xmm1", "movdqu [r12 + 32], xmm2", "movdqu [r12 + 48], xmm3",
            "movdqu [r12 + 64], xmm4", "movdqu [r12 + 80], xmm5", "movdqu [r12 + 96], xmm6", "movdqu [r12 + 112], xmm7",
            "movdqu [r12 + 128], xmm8", "movdqu [r12 + 144], xmm9", "movdqu [r12 + 160], xmm10",
            "movdqu [r12 + 176], xmm11", "movdqu [r12 + 192], xmm12", "movdqu [r12 + 208], xmm13",
            "movdqu [r12 + 224], xmm14", "movdqu [r12 + 240], xmm15",
            wipe = sym vmc_simd_wipe,
            in("r12") left.as_mut_ptr(),
            clobber_abi("C"),
        );
    }
    assert_eq!(left, [[0; 2]; 16]);
}
