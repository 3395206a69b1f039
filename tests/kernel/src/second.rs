//! The second vCPU: it counts, and keeps patterns in its registers.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmcrypt_kernel::splitmix;

use crate::memory::{Memory, address};
use crate::shared::Shared;
use crate::tables::{ENTRIES, Tables};
use crate::xen;

/// Between two counts, in nanoseconds.
const PAUSE: u64 = 20_000_000;
/// A vCPU that does not count for so long is dead.
const PATIENCE: u64 = 2_000_000_000;

static COUNT: AtomicU64 = AtomicU64::new(0);
static DIFFERS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static PARKED: AtomicBool = AtomicBool::new(false);

#[repr(C, align(4096))]
struct Cell<T>(UnsafeCell<T>);
// SAFETY: written by vCPU 0 before vCPU 1 starts.
unsafe impl<T> Sync for Cell<T> {}
static CONTEXT: Cell<[u64; 646]> = Cell(UnsafeCell::new([0; 646]));

pub struct Second {
    there: bool,
}

impl Second {
    /// Starts it, if the domain has one.
    pub fn start(memory: &Memory, tables: &Tables) -> Second {
        // Words of `struct vcpu_guest_context` (public/arch-x86/xen.h).
        const FLAGS: usize = 64;
        const REGISTERS: usize = 65;
        const LDT: usize = 602;
        const GDT: usize = 604;
        const GDT_ENTRIES: usize = 620;
        const KERNEL_STACK: usize = 621;
        const CR: usize = 623;
        const IN_KERNEL: u64 = 1 << 2;
        const FLAT_CODE: u64 = 0xe033;
        const FLAT_STACK: u64 = 0xe02b;
        // SAFETY: nobody else uses it before the vCPU runs.
        let context = unsafe { &mut *CONTEXT.0.get() };
        let entry = start_second as *const () as u64;
        context[FLAGS] = IN_KERNEL;
        for (register, value) in [(16, entry), (17, FLAT_CODE), (18, 0x200), (20, FLAT_STACK)] {
            context[REGISTERS + register] = value;
        }
        context[LDT] = address(tables.ldt);
        context[LDT + 1] = ENTRIES;
        context[GDT] = memory.mfn(tables.gdt);
        context[GDT_ENTRIES] = ENTRIES;
        context[KERNEL_STACK] = FLAT_STACK;
        context[CR + 1] = memory.mfn(tables.user) << 12;
        context[CR + 3] = memory.root() << 12;
        STOP.store(true, Ordering::SeqCst);
        // SAFETY: the context leads into this kernel, with a stack of its own.
        let there = unsafe {
            xen::call(
                xen::VCPU_OP,
                [xen::VCPU_INITIALISE, 1, context.as_ptr() as u64, 0],
            ) == 0
                && xen::call(xen::VCPU_OP, [xen::VCPU_UP, 1, 0, 0]) == 0
        };
        let second = Second { there };
        second.go_on();
        second
    }

    /// Whether it counts.
    pub fn alive(&self, shared: &Shared) -> bool {
        let (before, deadline) = (COUNT.load(Ordering::SeqCst), shared.now() + PATIENCE);
        while self.there && COUNT.load(Ordering::SeqCst) == before {
            if shared.now() > deadline {
                return false;
            }
            shared.wait(&[], shared.now() + PAUSE / 4);
        }
        true
    }

    pub fn registers_kept(&self) -> bool {
        DIFFERS.load(Ordering::SeqCst) == 0
    }

    /// Makes it stay where it needs nothing that will be gone: with patterns in its registers.
    pub fn park(&self) {
        PARKED.store(false, Ordering::SeqCst);
        STOP.store(true, Ordering::SeqCst);
        while self.there && !PARKED.load(Ordering::SeqCst) {
            xen::yield_with(0);
        }
    }

    pub fn go_on(&self) {
        STOP.store(false, Ordering::SeqCst);
    }
}

#[unsafe(no_mangle)]
extern "C" fn second_main() -> ! {
    loop {
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        while STOP.load(Ordering::SeqCst) {
            PARKED.store(true, Ordering::SeqCst);
            DIFFERS.fetch_or(xen::yield_with(splitmix(count)), Ordering::SeqCst);
        }
        // Mapped whenever this vCPU is not parked.
        xen::poll(&[], Shared::mapped().now() + PAUSE);
    }
}

unsafe extern "C" {
    fn start_second();
}
