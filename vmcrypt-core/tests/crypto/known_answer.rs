//! The test that Xen makes at boot: what passes it, and that nothing else does.

use hctr2_rs::Hctr2_256;
use hkdf::Hkdf;
use sha2::Sha256;
use vmcrypt_core::cipher::{Page, PageKey, PageTag, Portable, Tweak, decrypt_page, encrypt_page};
use vmcrypt_core::keys::SessionKeys;
use vmcrypt_core::known_answer;

const ZERO: Page = [0; 4096];

fn encrypt(key: &PageKey, tweak: &Tweak, page: &mut Page) -> PageTag {
    encrypt_page(&Portable, key, tweak, page)
}

fn decrypt(key: &PageKey, tweak: &Tweak, page: &mut Page) -> PageTag {
    decrypt_page(&Portable, key, tweak, page)
}

fn passes(
    page: &mut Page,
    encrypt: impl Fn(&PageKey, &Tweak, &mut Page) -> PageTag,
    decrypt: impl Fn(&PageKey, &Tweak, &mut Page) -> PageTag,
) -> bool {
    let encrypt_from = |key: &PageKey, tweak: &Tweak, from: &Page, to: &mut Page| {
        *to = *from;
        encrypt(key, tweak, to)
    };
    copy_passes(page, &encrypt, encrypt_from, decrypt)
}

fn copy_passes(
    page: &mut Page,
    encrypt: impl Fn(&PageKey, &Tweak, &mut Page) -> PageTag,
    encrypt_from: impl Fn(&PageKey, &Tweak, &Page, &mut Page) -> PageTag,
    decrypt: impl Fn(&PageKey, &Tweak, &mut Page) -> PageTag,
) -> bool {
    let (keys, mut copy) = (&mut SessionKeys::empty(), [0x55; 4096]);
    known_answer::passes(keys, page, &mut copy, encrypt, encrypt_from, decrypt)
}

#[test]
fn portable_passes() {
    let mut page = ZERO;
    assert!(passes(&mut page, encrypt, decrypt));
    assert_eq!(page, ZERO);
}

/// Keys by the crate `hkdf`, pages by the crate `hctr2-rs`; tags, which are this project's own, are those of the
/// portable backend, which must not have been given another page.
#[test]
fn an_independent_implementation_passes() {
    let mut secret = [0; 64];
    Hkdf::<Sha256>::new(Some(&[0xa5; 16]), &[0x4b; 32])
        .expand(b"vmcrypt/2 cipher 1 page and tag", &mut secret)
        .expect("short enough");
    let oracle = Hctr2_256::new(&secret[..32]);
    let bytes = |tweak: &Tweak| {
        let (pfn, kind) = (tweak.pfn.0.to_le_bytes(), tweak.kind.0.to_le_bytes());
        [&tweak.session.0[..], &pfn, &kind].concat()
    };
    let tag = |tweak: &Tweak, page: &Page| {
        let mut key = PageKey::empty();
        key.set(&secret);
        encrypt(&key, tweak, &mut page.clone())
    };
    let passed = passes(
        &mut ZERO.clone(),
        |_, tweak, page| {
            let plain = *page;
            oracle.encrypt(&plain, &bytes(tweak), page).expect("long enough");
            tag(tweak, &plain)
        },
        |_, tweak, page| {
            let cipher = *page;
            oracle.decrypt(&cipher, &bytes(tweak), page).expect("long enough");
            tag(tweak, page)
        },
    );
    assert!(passed);
}

/// Each detector alone: what goes in, what comes out, both tags, and the way back.
#[test]
#[cfg_attr(miri, ignore = "seventy pages")]
fn one_wrong_bit_anywhere_fails() {
    let mut page = ZERO;
    page[4095] = 0x80;
    assert!(!passes(&mut page, encrypt, decrypt));
    for byte in [0, 15, 16, 2048, 4095] {
        // Wrong both ways, so that the page comes back all the same.
        let wrong = |key: &PageKey, tweak: &Tweak, page: &mut Page| {
            let tag = encrypt(key, tweak, page);
            page[byte] ^= 1;
            tag
        };
        let back = |key: &PageKey, tweak: &Tweak, page: &mut Page| {
            page[byte] ^= 1;
            decrypt(key, tweak, page)
        };
        assert!(!passes(&mut ZERO.clone(), wrong, back), "byte {byte}");
        assert!(!passes(&mut ZERO.clone(), encrypt, back), "byte {byte}");
    }
    let wrong_tag = |crypt: fn(&PageKey, &Tweak, &mut Page) -> PageTag, pfn: u64| {
        move |key: &PageKey, tweak: &Tweak, page: &mut Page| {
            let mut tag = crypt(key, tweak, page);
            tag.0[7] ^= u8::from(tweak.pfn.0 == pfn);
            tag
        }
    };
    for pfn in [0, 1 << 40] {
        assert!(!passes(&mut ZERO.clone(), wrong_tag(encrypt, pfn), decrypt));
        assert!(!passes(&mut ZERO.clone(), encrypt, wrong_tag(decrypt, pfn)));
        // Both tags alike.
        let both = (wrong_tag(encrypt, pfn), wrong_tag(decrypt, pfn));
        assert!(!passes(&mut ZERO.clone(), both.0, both.1));
    }
}

/// The copy alone: of a page that differs in a bit, of what is not there, of nothing at all, and onto the page itself.
#[test]
fn a_wrong_copy_fails() {
    let copy = |change: fn(&mut Page)| {
        move |key: &PageKey, tweak: &Tweak, from: &Page, to: &mut Page| {
            *to = *from;
            change(to);
            encrypt(key, tweak, to)
        }
    };
    let with = |change| copy_passes(&mut ZERO.clone(), encrypt, copy(change), decrypt);
    assert!(with(|_| ()));
    assert!(!with(|page| page[0] ^= 1));
    assert!(!with(|page| page[4095] ^= 0x80));
    assert!(!with(|page| page.fill(0)));
    let stays = |key: &PageKey, tweak: &Tweak, _: &Page, to: &mut Page| encrypt(key, tweak, to);
    assert!(!copy_passes(&mut ZERO.clone(), encrypt, stays, decrypt));
    let nothing = |_: &PageKey, _: &Tweak, _: &Page, _: &mut Page| PageTag::default();
    assert!(!copy_passes(&mut ZERO.clone(), encrypt, nothing, decrypt));
}

/// Nothing at all is what a backend that was left out would do.
#[test]
fn a_cipher_that_does_nothing_fails() {
    let nothing = |_: &PageKey, _: &Tweak, _: &mut Page| PageTag::default();
    assert!(!passes(&mut ZERO.clone(), nothing, nothing));
}
