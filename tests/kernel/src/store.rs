//! xenstore, as much as it takes to be told to suspend (public/io/xs_wire.h).

use core::sync::atomic::{Ordering, fence};

use crate::memory::{Memory, address, pfn_of_frame};
use crate::shared::Shared;
use crate::xen;

const SIZE: u32 = 1024;
const REQUESTS: usize = 0;
const REPLIES: usize = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;

const READ: u32 = 2;
const WATCH: u32 = 4;
const WRITE: u32 = 11;
const WATCH_EVENT: u32 = 15;

/// dom0 writes here what it wants of the domain, and waits until it is something else.
const CONTROL: &[u8] = b"control/shutdown\0";
/// Who does not answer for so long, in nanoseconds, will not.
const PATIENCE: u64 = 3_000_000_000;

pub struct Store {
    ring: *mut u8,
    port: u32,
    /// Something changed at what is watched.
    event: bool,
}

impl Store {
    pub fn new(memory: &Memory) -> Store {
        let info = memory.info();
        Store {
            ring: address(pfn_of_frame(info.store_mfn)) as *mut u8,
            port: info.store_port,
            event: false,
        }
    }

    /// Another domain, another connection, which knows nothing of what is still in the ring.
    pub fn resume(&mut self, memory: &Memory) {
        *self = Store::new(memory);
        self.set(REQ_PROD, self.get(REQ_CONS));
        self.set(RSP_CONS, self.get(RSP_PROD));
    }

    pub fn port(&self) -> u32 {
        self.port
    }

    /// Asks to be told when dom0 wants something.
    pub fn watch(&mut self, shared: &Shared) {
        self.request(shared, WATCH, &[CONTROL, b"token\0"]);
    }

    /// Whether dom0 wants the domain to suspend; if so it has been told that this will be done.
    pub fn suspend_requested(&mut self, shared: &Shared) -> bool {
        while let Some(header) = self.header() {
            self.message(header);
        }
        if !core::mem::take(&mut self.event) {
            return false;
        }
        let wanted = self.request(shared, READ, &[CONTROL]);
        let suspend = wanted.is_some_and(|text| text.starts_with(b"suspend"));
        if suspend {
            self.request(shared, WRITE, &[CONTROL]);
        }
        suspend
    }

    /// Sends a request and waits for its answer, the beginning of which is returned.
    fn request(&mut self, shared: &Shared, kind: u32, parts: &[&[u8]]) -> Option<[u8; 16]> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let header = [kind, kind, 0, length].map(u32::to_le_bytes);
        let bytes = header.iter().flatten().chain(parts.iter().copied().flatten());
        let mut end = self.get(REQ_PROD);
        for byte in bytes {
            // SAFETY: the index wraps within the buffer; a request is shorter than it.
            unsafe {
                self.ring
                    .add(REQUESTS + (end % SIZE) as usize)
                    .write_volatile(*byte)
            };
            end = end.wrapping_add(1);
        }
        fence(Ordering::Release);
        self.set(REQ_PROD, end);
        fence(Ordering::SeqCst);
        xen::send(self.port);
        let deadline = shared.now() + PATIENCE;
        while shared.now() < deadline {
            match self.header() {
                Some(header) => {
                    let text = self.message(header);
                    if header[0] != WATCH_EVENT {
                        return (header[0] == kind).then_some(text);
                    }
                }
                None => shared.wait(&[self.port], deadline),
            }
        }
        None
    }

    /// The header of the next message, if all of it is there.
    fn header(&self) -> Option<[u32; 4]> {
        let (begin, end) = (self.get(RSP_CONS), self.get(RSP_PROD));
        fence(Ordering::Acquire);
        let there = end.wrapping_sub(begin);
        if !(16..=SIZE).contains(&there) {
            return None;
        }
        let word = |place: u32| {
            u32::from_le_bytes(core::array::from_fn(|byte| {
                self.reply(begin.wrapping_add(4 * place + byte as u32))
            }))
        };
        let header = [word(0), word(1), word(2), word(3)];
        (header[3] <= there - 16).then_some(header)
    }

    /// Takes a message out of the ring.
    fn message(&mut self, header: [u32; 4]) -> [u8; 16] {
        let begin = self.get(RSP_CONS).wrapping_add(16);
        let text = core::array::from_fn(|i| {
            if (i as u32) < header[3] {
                self.reply(begin.wrapping_add(i as u32))
            } else {
                0
            }
        });
        fence(Ordering::SeqCst);
        self.set(RSP_CONS, begin.wrapping_add(header[3]));
        self.event |= header[0] == WATCH_EVENT;
        xen::send(self.port);
        text
    }

    fn reply(&self, at: u32) -> u8 {
        // SAFETY: the index wraps within the buffer.
        unsafe { self.ring.add(REPLIES + (at % SIZE) as usize).read_volatile() }
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
