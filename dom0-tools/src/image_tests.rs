use memchr::memmem;
use proptest::prelude::*;
use vmcrypt_core::ids::{KeyId, SessionId};

use super::*;

/// Writes the image of a small PV guest.
struct Builder(Vec<u8>);

impl Builder {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn xl(mut self) -> Self {
        self.0.extend(xl::MAGIC);
        for field in [xl::BYTE_ORDER, 3, 0, 14, 10] {
            self.0.extend(field.to_le_bytes());
        }
        self.0.extend(b"{\"c\": \"x\"}");
        self
    }

    fn libxl(mut self) -> Self {
        self.0.extend(libxl::MAGIC);
        self.0.extend(2u32.to_be_bytes());
        self.0.extend(0u32.to_be_bytes());
        self.record(libxl::LIBXC_CONTEXT, &[])
    }

    fn libxc(mut self) -> Self {
        self.0.extend(libxc::MARKER);
        self.0.extend(libxc::ID.to_be_bytes());
        self.0.extend(3u32.to_be_bytes());
        self.0.extend([0; 8]);
        for field in [1, 12, 4, 20u32] {
            self.0.extend(field.to_le_bytes());
        }
        let p2m: Vec<u8> = [0u32, 1023].iter().flat_map(|n| n.to_le_bytes()).collect();
        let frames: Vec<u8> = [20u64, 21].iter().flat_map(|n| n.to_le_bytes()).collect();
        self.record(libxc::X86_PV_INFO, &[8, 4, 0, 0, 0, 0, 0, 0])
            .record(libxc::X86_PV_P2M_FRAMES, &[p2m, frames].concat())
    }

    fn record(mut self, kind: u32, body: &[u8]) -> Self {
        self.0.extend(kind.to_le_bytes());
        self.0.extend((body.len() as u32).to_le_bytes());
        self.0.extend(body);
        self.0
            .extend(vec![0; body.len().next_multiple_of(8) - body.len()]);
        self
    }

    fn pages(self, pages: &[(u64, u64, Option<[u8; PAGE]>)]) -> Self {
        let mut body = (pages.len() as u64).to_le_bytes().to_vec();
        for (kind, pfn, _) in pages {
            body.extend((kind << 60 | pfn).to_le_bytes());
        }
        for (_, _, content) in pages {
            body.extend(content.iter().flatten());
        }
        self.record(libxc::PAGE_DATA, &body)
    }

    fn vcpu0(self, sealed: bool) -> Self {
        let mut basic = vec![0; 8 + 5168];
        basic[8 + pv::RDX] = 5;
        basic[8 + pv::GDT_ENTS] = 8;
        basic[8 + pv::GDT_FRAMES] = 6;
        let mut xsave = vec![0; 8 + 16 + 576];
        if sealed {
            let header = Header {
                total: xsave.len() as u64 - 8,
                key: KeyId([0xab; 16]),
                session: SessionId([0xcd; 16]),
                epoch: 7,
                sequence: 3,
            };
            header.write(&mut xsave[8..]).expect("room");
        }
        self.record(libxc::X86_PV_VCPU_BASIC, &basic)
            .record(libxc::X86_PV_VCPU_XSAVE, &xsave)
    }

    fn end(self) -> Vec<u8> {
        self.record(libxc::END, &[]).record(libxl::END, &[]).0
    }
}

fn text(what: &str) -> [u8; PAGE] {
    let mut page = [b' '; PAGE];
    page[100..100 + what.len()].copy_from_slice(what.as_bytes());
    page
}

fn noise(seed: u64) -> [u8; PAGE] {
    let mut x = seed;
    std::array::from_fn(|_| {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    })
}

fn start_info() -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..14].copy_from_slice(b"xen-3.0-x86_64");
    page[pv::STORE_MFN] = 7;
    page[pv::CONSOLE_MFN] = 8;
    page
}

