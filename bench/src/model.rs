//! What surrounds the Rust calls inside Xen, each in its simplest form: locks, page copies, replicas, the vector
//! registers. A model: the originals are C and named at each item.

#![allow(
    unsafe_code,
    reason = "what Xen does in assembly is done in assembly here, to cost the same"
)]

use std::{
    arch::{
        asm,
        x86_64::{__cpuid_count, _MM_HINT_T0, _mm_prefetch},
    },
    hint::{black_box, spin_loop},
    mem::size_of_val,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::mm::{Advice, madvise};
use vmcrypt_core::cipher::Page;

/// A page frame.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Frame(pub Page);

/// How Xen maps memory of its own.
#[derive(Clone, Copy)]
pub enum Mapped {
    /// In pages of 2 MiB, where the host has them: the direct map, the M2P.
    Large,
    /// In pages of 4 KiB: what `vzalloc()` gives.
    Small,
}

/// Memory that is there before it is measured.
pub fn resident<T: Clone>(len: usize, value: T, mapped: Mapped) -> Vec<T> {
    const LARGE: usize = 2 << 20;
    let advice = match mapped {
        Mapped::Large => Advice::LinuxHugepage,
        Mapped::Small => Advice::LinuxNoHugepage,
    };
    let mut memory: Vec<T> = Vec::with_capacity(len);
    let spare = memory.spare_capacity_mut();
    let skip = spare.as_ptr().cast::<u8>().align_offset(LARGE);
    if let Some(bytes) = size_of_val(spare).checked_sub(skip) {
        let start = spare.as_mut_ptr().wrapping_byte_add(skip).cast();
        // SAFETY: the range is our own; the advice changes how it is backed and not what it holds.
        let advised = unsafe { madvise(start, bytes / LARGE * LARGE, advice) };
        // On a host without large pages the figures hold more TLB misses, and nothing else changes.
        advised.ok();
    }
    memory.resize(len, value);
    memory
}

/// Copies a page with the instruction that Xen's `memcpy` uses (`xen/arch/x86/string.c`).
#[inline(never)]
pub fn copy_page(to: &mut Frame, from: &Frame) {
    // SAFETY: both are whole pages, and `to` is exclusive.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") size_of::<Page>() / 8 => _,
            inout("rdi") to.0.as_mut_ptr() => _,
            inout("rsi") from.0.as_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Asks for a page to be brought to the first cache level. Xen does not do that.
#[inline(never)]
pub fn fetch_page(page: &Frame) {
    for line in page.0.chunks(64) {
        // SAFETY: a prefetch has no effect but on the caches, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// Xen's `spin_lock()` without its checks: one atomic instruction to take it, a store to give it back.
pub struct SpinLock(AtomicBool);

impl SpinLock {
    /// A free lock.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Does `work` with the lock held.
    #[inline(always)]
    pub fn locked<T>(&self, work: impl FnOnce() -> T) -> T {
        while self.0.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        let result = work();
        self.0.store(false, Ordering::Release);
        result
    }
}

/// The frames that dom0 maps in place of a guest's, after `replica.c`. Its owner holds the frames themselves.
pub struct Pool {
    lock: SpinLock,
    entries: Vec<Replica>,
    first: usize,
    free: usize,
    low: usize,
}

struct Replica {
    /// The guest's frame.
    source: Option<u64>,
    next: usize,
}

impl Pool {
    /// `size` free replicas.
    pub fn new(size: usize) -> Self {
        Self {
            lock: SpinLock::new(),
            entries: (1..=size).map(|next| Replica { source: None, next }).collect(),
            first: 0,
            free: size,
            low: size,
        }
    }

    /// `vmcrypt_replica_get()`: the number of a replica for `source`.
    #[inline(never)]
    pub fn get(&mut self, source: u64) -> Option<usize> {
        self.lock.locked(|| {
            let replica = self.first;
            let entry = self.entries.get_mut(replica)?;
            entry.source = Some(source);
            self.first = entry.next;
            self.free -= 1;
            self.low = self.low.min(self.free);
            Some(replica)
        })
    }

    /// `vmcrypt_replica_put()`: frees a replica and gives its source.
    #[inline(never)]
    pub fn put(&mut self, replica: usize) -> Option<u64> {
        self.lock.locked(|| {
            let entry = self.entries.get_mut(replica)?;
            let source = entry.source.take();
            entry.next = std::mem::replace(&mut self.first, replica);
            self.free += 1;
            source
        })
    }
}

/// Vector registers that a page cipher borrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registers {
    /// None at all: soft-float code.
    None,
    /// xmm0 to xmm15.
    Xmm,
    /// ymm0 to ymm15, on a CPU without more.
    Ymm,
    /// zmm0 to zmm15, of which the upper halves go with every write of a ymm register.
    LowZmm,
    /// zmm0 to zmm31.
    Zmm,
}

impl Registers {
    /// Whether this CPU has them.
    pub fn there(self) -> bool {
        match self {
            Self::None | Self::Xmm => true,
            Self::Ymm => std::is_x86_feature_detected!("avx2"),
            Self::LowZmm | Self::Zmm => std::is_x86_feature_detected!("avx512f"),
        }
    }

    /// Bytes of all of them.
    const fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Xmm => 16 * 16,
            Self::Ymm => 16 * 32,
            Self::LowZmm => 16 * 64,
            Self::Zmm => 32 * 64,
        }
    }
}

/// Those of the vCPU that runs, after `vector.c`. What needs ring 0 is left out: CR0.TS, and XCR0 where the guest's does not admit
/// the registers.
#[repr(C, align(64))]
pub struct VectorState {
    saved: [u8; 32 * 64],
    lent: Registers,
    idle: bool,
}

/// `upper_halves(false)`: whether the CPU says that they are not in use.
fn idle() -> bool {
    static TELLS: LazyLock<bool> = LazyLock::new(|| {
        const XGETBV1: u32 = 1 << 2;
        std::is_x86_feature_detected!("xsave") && __cpuid_count(0xd, 1).eax & XGETBV1 != 0
    });
    const YMM: u32 = 1 << 2;
    const ZMM: u32 = 1 << 6;
    if !*TELLS {
        return false;
    }
    let used: u32;
    // SAFETY: the CPU has the instruction in this form.
    unsafe {
        asm!("xgetbv", in("ecx") 1, out("eax") used, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    used & (YMM | ZMM) == 0
}

/// An instruction for each of 16 registers.
macro_rules! each_of_16 {
    ($instruction:literal) => {
        concat!(
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n",
            $instruction,
            "\n.endr"
        )
    };
}

/// An instruction for each of 32 registers.
macro_rules! each_of_32 {
    ($instruction:literal) => {
        concat!(
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n",
            $instruction,
            "\n.endr"
        )
    };
}

impl VectorState {
    /// Nothing saved.
    pub const fn new() -> Self {
        Self {
            saved: [0; 32 * 64],
            lent: Registers::None,
            idle: false,
        }
    }

    /// `vmcrypt_vector_enter()`.
    #[inline(never)]
    pub fn enter(&mut self, registers: Registers) {
        self.idle = registers != Registers::None && idle();
        let to = self.saved.as_mut_ptr();
        // SAFETY: the buffer holds the largest of the sets, and is aligned for it; the CPU has the registers, or no backend that
        // borrows them would be in use.
        unsafe {
            match registers {
                Registers::None => {}
                Registers::Xmm => {
                    asm!(each_of_16!("movups [{0} + 16*\\n], xmm\\n"), in(reg) to, options(nostack))
                }
                Registers::Ymm => {
                    asm!(each_of_16!("vmovdqu [{0} + 32*\\n], ymm\\n"), in(reg) to, options(nostack))
                }
                Registers::LowZmm => {
                    asm!(each_of_16!("vmovdqu64 [{0} + 64*\\n], zmm\\n"), in(reg) to, options(nostack))
                }
                Registers::Zmm => {
                    asm!(each_of_32!("vmovdqu64 [{0} + 64*\\n], zmm\\n"), in(reg) to, options(nostack))
                }
            }
        }
        self.lent = registers;
    }

    /// `vmcrypt_vector_leave()`.
    #[inline(never)]
    pub fn leave(&mut self) {
        let from = self.saved.as_ptr();
        // SAFETY: as above. Around a call of another function no register is in use by the compiler: all are the callee's by the
        // C ABI, and this function is not inlined.
        unsafe {
            match self.lent {
                Registers::None => {}
                Registers::Xmm => {
                    asm!(each_of_16!("movups xmm\\n, [{0} + 16*\\n]"), in(reg) from, clobber_abi("C"))
                }
                Registers::Ymm => {
                    asm!(each_of_16!("vmovdqu ymm\\n, [{0} + 32*\\n]"), in(reg) from, clobber_abi("C"))
                }
                Registers::LowZmm => {
                    asm!(each_of_16!("vmovdqu64 zmm\\n, [{0} + 64*\\n]"), in(reg) from, clobber_abi("C"))
                }
                Registers::Zmm => {
                    asm!(each_of_32!("vmovdqu64 zmm\\n, [{0} + 64*\\n]"), in(reg) from, clobber_abi("C"))
                }
            }
        }
        self.saved[..self.lent.size()].fill(0);
        if self.idle && self.lent != Registers::Xmm {
            // SAFETY: the CPU has the registers; upper halves are nobody's at a function's end.
            unsafe { asm!("vzeroupper", clobber_abi("C")) };
        }
        self.lent = Registers::None;
        black_box(self);
    }
}
