//! What surrounds the Rust calls inside Xen, each in its simplest form: locks, page copies, replicas, the vector
//! registers. A model: the originals are C and named at each item.

#![allow(
    unsafe_code,
    reason = "what Xen does in assembly is done in assembly here, to cost the same"
)]

use std::{
    arch::asm,
    cell::UnsafeCell,
    hint::{black_box, spin_loop},
    mem::size_of_val,
    ops::{Deref, DerefMut},
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

/// Clears a page past the caches, as Xen's `clear_page` does (`xen/arch/x86/clear_page.S`).
#[inline(never)]
pub fn clear_page(page: &mut Frame) {
    // SAFETY: 128 times 32 bytes are the page.
    unsafe {
        asm!(
            "2:",
            "movnti [rdi], {zero}",
            "movnti [rdi + 8], {zero}",
            "movnti [rdi + 16], {zero}",
            "movnti [rdi + 24], {zero}",
            "add rdi, 32",
            "sub ecx, 1",
            "jnz 2b",
            "sfence",
            zero = in(reg) 0u64,
            inout("ecx") size_of::<Page>() / 32 => _,
            inout("rdi") page.0.as_mut_ptr() => _,
            options(nostack)
        );
    }
}

/// Clears a page in the caches: what clearing could cost instead.
#[inline(never)]
pub fn clear_page_cached(page: &mut Frame) {
    page.0 = [0; size_of::<Page>()];
    black_box(page);
}

/// Xen's `spin_lock()` without its checks: one atomic instruction to take it, a store to give it back.
pub struct SpinLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by whoever holds the lock alone.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock.
    #[inline(always)]
    pub fn lock(&self) -> Held<'_, T> {
        while self.taken.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        Held(self)
    }
}

/// A lock that is held.
pub struct Held<'a, T>(&'a SpinLock<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

/// The frames that dom0 maps in place of a guest's, after `replica.c`. Its owner holds the frames themselves.
pub struct Pool(SpinLock<FreeList>);

struct FreeList {
    entries: Vec<Replica>,
    first: usize,
    free: usize,
    low: usize,
}

#[derive(Clone)]
struct Replica {
    /// Index of the guest's frame.
    source: Option<usize>,
    next: usize,
}

impl Pool {
    /// `size` free replicas.
    pub fn new(size: usize) -> Self {
        let entries = (1..=size).map(|next| Replica { source: None, next }).collect();
        Self(SpinLock::new(FreeList {
            entries,
            first: 0,
            free: size,
            low: size,
        }))
    }

    /// `vmcrypt_replica_get()`: the number of a replica for `source`.
    #[inline(never)]
    pub fn get(&self, source: usize) -> Option<usize> {
        let mut list = self.0.lock();
        let replica = list.first;
        let entry = list.entries.get_mut(replica)?;
        entry.source = Some(source);
        list.first = entry.next;
        list.free -= 1;
        list.low = list.low.min(list.free);
        Some(replica)
    }

    /// `vmcrypt_replica_put()`: frees a replica and gives its source.
    #[inline(never)]
    pub fn put(&self, replica: usize) -> Option<usize> {
        let mut list = self.0.lock();
        let first = list.first;
        let entry = list.entries.get_mut(replica)?;
        let source = entry.source.take();
        entry.next = first;
        list.first = replica;
        list.free += 1;
        source
    }
}

/// The vector registers of the vCPU that runs, after `glue.c`. What needs ring 0 is left out: reading CR0, and CLTS
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