/// Every class once or more, the secret twice: on page 2 and across pages 3 and 9.
fn image(sealed: bool) -> Vec<u8> {
    let mut head = noise(3);
    head[PAGE - 3..].copy_from_slice(b"sec");
    let mut tail = text("");
    tail[..3].copy_from_slice(b"ret");
    Builder::new()
        .xl()
        .libxl()
        .libxc()
        .pages(&[
            (0, 0, Some(noise(1))),
            (0, 1, Some([0; PAGE])),
            (0, 2, Some(text("a secret"))),
        ])
        .pages(&[
            (0, 3, Some(head)),
            (0, 9, Some(tail)),
            (15, 4, None),
            (0, 5, Some(start_info())),
        ])
        .pages(&[
            (0, 6, Some(text("gdt"))),
            (0, 7, Some(text("ring"))),
            (0, 8, Some([0; PAGE])),
        ])
        .pages(&[
            (9, 10, Some(text("l1"))),
            (4, 11, Some(text("l4"))),
            (0, 20, Some(text("p2m"))),
        ])
        .vcpu0(sealed)
        .end()
}

fn read(image: &[u8]) -> Report {
    let needles = Needles::new([b"secret".to_vec()]).unwrap();
    inspect(image, &needles).unwrap()
}

#[test]
fn every_class_is_told_apart() {
    let image = image(true);
    let report = read(&image);
    assert_eq!(report.defect, None);
    assert_eq!(report.kind, Some(Kind::XlSaved));
    assert_eq!(
        report.domain,
        Some(Domain {
            pv: true,
            word: 8,
            xen_major: 4,
            xen_minor: 20
        })
    );
    assert_eq!(
        (report.vcpus, report.bytes, report.trailing_bytes),
        (1, image.len() as u64, 0)
    );
    let expected = Pages {
        random: 2,
        page_tables: [1, 0, 0, 1],
        pinned: 1,
        p2m: 1,
        descriptor: 1,
        start_info: 1,
        ring: 2,
        zero: 1,
        other: 2,
        without_content: 1,
        with_needle: 2,
    };
    assert_eq!(report.pages, expected);
    assert_eq!((report.pages_sent, report.pages.total()), (12, 12));
    assert_eq!(
        report.needles,
        Tally {
            needles: 1,
            needles_found: 1,
            occurrences: 2
        }
    );
    assert_eq!(
        (report.occurrences_outside_pages, &report.first_pfns[..]),
        (0, &[2, 9][..])
    );
    assert_eq!(report.map.to_runs(), "1r1z1n1r1a4k1n2t8a1k");

    let sealed = report.sealed_record.expect("a sealed record");
    assert!(Header::is_record(&image[sealed.offset as usize..]));
    assert_eq!((sealed.bytes, sealed.sequence, sealed.refusal), (592, 3, None));
    assert_eq!(
        (sealed.key_id, sealed.session),
        ("ab".repeat(16), "cd".repeat(16))
    );
    let last = report.records.last().expect("records");
    assert_eq!((last.name, last.offset), ("libxl END", image.len() as u64 - 8));
}

#[test]
fn stock_images_carry_no_sealed_record() {
    assert_eq!(read(&image(false)).sealed_record, None);
}

#[test]
fn a_sealed_record_of_the_wrong_size_is_named() {
    let mut image = image(true);
    let at = read(&image).sealed_record.expect("a sealed record").offset as usize;
    image[at + 24] ^= 1;
    let sealed = read(&image).sealed_record.expect("a sealed record");
    assert_eq!(sealed.refusal, Some(Refusal::RecordSize.text()));
}

/// One that no hypervisor of today would take is described all the same.
#[test]
fn version_and_cipher_of_a_sealed_record_are_told() {
    let mut image = image(true);
    let sealed = read(&image).sealed_record.expect("a sealed record");
    assert_eq!((sealed.version, sealed.cipher, sealed.epoch), (2, 1, 7));
    let at = sealed.offset as usize;
    for (offset, version, cipher, why) in [
        (8, 9, 1, Refusal::RecordVersion),
        (12, 2, 9, Refusal::RecordCipher),
    ] {
        let was = std::mem::replace(&mut image[at + offset], 9);
        let sealed = read(&image).sealed_record.expect("a sealed record");
        assert_eq!((sealed.version, sealed.cipher), (version, cipher));
        assert_eq!(sealed.refusal, Some(why.text()));
        image[at + offset] = was;
    }
}

#[test]
fn wire_and_inner_streams_are_read_too() {
    let whole = image(false);
    let wire = [xl::BANNER, &whole, b"domain is yours, you are cleared to unpause"].concat();
    let report = read(&wire);
    assert_eq!(
        (report.kind, report.defect, report.trailing_bytes),
        (Some(Kind::XlReceiver), None, 43)
    );
    assert_eq!(report.pages, read(&whole).pages);

    let libxl = memmem::find(&whole, libxl::MAGIC).unwrap();
    assert_eq!(
        (read(&whole[libxl..]).kind, read(&whole[libxl..]).defect),
        (Some(Kind::Libxl), None)
    );
    let libxc = memmem::find(&whole, &libxc::MARKER).unwrap();
    assert_eq!(
        (read(&whole[libxc..]).kind, read(&whole[libxc..]).defect),
        (Some(Kind::Libxc), None)
    );
}

