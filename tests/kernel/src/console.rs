//! The console ring (public/io/console.h), output alone.

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use crate::memory::{Memory, address, pfn_of_frame};
use crate::xen;

const OUT: usize = 1024;
const SIZE: u32 = 2048;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

pub struct Console {
    ring: *mut u8,
    port: u32,
}

impl Console {
    pub fn new(memory: &Memory) -> Console {
        let info = memory.info();
        Console {
            ring: address(pfn_of_frame(info.console_mfn)) as *mut u8,
            port: info.console_port,
        }
    }

    /// Another domain, another port. What dom0 made of the ring meanwhile is its own affair: begin anew.
    pub fn resume(&mut self, memory: &Memory) {
        *self = Console::new(memory);
        self.set(OUT_PROD, self.get(OUT_CONS));
    }

    /// Wakes the reader.
    pub fn tell(&self) {
        fence(Ordering::SeqCst);
        xen::send(self.port);
    }

    fn get(&self, offset: usize) -> u32 {
        // SAFETY: within the ring, which dom0 writes, too.
        unsafe { self.ring.add(offset).cast::<u32>().read_volatile() }
    }

    fn set(&self, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.ring.add(offset).cast::<u32>().write_volatile(value) }
    }
}

impl fmt::Write for Console {
    /// What does not fit is lost.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut end = self.get(OUT_PROD);
        for byte in text.bytes() {
            if end.wrapping_sub(self.get(OUT_CONS)) >= SIZE {
                break;
            }
            // SAFETY: the index wraps within the buffer.
            unsafe { self.ring.add(OUT + (end % SIZE) as usize).write_volatile(byte) };
            end = end.wrapping_add(1);
        }
        fence(Ordering::Release);
        self.set(OUT_PROD, end);
        Ok(())
    }
}
