//! The vector backends, directly and through the functions that Xen's half calls.

#![allow(unsafe_code, reason = "calls the exported functions")]

#[path = "../../../vmcrypt-core/tests/crypto/backend.rs"]
mod backend;

use backend::Random;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use vmcrypt_core::aes::{AesKey, Block};
use vmcrypt_core::cipher::{Backend, Keys, Page, PageKey, PageTag, Portable, Tweak};
use vmcrypt_core::cipher::{SharedPage, decrypt_page, encrypt_page, encrypt_page_from};
use vmcrypt_core::polyval::HashKey;
use vmcrypt_simd::avx2::{Avx2, Halves};
use vmcrypt_simd::avx512::Avx512;
use vmcrypt_simd::ni::AesNi;
use vmcrypt_simd::*;

/// The tests of one backend. A machine without AES-NI cannot run any of them, and passing there would mean nothing; the
/// wider ones do nothing but say so where the CPU has not got them.
macro_rules! tests {
    ($name:ident, $backend:ident, $encrypt:ident, $encrypt_from:ident, $decrypt:ident) => {
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
            fn pages_agree_with_another_implementation() {
                if let Some(backend) = backend() {
                    super::backend::agrees_with_another_implementation(&backend);
                }
            }

            #[test]
            fn aes() {
                if let Some(backend) = backend() {
                    super::backend::aes(&backend);
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
            fn a_page_is_read_once() {
                if let Some(backend) = backend() {
                    assert_eq!(torn(&backend), 0);
                    assert_ne!(torn(&Twice(backend)), 0, "the test notices nothing");
                }
            }

            #[test]
            fn exported_functions_on_a_misaligned_stack() {
                if backend().is_some() {
                    misaligned($encrypt as Entry, $encrypt_from as Entry, $decrypt as Entry);
                }
            }
        }
    };
}

tests!(
    aesni,
    AesNi,
    vmc_simd_aesni_encrypt,
    vmc_simd_aesni_encrypt_from,
    vmc_simd_aesni_decrypt
);
tests!(
    halves,
    Halves,
    vmc_simd_halves_encrypt,
    vmc_simd_halves_encrypt_from,
    vmc_simd_halves_decrypt
);
tests!(
    avx2,
    Avx2,
    vmc_simd_avx2_encrypt,
    vmc_simd_avx2_encrypt_from,
    vmc_simd_avx2_decrypt
);
tests!(
    avx512,
    Avx512,
    vmc_simd_avx512_encrypt,
    vmc_simd_avx512_encrypt_from,
    vmc_simd_avx512_decrypt
);

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

/// Pages of many that do not come back as what was read, though the page was written all the time but for its first
/// block. Decryption gives back the tag in any case: what was hashed and not stored is found in the first block.
fn torn(backend: &impl Backend) -> usize {
    const WRITES: usize = 500;
    /// Reader and writer need a CPU each.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    let mut random = Random(3);
    let (key, tweak) = (random.key(), random.tweak());
    let page: SharedPage = std::array::from_fn(|_| std::array::from_fn(|_| random.next().into()));
    let first = page[0]
        .each_ref()
        .map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut value = 0u64;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
                page[1..]
                    .as_flattened()
                    .iter()
                    .for_each(|word| word.store(value, Ordering::Relaxed));
            }
        });
        let (mut torn, mut mixed, mut last) = (0, 0, [0; 8]);
        let begin = std::time::Instant::now();
        // Pages that are not of one write, and not that of the time before, were read while somebody wrote.
        while mixed < WRITES && begin.elapsed().as_secs() < 20 {
            let mut copy = [0; 4096];
            let tag = encrypt_page_from(backend, &key, &tweak, &page, &mut copy);
            assert_eq!(decrypt_page(backend, &key, &tweak, &mut copy), tag);
            torn += usize::from(copy[..16] != *first.as_flattened());
            mixed += usize::from(copy[16..24] != copy[4088..] && copy[4088..] != last);
            last.copy_from_slice(&copy[4088..]);
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(mixed, WRITES, "nobody wrote meanwhile");
        eprintln!("{torn} of {mixed}");
        torn
    })
}

/// Hashes one copy and stores another.
struct Twice<B>(B);

impl<B: Backend> Backend for Twice<B> {
    fn encrypt_block(&self, key: &AesKey, block: &mut Block) {
        self.0.encrypt_block(key, block);
    }
    fn decrypt_block(&self, key: &AesKey, block: &mut Block) {
        self.0.decrypt_block(key, block);
    }
    fn hash(&self, key: &HashKey, acc: &mut Block, blocks: &[Block]) {
        self.0.hash(key, acc, blocks);
    }
    fn copy_then_hash(
        &self,
        key: &HashKey,
        first: &Block,
        from: &SharedPage,
        to: &mut [Block; 256],
    ) -> Block {
        self.0.copy_then_hash(key, first, from, to);
        self.0.copy_then_hash(key, first, from, &mut [[0; 16]; 256])
    }
    fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
        self.0.xctr_then_hash(keys, start, acc, blocks);
    }
}

/// A function of `(*const PageKey, *const Tweak, *mut Page, *mut PageTag)`, which may take a `*const Page` besides.
type Entry = *const ();

/// Calls `entry` with a stack pointer that is off by 8 from what the ABI promises, as Xen's may be, and checks that
/// what the ABI calls preserved is preserved.
fn call_misaligned(
    entry: Entry,
    (key, tweak): (&PageKey, &Tweak),
    page: &mut Page,
    tag: &mut PageTag,
    from: &Frame,
) {
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
            in("r8") from,
            out("r12") before,
            out("r13") _,
            out("r14") after,
            clobber_abi("C"),
        );
    }
    assert_eq!(before, after);
}

/// A page that others may write; it is read through its address.
#[repr(align(8))]
struct Frame(#[expect(dead_code)] Page);

fn misaligned(encrypt: Entry, encrypt_from: Entry, decrypt: Entry) {
    let mut random = Random(2);
    for _ in 0..50 {
        let (key, tweak, plain) = (random.key(), random.tweak(), random.page());
        let (mut page, mut expected, from) = (plain, plain, Frame(plain));
        let keys = (&key, &tweak);
        let (mut tag, mut back) = (PageTag::default(), PageTag::default());
        call_misaligned(encrypt, keys, &mut page, &mut tag, &from);
        assert_eq!(tag, encrypt_page(&Portable, &key, &tweak, &mut expected));
        assert_eq!(page, expected);
        let mut copy = random.page();
        call_misaligned(encrypt_from, keys, &mut copy, &mut back, &from);
        assert_eq!((copy, back), (page, tag));
        call_misaligned(decrypt, keys, &mut page, &mut back, &from);
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
