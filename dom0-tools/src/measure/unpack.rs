//! From a kernel file to the ELF image in it, as `xg_dom_bzimageloader.c` does it.

use std::borrow::Cow;
use std::io::Read;

use liblzma::stream::Stream;

use super::Error;

/// `XC_DOM_DECOMPRESS_MAX`.
const LARGEST: usize = 1 << 30;
/// `LZMA_BLOCK_SIZE`, which bounds what a file may ask the decoder to allocate.
const LZMA_MEMORY: u64 = 256 << 20;

/// The ELF image in a kernel file.
pub fn kernel(file: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    let file = match file.starts_with(GZIP) {
        true => Cow::Owned(inflate(file)?),
        false => Cow::Borrowed(file),
    };
    if file.starts_with(b"\x7fELF") {
        return Ok(file);
    }
    let payload = payload(&file)?;
    Ok(Cow::Owned(match payload {
        _ if payload.starts_with(GZIP) => inflate(payload)?,
        _ if payload.starts_with(b"\xfd7zXZ") => {
            lzma(payload, Stream::new_stream_decoder(LZMA_MEMORY, 0), "xz")?
        }
        _ if payload.starts_with(b"\x5d\0") => lzma(payload, Stream::new_lzma_decoder(LZMA_MEMORY), "lzma")?,
        _ if payload.starts_with(b"\x28\xb5\x2f\xfd") => sized(payload, |packed| {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed)
                .map_err(|error| Error::Kernel(format!("it is packed by zstd and damaged: {error}")))?;
            read(decoder, "zstd")
        })?,
        _ if payload.starts_with(b"BZh") => return unsupported("bzip2"),
        _ if payload.starts_with(b"\x89LZO") => return unsupported("LZO"),
        _ if payload.starts_with(LZ4) => sized(payload, lz4)?,
        _ => {
            return Err(Error::Kernel(
                "it is packed in a way that Xen does not know, or not at all".into(),
            ));
        }
    }))
}

const GZIP: &[u8] = b"\x1f\x8b";
/// Of the legacy format, which is what Linux uses.
const LZ4: &[u8] = b"\x02\x21\x4c\x18";

/// What is packed in a bzImage. Offsets: Linux, `Documentation/arch/x86/boot.rst`.
fn payload(file: &[u8]) -> Result<&[u8], Error> {
    let word = |at: usize| {
        file.get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Err(Error::Kernel("it is neither an ELF file nor a bzImage".into()));
    }
    let version = file.get(0x206..0x208).map(|b| u16::from_le_bytes([b[0], b[1]]));
    if version < Some(0x208) {
        return Err(Error::Kernel("its boot protocol is older than 2.08".into()));
    }
    let sectors = usize::from(file[0x1f1]) + 1;
    let payload = word(0x248).zip(word(0x24c)).and_then(|(offset, length)| {
        let start = sectors * 512 + offset;
        file.get(start..start + length)
    });
    payload.ok_or_else(|| Error::Kernel("it is cut off".into()))
}

/// Linux puts the unpacked size behind what is packed.
fn sized(payload: &[u8], unpack: impl FnOnce(&[u8]) -> Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
    let (packed, size) = payload
        .split_last_chunk::<4>()
        .ok_or_else(|| Error::Kernel("it is cut off".into()))?;
    let unpacked = unpack(packed)?;
    if unpacked.len() != u32::from_le_bytes(*size) as usize {
        return Err(Error::Kernel("its unpacked size is not what it says".into()));
    }
    Ok(unpacked)
}

fn lzma(
    payload: &[u8],
    decoder: Result<Stream, liblzma::stream::Error>,
    what: &str,
) -> Result<Vec<u8>, Error> {
    let decoder = decoder.map_err(|error| Error::Kernel(format!("{what}: {error}")))?;
    sized(payload, |packed| {
        read(liblzma::read::XzDecoder::new_stream(packed, decoder), what)
    })
}

/// Blocks, each with its packed size before it: `xg_dom_decompress_lz4.c`.
fn lz4(packed: &[u8]) -> Result<Vec<u8>, Error> {
    /// What a block unpacks to at most.
    const BLOCK: usize = 8 << 20;
    let damaged = || Error::Kernel("it is packed by LZ4 and damaged".into());
    let mut rest = packed.strip_prefix(LZ4).ok_or_else(damaged)?;
    let mut unpacked = Vec::new();
    let mut buffer = vec![0; BLOCK];
    while let Some((size, blocks)) = rest.split_first_chunk::<4>() {
        rest = blocks;
        if size == LZ4 {
            continue;
        }
        let size = u32::from_le_bytes(*size) as usize;
        let (block, behind) = rest.split_at_checked(size).ok_or_else(damaged)?;
        let length = lz4_flex::block::decompress_into(block, &mut buffer).map_err(|_| damaged())?;
        unpacked.extend_from_slice(&buffer[..length]);
        if unpacked.len() > LARGEST {
            return Err(Error::Kernel("it unpacks to more than 1 GiB".into()));
        }
        rest = behind;
    }
    if rest.is_empty() {
        Ok(unpacked)
    } else {
        Err(damaged())
    }
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>, Error> {
    read(flate2::read::GzDecoder::new(packed), "gzip")
}

fn read(from: impl Read, what: &str) -> Result<Vec<u8>, Error> {
    let mut unpacked = Vec::new();
    from.take(LARGEST as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| Error::Kernel(format!("it is packed by {what} and damaged: {error}")))?;
    if unpacked.len() > LARGEST {
        return Err(Error::Kernel("it unpacks to more than 1 GiB".into()));
    }
    Ok(unpacked)
}

fn unsupported<T>(what: &str) -> Result<T, Error> {
    Err(Error::Kernel(format!(
        "it is packed by {what}, which this tool does not unpack; unpack it to an ELF file"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
        packed.extend_from_slice(&(size as u32).to_le_bytes());
        packed
    }

    #[test]
    fn every_packing_gives_the_same() {
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&elf).expect("packs");
        let gzip = gzip.finish().expect("packs");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&elf).expect("packs");
        let xz = with_size(xz.finish().expect("packs"), elf.len());
        let zstd = ruzstd::encoding::compress_to_vec(&*elf, ruzstd::encoding::CompressionLevel::Fastest);
        let zstd = with_size(zstd, elf.len());
        let block = lz4_flex::block::compress(&elf);
        let lz4 = [LZ4, &(block.len() as u32).to_le_bytes(), &block].concat();
        let lz4 = with_size(lz4, elf.len());
        for file in [
            elf.clone(),
            gzip.clone(),
            bzimage(&gzip),
            bzimage(&xz),
            bzimage(&zstd),
            bzimage(&lz4),
        ] {
            assert_eq!(*kernel(&file).expect("unpacks"), *elf);
        }
        for bad in [
            b"text".to_vec(),
            bzimage(b"BZh9"),
            bzimage(&lz4[..lz4.len() - 1]),
            bzimage(&xz[..xz.len() - 1]),
            bzimage(&zstd)[..1100.min(zstd.len() + 1000)].to_vec(),
            bzimage(&with_size(zstd[..zstd.len() - 4].to_vec(), 17)),
        ] {
            kernel(&bad).expect_err("refused");
        }
    }

    /// As much as a damaged header asks for, which may be 4 GiB.
    #[test]
    fn a_dictionary_larger_than_xen_allows_is_refused() {
        let packed = [b"\x5d\0\0\0\xf0".as_slice(), &[0xff; 8], &[0; 100]].concat();
        let error = kernel(&bzimage(&with_size(packed, 5004))).expect_err("too large");
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
