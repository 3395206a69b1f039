//! shared_info: time, events, and where the P2M is. Layout: public/xen.h and arch-x86/xen.h.

use core::arch::x86_64::_rdtsc;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::memory::{self, Memory};
use crate::xen;

const VCPU_INFO: usize = 64;
const UPCALL_MASK: usize = 1;
const TIME: usize = 32;
const PENDING: usize = 2048;
const MASKED: usize = 2560;
const MAX_PFN: usize = 3088;
const P2M_CR3: usize = 3112;
const P2M_ADDRESS: usize = 3120;
const P2M_GENERATION: usize = 3128;

#[repr(C, align(4096))]
struct Window(UnsafeCell<[u8; 4096]>);
// SAFETY: Xen and both vCPUs read and write it as single words.
unsafe impl Sync for Window {}
/// Where shared_info is mapped. The page that was there before is not used again.
static WINDOW: Window = Window(UnsafeCell::new([0; 4096]));

#[derive(Clone, Copy)]
pub struct Shared {
    base: *mut u8,
}

impl Shared {
    /// Maps it where this domain has it.
    pub fn map(memory: &Memory) -> Shared {
        let shared = Shared::mapped();
        let base = shared.base;
        assert!(memory::map(base as u64, memory.info().shared_info | 0x63));
        for vcpu in 0..2 {
            // SAFETY: a byte of the vCPU's part; no events, ever.
            unsafe { base.add(VCPU_INFO * vcpu + UPCALL_MASK).write_volatile(1) };
        }
        for word in 0..64 {
            shared.write(MASKED + 8 * word, !0);
        }
        shared
    }

    /// Where it is, for whoever knows that it is mapped.
    pub fn mapped() -> Shared {
        Shared {
            base: WINDOW.0.get().cast(),
        }
    }

    /// A save image has no place for it: libxc wants no entry that names a frame of Xen's.
    pub fn unmap(self) {
        assert!(memory::map(self.base as u64, 0));
    }

    /// Tells those who save the domain where its P2M is.
    pub fn publish_p2m(self, memory: &Memory) {
        self.write(MAX_PFN, memory.pages());
        self.write(P2M_ADDRESS, memory.info().mfn_list);
        self.write(P2M_GENERATION, 0);
        self.write(P2M_CR3, memory.root() << 12);
    }

    /// Nanoseconds since the machine was booted (`struct vcpu_time_info` in public/xen.h says how).
    pub fn now(self) -> u64 {
        let at = |offset: usize| self.read(TIME + offset);
        loop {
            let version = at(0) as u32;
            fence(Ordering::Acquire);
            let (stamp, base, scale) = (at(8), at(16), at(24));
            // The other CPU's counter may be a little behind the one that the stamp is of.
            // SAFETY: as in `memory::random()`.
            let ticks = unsafe { _rdtsc() }.saturating_sub(stamp);
            fence(Ordering::Acquire);
            if version % 2 == 1 || version != at(0) as u32 {
                continue;
            }
            let (factor, shift) = (scale as u32, (scale >> 32) as i8);
            let ticks = if shift < 0 {
                ticks >> -shift
            } else {
                ticks << shift
            };
            return base.wrapping_add(((u128::from(ticks) * u128::from(factor)) >> 32) as u64);
        }
    }

    /// Sleeps until something happened at one of the ports, or the time has come.
    pub fn wait(self, ports: &[u32], until: u64) {
        xen::poll(ports, until);
        for port in ports {
            // SAFETY: a word of the page, which Xen changes atomically, too.
            let word =
                unsafe { AtomicU64::from_ptr(self.base.add(PENDING + 8 * (*port as usize / 64)).cast()) };
            word.fetch_and(!(1 << (port % 64)), Ordering::SeqCst);
        }
    }

    fn read(self, offset: usize) -> u64 {
        // SAFETY: all offsets are within the page, and multiples of eight.
        unsafe { self.base.add(offset).cast::<u64>().read_volatile() }
    }

    fn write(self, offset: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.base.add(offset).cast::<u64>().write_volatile(value) }
    }
}
