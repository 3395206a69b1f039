//! What every backend of the page cipher must fulfil. Run by the core for the portable backend and by
//! `ffi/simd` for each of its own.

use hctr2_rs::Hctr2_256;
use std::cell::Cell;
use vmcrypt_core::aes::{AesKey, Block};
use vmcrypt_core::cipher::{Backend, Keys, Page, PageKey, PageKind, PageTag, Portable, Tweak};
use vmcrypt_core::cipher::{SharedPage, decrypt, decrypt_page, encrypt, encrypt_page, encrypt_page_from};
use vmcrypt_core::ids::{Pfn, SessionId};
use vmcrypt_core::polyval::HashKey;

/// Repetitions, fewer where an interpreter runs them.
pub const ROUNDS: usize = if cfg!(miri) { 2 } else { 100 };

/// Reproducible random bytes (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    pub fn key(&mut self) -> PageKey {
        let mut key = PageKey::empty();
        key.set(&self.bytes());
        key
    }

    pub fn tweak(&mut self) -> Tweak {
        Tweak {
            session: SessionId(self.bytes()),
            pfn: Pfn(self.next() >> 28),
            kind: PageKind(self.next() % 7),
        }
    }

    pub fn page(&mut self) -> Page {
        self.bytes()
    }
}

/// Records of a vector file: `name hex` lines, an empty line between records, `#` comments.
pub fn records(text: &str) -> Vec<Vec<(&str, Vec<u8>)>> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let records = lines
        .split(|line| line.is_empty())
        .filter(|record| !record.is_empty());
    records
        .map(|record| record.iter().map(|line| parse(line)).collect())
        .collect()
}

fn parse(line: &str) -> (&str, Vec<u8>) {
    let (name, hex) = line.split_once(' ').expect("name and value");
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
    (name, (0..hex.len()).step_by(2).map(byte).collect())
}

