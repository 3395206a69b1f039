//! Committed images of each format version, opened without Xen: by today's formats, with the portable cipher.
//!
//! That Xen restores them is for the end-to-end case `image-formats` to say.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use vmcrypt_core::cipher::{PAGE_SIZE, PageKind, Portable, Tweak, decrypt_page};
use vmcrypt_core::keys::SessionKeys;
use vmcrypt_core::record::{Facts, HEADER, Header, TAG};
use vmcrypt_core::seal::{Opener, SealTag};
use vmcrypt_core::sethash::SetHash;
use vmcrypt_core::{Pfn, PfnSet};
use vmcrypt_tamper::stream::{Stream, kind};
use vmcrypt_tools::owner::OwnerKey;

/// The owner and the domain of all of them, as in the case.
const OWNER: &[u8] = b"vmcrypt-owner-2 5555555555555555555555555555555555555555555555555555555555555555\n";

/// Opens the record; the digest in it, that of the decrypted pages, and how many these are.
fn open(format: &str, change: impl Fn(&mut Stream)) -> (SetHash, SetHash, usize) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../images/{format}.img"));
    let mut stream = Stream::parse(std::fs::read(file).expect("an image")).expect("a whole one");
    change(&mut stream);
    let body = stream.first(kind::VCPU_XSAVE).expect("a sealed record").body;
    let mut record = stream.bytes[body.start + 8..body.end].to_vec();
    let header = Header::read(&record).expect("a record of a version that is known");

    let owner = OwnerKey::from_text(OWNER).expect("a key");
    let uuid = 0x0f1e_2d3c_4b5a_6978_8796_a5b4_c3d2_e1f0_u128.to_be_bytes();
    let root = owner.root(&uuid, header.epoch);
    assert_eq!(root.key_id(), header.key, "it is under the owner's key");
    let mut keys = SessionKeys::empty();
    keys.derive(&root, &header.session);

    let (clear, rest) = record.split_at_mut(HEADER);
    let (sealed, tag) = rest.split_last_chunk_mut::<TAG>().expect("a tag");
    let mut opener = Opener::empty();
    opener.begin(keys.record(), header.sequence, clear);
    opener.check(sealed);
    opener.verify(&SealTag(*tag)).expect("the record is genuine");
    opener.open(sealed).expect("all of it");
    let facts = Facts::read(&record).expect("facts");
    assert_eq!(facts.uuid, uuid);

    let words: Vec<AtomicU64> = (0..PfnSet::words_for(facts.pfns))
        .map(|_| AtomicU64::new(0))
        .collect();
    let plain = PfnSet::new(&words);
    facts.read_plain(&record, plain).expect("a set of plain pages");
    let (mut digest, mut private) = (SetHash::EMPTY, 0);
    for page in stream.pages().expect("pages") {
        if plain.contains(Pfn(page.pfn)) {
            continue;
        }
        let mut content = [0; PAGE_SIZE];
        content.copy_from_slice(&stream.bytes[page.at..page.at + PAGE_SIZE]);
        let tweak = Tweak {
            session: header.session,
            pfn: Pfn(page.pfn),
            kind: PageKind::PRIVATE,
        };
        digest.add(&decrypt_page(&Portable, keys.page(), &tweak, &mut content));
        private += 1;
    }
    (facts.digests.private, digest, private)
}

#[test]
fn the_image_of_version_2_opens() {
    let (recorded, found, pages) = open("v2-c1", |_| ());
    assert!(recorded == found, "every private page is the one that left");
    assert!(pages > 1400, "{pages} private pages");
    let flipped = open("v2-c1", |stream| {
        let at = stream.pages().expect("pages")[700].at;
        stream.bytes[at + 99] ^= 0x10;
    });
    assert!(flipped.0 == recorded && flipped.1 != recorded, "one bit is seen");
}
