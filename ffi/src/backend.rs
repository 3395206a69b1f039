//! The page cipher by one backend or another.

use vmcrypt_core::cipher::{self, Page, PageKey, PageTag, Portable, SharedPage, Tweak};
use vmcrypt_core::known_answer;

use crate::domain::{VmcDomain, locked};
use crate::{host, stack};

/// Whether a backend gives the known answer on this CPU. The domain is one that was never used, and is of no use
/// afterwards but for another such test; `page` is zero, before and after; what `copy` holds does not matter.
///
/// # Safety
/// `domain` went through [`vmc_domain_init`](crate::domain::vmc_domain_init); nobody else reaches it or the pages,
/// which are aligned as pages are; the CPU is capable of the backend and the vector registers are held if it uses them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_backend_passes(
    backend: u32,
    domain: *mut VmcDomain,
    page: *mut Page,
    copy: *mut Page,
) -> bool {
    // SAFETY: by the caller's promise.
    let (domain, page, copy) = unsafe { (locked(domain), &mut *page, &mut *copy) };
    stack::wiped(|| {
        known_answer::passes(
            &mut domain.keys,
            page,
            copy,
            |key, tweak, page| {
                // SAFETY: by the caller's promise; the page is a reference.
                tagged(|tag| unsafe { encrypt(backend, key, tweak, page, tag) })
            },
            |key, tweak, page, copy| {
                // SAFETY: the same.
                tagged(|tag| unsafe { encrypt_from(backend, key, tweak, page, copy, tag) })
            },
            |key, tweak, page| {
                // SAFETY: the same.
                tagged(|tag| unsafe { decrypt(backend, key, tweak, page, tag) })
            },
        )
    })
}

fn tagged(crypt: impl FnOnce(&mut PageTag)) -> PageTag {
    let mut tag = PageTag::default();
    crypt(&mut tag);
    tag
}

/// Not inlined, and gives the tag where it is wanted: the caller wipes what is left below its own frame, and nothing in it.
///
/// # Safety
/// `page` is valid and nobody else reaches it; the vector registers are held if the backend uses them.
#[inline(never)]
pub(crate) unsafe fn encrypt(backend: u32, key: &PageKey, tweak: &Tweak, page: *mut Page, tag: &mut PageTag) {
    // SAFETY: by the caller's promise.
    unsafe {
        match backend {
            host::VMC_BACKEND_AVX512 => simd::vmc_simd_avx512_encrypt(key, tweak, page, tag),
            host::VMC_BACKEND_AVX2 => simd::vmc_simd_avx2_encrypt(key, tweak, page, tag),
            host::VMC_BACKEND_HALVES => simd::vmc_simd_halves_encrypt(key, tweak, page, tag),
            host::VMC_BACKEND_AESNI => simd::vmc_simd_aesni_encrypt(key, tweak, page, tag),
            _ => *tag = cipher::encrypt_page(&Portable, key, tweak, &mut *page),
        }
    }
}

/// # Safety
/// As for [`encrypt`]; `from` is aligned to 8 bytes, and others may write it.
#[inline(never)]
pub(crate) unsafe fn encrypt_from(
    backend: u32,
    key: &PageKey,
    tweak: &Tweak,
    from: *const Page,
    page: *mut Page,
    tag: &mut PageTag,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match backend {
            host::VMC_BACKEND_AVX512 => simd::vmc_simd_avx512_encrypt_from(key, tweak, page, tag, from),
            host::VMC_BACKEND_AVX2 => simd::vmc_simd_avx2_encrypt_from(key, tweak, page, tag, from),
            host::VMC_BACKEND_HALVES => simd::vmc_simd_halves_encrypt_from(key, tweak, page, tag, from),
            host::VMC_BACKEND_AESNI => simd::vmc_simd_aesni_encrypt_from(key, tweak, page, tag, from),
            _ => {
                let from = &*from.cast::<SharedPage>();
                *tag = cipher::encrypt_page_from(&Portable, key, tweak, from, &mut *page);
            }
        }
    }
}

/// # Safety
/// As for [`encrypt`].
#[inline(never)]
pub(crate) unsafe fn decrypt(backend: u32, key: &PageKey, tweak: &Tweak, page: *mut Page, tag: &mut PageTag) {
    // SAFETY: by the caller's promise.
    unsafe {
        match backend {
            host::VMC_BACKEND_AVX512 => simd::vmc_simd_avx512_decrypt(key, tweak, page, tag),
            host::VMC_BACKEND_AVX2 => simd::vmc_simd_avx2_decrypt(key, tweak, page, tag),
            host::VMC_BACKEND_HALVES => simd::vmc_simd_halves_decrypt(key, tweak, page, tag),
            host::VMC_BACKEND_AESNI => simd::vmc_simd_aesni_decrypt(key, tweak, page, tag),
            _ => *tag = cipher::decrypt_page(&Portable, key, tweak, &mut *page),
        }
    }
}

/// Clears the vector registers that a backend uses.
///
/// # Safety
/// The vector registers are held by that backend, and what was in them is not needed any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmc_backend_wipe(backend: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        match backend {
            host::VMC_BACKEND_AVX512 => simd::vmc_simd_avx512_wipe(),
            host::VMC_BACKEND_AVX2 | host::VMC_BACKEND_HALVES => simd::vmc_simd_avx2_wipe(),
            host::VMC_BACKEND_AESNI => simd::vmc_simd_aesni_wipe(),
            _ => (),
        }
    }
}

// The header's generator reads that comment; these functions are not C's to call.
#[allow(unused_doc_comments)]
mod simd {
    use super::{Page, PageKey, PageTag, Tweak};

    macro_rules! backends {
        ($($name:ident)*; $($from:ident)*) => {
            /// cbindgen:ignore
            unsafe extern "C" {
                $(pub fn $name(key: *const PageKey, tweak: *const Tweak, page: *mut Page, tag: *mut PageTag);)*
                $(pub fn $from(key: *const PageKey, tweak: *const Tweak, page: *mut Page, tag: *mut PageTag, from: *const Page);)*
            }
        };
    }
    backends! {
        vmc_simd_aesni_encrypt vmc_simd_aesni_decrypt
        vmc_simd_halves_encrypt vmc_simd_halves_decrypt
        vmc_simd_avx2_encrypt vmc_simd_avx2_decrypt
        vmc_simd_avx512_encrypt vmc_simd_avx512_decrypt;
        vmc_simd_aesni_encrypt_from vmc_simd_halves_encrypt_from
        vmc_simd_avx2_encrypt_from vmc_simd_avx512_encrypt_from
    }

    /// cbindgen:ignore
    unsafe extern "C" {
        pub fn vmc_simd_aesni_wipe();
        pub fn vmc_simd_avx2_wipe();
        pub fn vmc_simd_avx512_wipe();
    }

    // On a development host the backends come in as a crate; for Xen they are linked as an object.
    #[cfg(not(vmc_bare))]
    use vmcrypt_simd as _;
}
