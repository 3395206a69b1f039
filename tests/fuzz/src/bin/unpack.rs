//! A kernel file, packed in any of the ways that are known: raw, and a good one changed where and how the input says. The good
//! ones unpack to what was packed.

#![no_main]

use std::io::Write;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vmcrypt_tools::measure::unpack::kernel;

/// The same image, packed in every way.
static GOOD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let image = [b"\x7fELF".as_slice(), &[7; 300], b"the end"].concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&image).expect("packs");
    let gzip = gzip.finish().expect("packs");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&image).expect("packs");
    let options = liblzma::stream::LzmaOptions::new_preset(1).expect("a preset");
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("an encoder");
    let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    lzma.write_all(&image).expect("packs");
    let zstd = ruzstd::encoding::compress_to_vec(&*image, ruzstd::encoding::CompressionLevel::Fastest);
    let block = lz4_flex::block::compress(&image);
    let lz4 = [
        b"\x02\x21\x4c\x18",
        &(block.len() as u32).to_le_bytes()[..],
        &block,
    ]
    .concat();
    let sized = |packed: Vec<u8>| [&packed[..], &(image.len() as u32).to_le_bytes()].concat();
    let files = [
        gzip.clone(),
        bzimage(&gzip),
        bzimage(&sized(xz.finish().expect("packs"))),
        bzimage(&sized(lzma.finish().expect("packs"))),
        bzimage(&sized(zstd)),
        bzimage(&sized(lz4)),
    ];
    for file in &files {
        assert_eq!(*kernel(file).expect("unpacks"), *image);
    }
    files.into()
});

fuzz_target!(|bytes: &[u8]| {
    _ = kernel(bytes);
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    let mut changed = GOOD[usize::from(*which) % GOOD.len()].clone();
    // What is packed, replaced from some place on.
    if let Some((at, rest)) = rest.split_first().filter(|_| *which >= 128) {
        let at = changed.len().saturating_sub(usize::from(*at));
        changed.truncate(at);
        changed.extend_from_slice(rest);
        if let Some(length) = changed.len().checked_sub(1024) {
            changed[0x24c..0x250].copy_from_slice(&(length as u32).to_le_bytes());
        }
    } else {
        for change in rest.as_chunks::<3>().0.iter().take(16) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
            changed[at] ^= change[2];
        }
    }
    _ = kernel(&changed);
});

/// A bzImage whose payload stands behind its two sectors of setup code.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(payload);
    file
}