/// One vector of HCTR2.
struct Vector {
    key: PageKey,
    tweak: Vec<u8>,
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

/// All vectors of a file, which has so many.
fn vectors(text: &str, count: usize) -> Vec<Vector> {
    let vector = |record: &Vec<(&str, Vec<u8>)>| {
        let [
            ("key", secret),
            ("tweak", tweak),
            ("plain", plain),
            ("cipher", cipher),
        ] = &record[..]
        else {
            panic!("malformed record: {record:?}");
        };
        let mut key = PageKey::empty();
        let secret = [&secret[..], &[0x5a; 32]].concat();
        key.set(&secret.try_into().expect("32-byte key"));
        Vector {
            key,
            tweak: tweak.clone(),
            plain: plain.clone(),
            cipher: cipher.clone(),
        }
    };
    let vectors: Vec<Vector> = records(text).iter().map(vector).collect();
    assert_eq!(vectors.len(), count);
    vectors
}

/// The published vectors, and whole pages as HCTR2's authors encrypt them.
pub fn published_vectors(backend: &impl Backend) {
    let short = vectors(include_str!("vectors/hctr2-aes256.txt"), 7);
    let pages = vectors(include_str!("vectors/hctr2-pages.txt"), 4);
    for vector in short.iter().chain(&pages) {
        let mut message = vector.plain.clone();
        let tag = encrypt(backend, &vector.key, &vector.tweak, &mut message).expect("long enough");
        assert_eq!(message, vector.cipher, "{} bytes", message.len());
        let back = decrypt(backend, &vector.key, &vector.tweak, &mut message);
        assert_eq!(back, Ok(tag));
        assert_eq!(message, vector.plain, "{} bytes", message.len());
    }
    for vector in &pages {
        let (tweak, plain) = (tweak(&vector.tweak), page(&vector.plain));
        check_page(backend, &vector.key, &tweak, plain, &page(&vector.cipher));
    }
}

/// NIST's known answers and Monte Carlo tests for AES-256, by each of a backend's ways through it.
pub fn aes(backend: &impl Backend) {
    let lane = Cell::new(0);
    let encrypt = |key: &AesKey, block: &mut Block| backend.encrypt_block(key, block);
    let decrypt = |key: &AesKey, block: &mut Block| backend.decrypt_block(key, block);
    let stream = |key: &AesKey, block: &mut Block| stream_block(backend, &lane, key, block);

    let records = records(include_str!("vectors/aes256.txt"));
    assert_eq!(records.len(), 21);
    for record in records {
        let [("key", secret), ("plain", plain), ("cipher", cipher)] = &record[..] else {
            panic!("malformed record: {record:?}");
        };
        let mut key = AesKey::empty();
        key.set(secret[..].try_into().expect("32-byte key"));
        let (plain, cipher) = (block(plain), block(cipher));
        assert_eq!(done(&encrypt, &key, plain), cipher);
        assert_eq!(done(&decrypt, &key, cipher), plain);
        for _ in 0..STREAM {
            assert_eq!(done(&stream, &key, plain), cipher);
        }
    }

    // CAVP's response file ECBMCT256.rsp (CAVS 11.1): what COUNT 0 begins with, and the result of COUNT 99.
    if cfg!(miri) {
        return;
    }
    const SECRET: (u128, u128) = (
        0xf9e8389f5b80712e3886cc1fa2d28a3b,
        0x8c9cd88a2d4a54c6aa86ce0fef944be0,
    );
    const PLAIN: u128 = 0xb379777f9050e2a818f2940cbbd9aba4;
    const CIPHER: u128 = 0xc5d2cb3d5b7ff0e23e308967ee074825;
    assert_eq!(monte_carlo(&encrypt, SECRET, PLAIN), CIPHER);
    assert_eq!(monte_carlo(&stream, SECRET, PLAIN), CIPHER);
    const BACK_SECRET: (u128, u128) = (
        0x2b09ba39b834062b9e93f48373b8dd01,
        0x8dedf1e5ba1b8af831ebbacbc92a2643,
    );
    const BACK_CIPHER: u128 = 0x89649bd0115f30bd878567610223a59d;
    const BACK_PLAIN: u128 = 0xe3d3868f578caf34e36445bf14cefc68;
    assert_eq!(monte_carlo(&decrypt, BACK_SECRET, BACK_CIPHER), BACK_PLAIN);
}

/// AESAVS, section 6.4.1, for 256 bits: a hundred keys, each with a chain of a thousand blocks, the last two of which
/// change the key.
fn monte_carlo(way: &impl Fn(&AesKey, &mut Block), secret: (u128, u128), start: u128) -> u128 {
    let (mut high, mut low) = secret;
    let mut block = start.to_be_bytes();
    let mut key = AesKey::empty();
    for _ in 0..100 {
        let secret = [high.to_be_bytes(), low.to_be_bytes()].concat();
        key.set(&secret.try_into().expect("32 bytes"));
        let mut before = block;
        for _ in 0..1000 {
            before = block;
            way(&key, &mut block);
        }
        high ^= u128::from_be_bytes(before);
        low ^= u128::from_be_bytes(block);
    }
    u128::from_be_bytes(block)
}

/// Blocks of a message of [`stream_block`]: a group of the widest backend, and single ones.
const STREAM: usize = 35;

/// Encrypts one block by the key stream, in another of its places each time: XCTR's block `i` is that of `start ^ i`.
fn stream_block(backend: &impl Backend, lane: &Cell<usize>, key: &AesKey, block: &mut Block) {
    let at = lane.get() % (STREAM - 1) + 1;
    lane.set(at);
    let start = (u128::from_le_bytes(*block) ^ at as u128).to_le_bytes();
    let hash = HashKey::empty();
    let keys = Keys {
        cipher: key,
        hash: &hash,
    };
    let mut blocks = [[0; 16]; STREAM];
    backend.xctr_then_hash(keys, &start, &mut [0; 16], &mut blocks);
    *block = blocks[at];
}

fn done(way: &impl Fn(&AesKey, &mut Block), key: &AesKey, mut block: Block) -> Block {
    way(key, &mut block);
    block
}

fn block(bytes: &[u8]) -> Block {
    bytes.try_into().expect("16 bytes")
}

/// Random pages under random tweaks, against the crate `hctr2-rs`.
pub fn agrees_with_another_implementation(backend: &impl Backend) {
    let mut random = Random(8);
    for _ in 0..ROUNDS {
        let secret: [u8; 64] = random.bytes();
        let mut key = PageKey::empty();
        key.set(&secret);
        let (bytes, plain) = (random.bytes::<32>(), random.page());
        let mut cipher = [0; 4096];
        let oracle = Hctr2_256::new(&secret[..32]);
        oracle
            .encrypt(&plain, &bytes, &mut cipher)
            .expect("a page is long enough");
        check_page(backend, &key, &tweak(&bytes), plain, &cipher);
    }
}

/// All three functions for pages: in place, of a copy, and back.
fn check_page(backend: &impl Backend, key: &PageKey, tweak: &Tweak, plain: Page, cipher: &Page) {
    let mut message = plain;
    let tag = encrypt_page(backend, key, tweak, &mut message);
    assert!(message == *cipher, "{tweak:?}");
    let mut copy = [0x3c; 4096];
    let from = encrypt_page_from(backend, key, tweak, &shared(&plain), &mut copy);
    assert!(copy == *cipher && from == tag, "{tweak:?}");
    assert_eq!(decrypt_page(backend, key, tweak, &mut message), tag);
    assert!(message == plain, "{tweak:?}");
}

/// The tweak that is coded so.
fn tweak(bytes: &[u8]) -> Tweak {
    let [s0, s1, pfn, kind] = *bytes.as_chunks::<8>().0 else {
        panic!("{} bytes of tweak", bytes.len());
    };
    Tweak {
        session: SessionId([s0, s1].concat().try_into().expect("16 bytes")),
        pfn: Pfn(u64::from_le_bytes(pfn)),
        kind: PageKind(u64::from_le_bytes(kind)),
    }
}

fn page(bytes: &[u8]) -> Page {
    bytes.try_into().expect("a page")
}

/// The page as one that others may write.
fn shared(page: &Page) -> SharedPage {
    std::array::from_fn(|block| {
        std::array::from_fn(|half| {
            let at = 16 * block + 8 * half;
            u64::from_ne_bytes(page[at..at + 8].try_into().expect("eight bytes")).into()
        })
    })
}

/// Every length around the multiples of the batch sizes in use, against the portable backend.
pub fn agrees_with_portable(backend: &impl Backend) {
    let mut random = Random(1);
    let key = random.key();
    let lengths = if cfg!(miri) { 30..36 } else { 16..700 };
    for length in lengths {
        let tweak: [u8; 50] = random.bytes();
        let tweak = &tweak[..random.below(51)];
        let plain: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let (mut one, mut other) = (plain.clone(), plain.clone());
        let tag = encrypt(backend, &key, tweak, &mut one);
        assert_eq!(tag, encrypt(&Portable, &key, tweak, &mut other));
        assert_eq!(one, other, "{length} bytes");
        assert_eq!(decrypt(backend, &key, tweak, &mut one), tag);
        assert_eq!(one, plain, "{length} bytes");
    }
    for _ in 0..ROUNDS {
        let (key, tweak, plain) = (random.key(), random.tweak(), random.page());
        let (mut one, mut other) = (plain, plain);
        let tag = encrypt_page(backend, &key, &tweak, &mut one);
        assert_eq!(tag, encrypt_page(&Portable, &key, &tweak, &mut other));
        assert_eq!(one, other);
        let mut copy = random.page();
        assert_eq!(
            tag,
            encrypt_page_from(backend, &key, &tweak, &shared(&plain), &mut copy)
        );
        assert_eq!(copy, other);
        assert_eq!(decrypt_page(backend, &key, &tweak, &mut one), tag);
        assert_eq!(one, plain);
    }
}

/// One changed bit of plaintext, ciphertext or tweak changes about half of the whole page, and the tag.
pub fn diffusion(backend: &impl Backend) {
    let mut random = Random(2);
    type Direction<B> = fn(&B, &PageKey, &Tweak, &mut Page) -> PageTag;
    fn check<B: Backend>(
        backend: &B,
        crypt: Direction<B>,
        key: &PageKey,
        a: (Page, Tweak),
        b: (Page, Tweak),
    ) {
        let ((mut page, tweak), (mut other, other_tweak)) = (a, b);
        let tag = crypt(backend, key, &tweak, &mut page);
        assert_ne!(tag, crypt(backend, key, &other_tweak, &mut other));
        for (part, other) in page.chunks(512).zip(other.chunks(512)) {
            // 4,096 fair coins: 2,048 heads, standard deviation 32; 10 of them either way.
            let changed: u32 = part.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert!((1728..2368).contains(&changed), "{changed} of 4096 bits changed");
        }
    }
    for round in 0..ROUNDS {
        let (key, tweak, page) = (random.key(), random.tweak(), random.page());
        // The first and last bits have code of their own.
        let bit = match round {
            0 => 0,
            1 => 8 * page.len() - 1,
            2 => 8 * 16,
            _ => random.below(8 * page.len()),
        };
        let mut flipped = page;
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(backend, encrypt_page, &key, (page, tweak), (flipped, tweak));
        check(backend, decrypt_page, &key, (page, tweak), (flipped, tweak));

        let mut other = tweak;
        let bit = random.below(192);
        match bit {
            0..64 => other.pfn.0 ^= 1 << bit,
            _ => other.session.0[bit / 8 - 8] ^= 1 << (bit % 8),
        }
        check(backend, encrypt_page, &key, (page, tweak), (page, other));
        check(backend, decrypt_page, &key, (page, tweak), (page, other));
    }
}
