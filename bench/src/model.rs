//! What surrounds the Rust calls inside Xen, each in its simplest form: locks, page copies, replicas, the vector
//! registers. A model: the originals are C and named at each item.

#![allow(
    unsafe_code,
    reason = "what Xen does in assembly is done in assembly here, to cost the same"
)]

use std::{
    arch::{
        asm,
        x86_64::{_MM_HINT_T0, _mm_prefetch},
    },
    hint::{black_box, spin_loop},
    mem::size_of_val,
    sync::atomic::{AtomicBool, Ordering},
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

/// The vector registers of the vCPU that runs, after `vector.c`, for AES-NI. What needs ring 0 is left out: reading CR0, and CLTS
/// and setting CR0 where the guest had TS set.
#[repr(C, align(16))]
pub struct VectorState([[u8; 16]; 16]);

impl VectorState {
    /// Nothing saved.
    pub const fn new() -> Self {
        Self([[0; 16]; 16])
    }

    /// `vmcrypt_vector_enter()`.
    #[inline(never)]
    pub fn enter(&mut self) {
        // SAFETY: sixteen registers of sixteen bytes are the buffer.
        unsafe {
            asm!(
                "movups [{0}], xmm0", "movups [{0} + 16], xmm1", "movups [{0} + 32], xmm2",
                "movups [{0} + 48], xmm3", "movups [{0} + 64], xmm4", "movups [{0} + 80], xmm5",
                "movups [{0} + 96], xmm6", "movups [{0} + 112], xmm7", "movups [{0} + 128], xmm8",
                "movups [{0} + 144], xmm9", "movups [{0} + 160], xmm10", "movups [{0} + 176], xmm11",
                "movups [{0} + 192], xmm12", "movups [{0} + 208], xmm13", "movups [{0} + 224], xmm14",
                "movups [{0} + 240], xmm15",
                in(reg) &mut self.0,
                options(nostack, preserves_flags)
            );
        }
    }

    /// `vmcrypt_vector_leave()`.
    #[inline(never)]
    pub fn leave(&mut self) {
        // SAFETY: as above; all sixteen count as clobbered.
        unsafe {
            asm!(
                "movups xmm0, [{0}]", "movups xmm1, [{0} + 16]", "movups xmm2, [{0} + 32]",
                "movups xmm3, [{0} + 48]", "movups xmm4, [{0} + 64]", "movups xmm5, [{0} + 80]",
                "movups xmm6, [{0} + 96]", "movups xmm7, [{0} + 112]", "movups xmm8, [{0} + 128]",
                "movups xmm9, [{0} + 144]", "movups xmm10, [{0} + 160]", "movups xmm11, [{0} + 176]",
                "movups xmm12, [{0} + 192]", "movups xmm13, [{0} + 208]", "movups xmm14, [{0} + 224]",
                "movups xmm15, [{0} + 240]",
                in(reg) &self.0,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, preserves_flags)
            );
        }
        self.0 = [[0; 16]; 16];
        black_box(self);
    }
}