#[test]
fn a_checkpointed_stream_goes_on_after_libxl_records() {
    let image = Builder::new()
        .xl()
        .libxl()
        .libxc()
        .pages(&[(0, 0, Some(noise(1)))])
        .record(libxc::CHECKPOINT, &[])
        .record(libxl::CHECKPOINT_END, &[])
        .pages(&[(0, 0, Some(noise(2)))])
        .end();
    let report = read(&image);
    assert_eq!(
        (report.defect, report.pages_sent, report.pages.total()),
        (None, 2, 1)
    );
}

#[test]
fn a_needle_outside_of_pages_is_found() {
    let image = Builder::new().xl().libxl().libxc().record(9, b"the secret").end();
    let report = read(&image);
    assert_eq!(
        (report.needles.occurrences, report.occurrences_outside_pages),
        (1, 1)
    );
}

#[test]
fn damage_is_named_and_the_search_goes_on() {
    let mut foreign = vec![b'#'; 10_000];
    foreign[9_000..9_006].copy_from_slice(b"secret");
    let report = read(&foreign);
    assert_eq!(
        (report.defect, report.needles.occurrences),
        (Some(Defect::Foreign), 1)
    );

    let damaged = |image: Vec<u8>| match read(&image).defect {
        Some(Defect::Damaged { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let start = || Builder::new().xl().libxl().libxc();
    assert!(damaged(start().pages(&[(5, 0, None)]).end()).contains("unknown type 0x5"));
    assert!(damaged(start().pages(&[(0, 1024, Some(noise(1)))]).end()).contains("outside"));
    assert!(damaged(start().pages(&[(15, 1 << 52, None)]).end()).contains("outside"));
    assert!(damaged(start().pages(&[(0, 1, None)]).end()).contains("sizes disagree"));
    assert!(damaged(start().record(0x13, &[]).end()).contains("unknown type 0x13"));
    assert!(damaged(start().record(libxc::PAGE_DATA, &[0xff; 64]).end()).contains("cannot list"));
    let mut long = start();
    long.0.extend([1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert!(damaged(long.0).contains("128 MiB"));
    assert_eq!(read(&start().record(1 << 31, b"skip me").end()).defect, None);
}

#[test]
fn every_truncation_is_reported_as_one() {
    let image = image(true);
    let mut shown = String::new();
    for length in (0..image.len()).step_by(7).chain(image.len() - 9..image.len()) {
        match read(&image[..length]).defect {
            Some(ref defect @ Defect::Truncated { at, missing, .. }) => {
                assert_eq!(at, length as u64);
                assert!(missing > 0);
                shown = defect.to_string();
            }
            other => panic!("cut at {length}: {other:?}"),
        }
    }
    assert!(shown.contains("short of a libxl record header"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the bytes are: no panic, nothing lost, memory bounded by the file.
    #[test]
    fn mutations_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..3),
        cut in any::<prop::sample::Index>(),
        cut_it in any::<bool>(),
    ) {
        let mut image = image(true);
        // Headers are where parsers break: spend the mutations on everything but page contents.
        let heads: Vec<usize> = (0..image.len()).filter(|&at| image[at] != b' ').collect();
        for (at, byte) in flips {
            let at = *at.get(&heads);
            image[at] = byte;
        }
        for (at, word) in words {
            let at = at.get(&heads) & !3;
            let end = (at + 4).min(image.len());
            image[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
        }
        if cut_it {
            image.truncate(cut.index(image.len()));
        }
        let report = read(&image);
        prop_assert_eq!(report.bytes, image.len() as u64);
        prop_assert!(report.pages.total() <= report.pages_sent);
        prop_assert!(report.map.0.len() <= image.len() * 64);
    }

    #[test]
    fn noise_after_a_good_head_never_panics(head in 0usize..400, garbage in prop::collection::vec(any::<u8>(), 0..600)) {
        let image = [&image(true)[..head], &garbage].concat();
        prop_assert_eq!(read(&image).bytes, image.len() as u64);
    }
}
