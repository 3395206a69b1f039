//! The kernel: sets its machine up, then looks at it again and again, and suspends when dom0 asks.
//!
//! It takes no interrupt and no exception: events stay masked and are polled for, and a fault ends the domain, which
//! dom0 sees as a crash.

#![no_std]
#![no_main]
// A kernel: page tables, shared pages and hypercalls are what it is made of.
#![allow(unsafe_code)]

mod console;
mod entry;
mod memory;
mod second;
mod shared;
mod store;
mod tables;
mod xen;

use core::fmt::Write;
use core::hint::black_box;
use core::panic::PanicInfo;

use console::Console;
use memory::Memory;
use second::Second;
use shared::Shared;
use store::Store;
use tables::Tables;
use xen::StartInfo;

/// Between two rounds, in nanoseconds.
const PAUSE: u64 = 500_000_000;

struct Kernel {
    memory: Memory,
    shared: Shared,
    console: Console,
    store: Store,
    tables: Tables,
    second: Second,
    key: u64,
    rounds: u64,
}

/// Called by `entry.rs` with the address that Xen's domain builder left in RSI.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(info: *mut StartInfo) -> ! {
    let mut memory = Memory::new(info);
    let shared = Shared::map(&memory);
    shared.publish_p2m(&memory);
    let console = Console::new(&memory);
    let store = Store::new(&memory);
    let tables = Tables::set_up(&mut memory);
    memory.map_all();
    let key = memory::random();
    memory.fill(key);
    let second = Second::start(&memory, &tables);
    let mut kernel = Kernel {
        memory,
        shared,
        console,
        store,
        tables,
        second,
        key,
        rounds: 0,
    };
    kernel.store.watch(&kernel.shared);
    kernel.ask();
    match kernel.memory.check(key) {
        Ok(hash) => kernel.say(format_args!("ready {hash:016x}")),
        Err(()) => kernel.say(format_args!("FAIL memory, at once")),
    }
    kernel.run()
}

impl Kernel {
    fn run(&mut self) -> ! {
        let mut next = 0;
        loop {
            if self.store.suspend_requested(&self.shared) {
                self.suspend();
                next = 0;
            }
            if self.shared.now() >= next {
                self.round();
                next = self.shared.now() + PAUSE;
            }
            self.shared.wait(&[self.store.port()], next);
        }
    }

    /// Looks at everything once, and says what it found.
    fn round(&mut self) {
        self.rounds += 1;
        let rounds = self.rounds;
        let hash = self.memory.check(self.key);
        let mut fine = true;
        let checks = [
            (hash.is_ok(), "private memory"),
            (self.memory.p2m_agrees(), "P2M"),
            (self.tables.usable(), "descriptor tables"),
            (self.memory.remap_works(), "page tables"),
            (self.second.alive(&self.shared), "vCPU 1"),
            (self.second.registers_kept(), "registers of vCPU 1"),
        ];
        for (good, what) in checks {
            if !good {
                fine = false;
                self.say(format_args!("FAIL {what} in round {rounds}"));
            }
        }
        if let (true, Ok(hash)) = (fine, hash) {
            self.say(format_args!("round {rounds} intact {hash:016x}"));
        }
    }

    /// Goes to sleep, and wakes up in this domain or in the next one. Nothing that names a frame stays.
    fn suspend(&mut self) {
        self.second.park();
        self.memory.mark(self.rounds);
        self.tables.mark(&self.memory, self.rounds);
        self.memory.rings_as_pfns();
        self.shared.unmap();
        let (cancelled, kept) = xen::suspend(self.memory.info_mfn(), black_box(self.key));
        if cancelled {
            self.memory.rings_as_mfns();
        }
        self.shared = Shared::map(&self.memory);
        self.shared.publish_p2m(&self.memory);
        self.console.resume(&self.memory);
        self.store.resume(&self.memory);
        self.second.go_on();
        self.say(format_args!("resumed"));
        if !kept {
            self.say(format_args!("FAIL registers of vCPU 0"));
        }
        self.ask();
        self.round();
        self.store.watch(&self.shared);
    }

    /// Asks Xen about this domain, as an agent of its owner's would, and passes on what it says.
    fn ask(&mut self) {
        match xen::ask(&vmcrypt_kernel::nonce(self.rounds)) {
            Ok(answer) => self.say(format_args!("answer {}", Hex(&answer))),
            Err(error) => self.say(format_args!("unanswered {error}")),
        }
    }

    fn say(&mut self, what: core::fmt::Arguments<'_>) {
        let _ = write!(self.console, "{}{what}.\r\n", vmcrypt_kernel::PREFIX);
        self.console.tell();
    }
}

struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    xen::crash()
}
