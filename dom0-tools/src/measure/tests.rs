//! Guests of small kernels made here: their page tables must lead where they should, whatever way they were counted.

use super::build::Launch;
use super::{Config, Error};
use crate::pv;

const BASE: u64 = 0xffff_ffff_8000_0000;
const PAGE: u64 = 4096;
/// Of the kernel in memory.
const SIZE: u64 = 3 * PAGE + 100;
const TEXT: &[u8] = b"kernel text";

/// An ELF file with one segment at 1 MiB, and notes for Xen.
struct Elf {
    machine: u16,
    notes: Vec<(u32, Vec<u8>)>,
}

impl Elf {
    fn new() -> Self {
        let number = |value: u64| value.to_le_bytes().to_vec();
        Self {
            machine: 62,
            notes: vec![
                (6, b"linux\0".to_vec()),
                (5, b"xen-3.0\0".to_vec()),
                (3, number(BASE)),
                (1, number(BASE + (1 << 20) + 16)),
                (2, number(BASE + (1 << 20) + PAGE)),
            ],
        }
    }

    fn note(mut self, number: u32, content: &[u8]) -> Self {
        self.notes.push((number, content.to_vec()));
        self
    }

    /// As Debian's kernel has it.
    fn modern(self) -> Self {
        self.note(15, &(1u64 << 39).to_le_bytes())
            .note(16, &1u64.to_le_bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (number, content) in &self.notes {
            notes.extend_from_slice(&4u32.to_le_bytes());
            notes.extend_from_slice(&(content.len() as u32).to_le_bytes());
            notes.extend_from_slice(&number.to_le_bytes());
            notes.extend_from_slice(b"Xen\0");
            notes.extend_from_slice(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &2u16.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(52, &64u16.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &2u16.to_le_bytes());
        let (text_at, notes_at) = (64 + 2 * 56, 64 + 2 * 56 + TEXT.len());
        for (kind, at, address, in_file, in_memory) in [
            (1u32, text_at, 1 << 20, TEXT.len(), SIZE),
            (4, notes_at, 0, notes.len(), notes.len() as u64),
        ] {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&7u32.to_le_bytes());
            for word in [at as u64, address, address, in_file as u64, in_memory, PAGE] {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        [file, TEXT.to_vec(), notes].concat()
    }
}

fn config(text: &str) -> Config {
    Config::parse(text.as_bytes()).expect("a good configuration")
}

struct Guest {
    launch: Launch,
    pages: Vec<(u64, Vec<u8>)>,
}

impl Guest {
    fn new(elf: &Elf, initrd: Option<&[u8]>) -> Self {
        let launch = Launch::new(&elf.bytes(), initrd, &config("memory=32\nextra='a b'")).expect("a launch");
        let pages = launch
            .measured_pages()
            .map(|(pfn, _, page)| (pfn, page.to_vec()))
            .collect();
        Self { launch, pages }
    }

    fn page(&self, pfn: u64) -> &[u8] {
        let found = self.pages.iter().find(|(number, _)| *number == pfn);
        found.map_or(&[0; PAGE as usize], |(_, page)| page)
    }

    /// The entry of the lowest level for an address.
    fn walk(&self, address: u64) -> Option<u64> {
        let mut entry = pv::root(self.launch.context()).expect("a root") << 12;
        for level in [39, 30, 21, 12] {
            let pfn = (entry >> 12) & ((1 << 40) - 1);
            entry = pv::le64(self.page(pfn), (address >> level) as usize % 512 * 8)?;
            if entry & 1 == 0 {
                return None;
            }
        }
        Some(entry)
    }

    fn start_info(&self, at: usize) -> u64 {
        let register = pv::le64(self.launch.context(), 512 + 8 + 13 * 8).expect("rsi");
        let entry = self.walk(register).expect("start_info is mapped");
        pv::le64(self.page((entry & ((1 << 52) - 1)) >> 12), at).expect("a word")
    }
}

#[test]
fn every_address_leads_to_its_page() {
    for elf in [Elf::new(), Elf::new().modern()] {
        let guest = Guest::new(&elf, Some(&[9; 5000]));
        let tables = guest.start_info(88);
        let count = guest.start_info(96);
        let mut mapped = 0;
        while let Some(entry) = guest.walk(BASE + mapped * PAGE) {
            assert_eq!((entry & ((1 << 52) - 1)) >> 12, mapped);
            // The guest may not write to the tables that it starts with.
            let table = (tables..tables + count * PAGE).contains(&(BASE + mapped * PAGE));
            assert_eq!(entry & 2 == 0, table, "page {mapped:#x}");
            mapped += 1;
        }
        assert_eq!(mapped % 1024, 0, "the mapping ends with 4 MiB");
        let stack = pv::le64(guest.launch.context(), 512 + 8 + 19 * 8).expect("rsp");
        assert!(
            stack + (512 << 10) <= BASE + mapped * PAGE,
            "512 KiB behind the stack"
        );

        let p2m = guest.start_info(104);
        for pfn in [0, 511, 512, 8191u64] {
            let entry = guest.walk(p2m + pfn * 8).expect("the P2M is mapped");
            let page = guest.page((entry & ((1 << 52) - 1)) >> 12);
            assert_eq!(pv::le64(page, (pfn % 512 * 8) as usize), Some(pfn));
        }
        assert_eq!(guest.start_info(32), 8192);
        assert_eq!(guest.page(256)[..TEXT.len()], *TEXT);
        assert_eq!(
            guest.page(257)[..6],
            [0x51, 0x41, 0x53, 0xb8, 0, 0],
            "the hypercall page"
        );
    }
}

#[test]
fn the_initrd_lies_where_the_kernel_can_use_it() {
    let old = Guest::new(&Elf::new(), Some(&[9; 5000]));
    assert_eq!((old.start_info(48) as u32, old.start_info(120)), (0, 5000));
    let entry = old.walk(old.start_info(112)).expect("mapped");
    assert_eq!(old.page((entry & ((1 << 52) - 1)) >> 12), [9; 4096]);

    let modern = Guest::new(&Elf::new().modern(), Some(&[9; 5000]));
    assert_eq!((modern.start_info(48) as u32, modern.start_info(120)), (8, 8192));
    let pfn = modern.start_info(112);
    assert_eq!(modern.page(pfn), [9; 4096]);
    assert_eq!(modern.page(pfn + 1)[900..910], [9, 9, 9, 9, 0, 0, 0, 0, 0, 0]);
    assert!(modern.walk(BASE + pfn * PAGE).is_none());
}

#[test]
fn whatever_differs_gives_another_value() {
    let value = |elf: &Elf, initrd: Option<&[u8]>, text: &str| {
        Launch::new(&elf.bytes(), initrd, &config(text))
            .expect("a launch")
            .measurement()
    };
    let values = [
        value(&Elf::new(), None, "memory=32"),
        value(&Elf::new(), Some(&[1]), "memory=32"),
        value(&Elf::new(), Some(&[2]), "memory=32"),
        value(&Elf::new(), None, "memory=33"),
        value(&Elf::new(), None, "memory=32\nmaxmem=33"),
        value(&Elf::new(), None, "memory=32\nvcpus=2"),
        value(&Elf::new(), None, "memory=32\nextra='x'"),
        value(&Elf::new().modern(), None, "memory=32"),
        value(
            &Elf::new().note(1, &(BASE + (1 << 20)).to_le_bytes()),
            None,
            "memory=32",
        ),
    ];
    for (i, value) in values.iter().enumerate() {
        assert!(!values[..i].contains(value), "{i}");
    }
    assert_eq!(
        values[0],
        value(&Elf::new(), None, "name='x'\nmemory=32\nvcpus=1")
    );
}

#[test]
fn what_is_no_such_kernel_is_named() {
    let words = |elf: &Elf, text: &str| match Launch::new(&elf.bytes(), None, &config(text)) {
        Err(Error::Kernel(words) | Error::Build(words)) => words,
        Err(Error::Config(_)) | Ok(_) => panic!("accepted"),
    };
    let with = |notes: Vec<(u32, Vec<u8>)>| Elf { notes, ..Elf::new() };
    for (elf, expected) in [
        (
            Elf {
                machine: 3,
                ..Elf::new()
            },
            "not for x86-64",
        ),
        (with(vec![]), "no notes for Xen"),
        (with(vec![(6, b"linux".to_vec())]), "not built for xen-3.0"),
        (with(vec![(5, b"xen-3.0".to_vec())]), "generic loader"),
        (Elf::new().note(11, b"yes\0"), "BSD_SYMTAB"),
        (
            Elf::new().note(10, b"!writable_page_tables|!dom0\0"),
            "demands dom0",
        ),
        (Elf::new().note(1, &BASE.to_le_bytes()), "out of bounds"),
        (
            Elf::new().note(15, &(BASE + (1 << 20)).to_le_bytes()),
            "where it lies itself",
        ),
    ] {
        let found = words(&elf, "memory=32");
        assert!(found.contains(expected), "{expected}: {found}");
    }
    assert!(words(&Elf::new(), "memory=2").contains("too small"));
    let bytes = Elf::new().bytes();
    for length in 0..bytes.len() {
        // Whatever is cut off, it ends.
        let _ = Launch::new(&bytes[..length], None, &config("memory=32"));
    }
}
