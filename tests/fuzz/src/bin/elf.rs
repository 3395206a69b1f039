//! The ELF image of a guest's kernel, by itself and with a whole domain around it. What is accepted lies where it says, and
//! can be loaded there.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vmcrypt_tools::measure::{Config, Launch, elf::Kernel};

/// The smallest kernel that is one: a page at 64 KiB, and notes.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const BASE: u64 = 0xffff_ffff_8000_0000;
    let mut notes = Vec::new();
    for (kind, content) in [
        (6u32, b"linux\0\0\0"),
        (5, b"xen-3.0\0"),
        (3, &BASE.to_le_bytes()),
        (1, &(BASE + (1 << 16)).to_le_bytes()),
        (15, &(1u64 << 39).to_le_bytes()),
    ] {
        for word in [4, content.len() as u32, kind, u32::from_le_bytes(*b"Xen\0")] {
            notes.extend_from_slice(&word.to_le_bytes());
        }
        notes.extend_from_slice(content);
    }
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    // ET_EXEC, x86-64, two program headers behind this one.
    for (at, half) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 2)] {
        file[at] = half;
    }
    let behind = 64 + 2 * 56;
    for (kind, offset, address, in_file, in_memory) in [
        (1u32, behind, 1 << 16, 0, 4096),
        (4, behind, 0, notes.len(), notes.len() as u64),
    ] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for word in [offset as u64, address, address, in_file as u64, in_memory, 4096] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file.extend_from_slice(&notes);
    assert!(judge(&file), "the unchanged kernel is one");
    file
});

static CONFIG: LazyLock<Config> = LazyLock::new(|| Config::parse(b"memory=4").expect("a good configuration"));

fuzz_target!(|bytes: &[u8]| {
    judge(bytes);
    // A good one, changed where and how the input says.
    let mut changed = GOOD.clone();
    for change in bytes.as_chunks::<3>().0.iter().take(16) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    judge(&changed);
});

/// Whether it is a kernel.
fn judge(image: &[u8]) -> bool {
    if let Ok(launch) = Launch::new(image, None, &CONFIG) {
        let pfns: Vec<u64> = launch.measured_pages().map(|(pfn, ..)| pfn).collect();
        assert!(pfns.is_sorted_by(|one, next| one < next) && pfns.last() < Some(&(4 << 8)));
    }
    let Ok(kernel) = Kernel::parse(image) else {
        return false;
    };
    assert!(kernel.base <= kernel.start && kernel.start <= kernel.end);
    assert!((kernel.start..=kernel.end).contains(&kernel.entry));
    assert!(
        kernel
            .p2m_base
            .is_none_or(|p2m| p2m < kernel.base && p2m % 4096 == 0)
    );
    let size = kernel.end - kernel.start;
    if size <= 1 << 20 {
        let mut memory = vec![0xaa; size as usize];
        kernel.load(&mut memory).expect("there is room for all of it");
    }
    true
}
