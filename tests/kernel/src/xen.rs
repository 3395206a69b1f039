//! Xen's interface: numbers and layouts of public/xen.h, sched.h, vcpu.h, event_channel.h and arch-x86/xen.h.

use core::arch::asm;

pub const MMU_UPDATE: u64 = 1;
pub const SET_GDT: u64 = 2;
pub const UPDATE_DESCRIPTOR: u64 = 10;
pub const UPDATE_VA_MAPPING: u64 = 14;
pub const VCPU_OP: u64 = 24;
pub const MMUEXT_OP: u64 = 26;
pub const SCHED_OP: u64 = 29;
pub const EVENT_CHANNEL_OP: u64 = 32;
/// `__HYPERVISOR_arch_2`: VMCrypt's.
const VMCRYPT_OP: u64 = 50;
const VMCRYPT_ASK: u64 = 3;

pub const DOMID_SELF: u64 = 0x7ff0;
/// Of `update_va_mapping`: flush the entry on all CPUs.
pub const INVLPG_ALL: u64 = 2 | 4;
pub const PIN_L4: u32 = 3;
pub const SET_LDT: u32 = 13;
pub const NEW_USER_BASEPTR: u32 = 15;
pub const VCPU_INITIALISE: u64 = 0;
pub const VCPU_UP: u64 = 1;
const EVENT_SEND: u64 = 4;
const SCHED_YIELD: u64 = 0;
const SCHED_SHUTDOWN: u64 = 2;
const SCHED_POLL: u64 = 3;
const SHUTDOWN_SUSPEND: u32 = 2;
const SHUTDOWN_CRASH: u32 = 3;

/// Bytes of `struct VmcAnswer`.
const ANSWER: usize = 168;

/// Where Xen shows every guest which PFN belongs to a frame.
pub const M2P: *const u64 = 0xffff_8000_0000_0000 as *const u64;

/// `struct start_info`, as far as it is used.
#[repr(C)]
pub struct StartInfo {
    magic: [u8; 32],
    pub pages: u64,
    pub shared_info: u64,
    flags: u64,
    pub store_mfn: u64,
    pub store_port: u32,
    pub console_mfn: u64,
    pub console_port: u32,
    pub pt_base: u64,
    pub pt_frames: u64,
    pub mfn_list: u64,
}

/// `struct mmuext_op`.
#[repr(C)]
pub struct MmuExt {
    pub command: u32,
    pub first: u64,
    pub second: u64,
}

#[repr(C)]
struct Poll {
    ports: *const u32,
    count: u32,
    timeout: u64,
}

/// Makes a hypercall.
///
/// # Safety
///
/// The arguments must be what this call of Xen's asks for, and what it does must be fine with the rest of the kernel.
pub unsafe fn call(number: u64, arguments: [u64; 4]) -> i64 {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: Xen keeps all other registers and the stack; the rest is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
            inlateout("rdi") a => _, inlateout("rsi") b => _, inlateout("rdx") c => _, inlateout("r10") d => _,
            lateout("rcx") _, lateout("r8") _, lateout("r9") _, lateout("r11") _, options(nostack));
    }
    result
}

/// One operation on page tables or descriptor tables; true if Xen did it.
///
/// # Safety
///
/// As for [`call`].
pub unsafe fn mmuext(command: u32, first: u64, second: u64) -> bool {
    let operation = MmuExt {
        command,
        first,
        second,
    };
    // SAFETY: one operation, of this domain.
    unsafe { call(MMUEXT_OP, [&raw const operation as u64, 1, 0, DOMID_SELF]) == 0 }
}

/// Tells the other end of an event channel that there is something to see.
pub fn send(port: u32) {
    // SAFETY: reads four bytes of ours.
    unsafe { call(EVENT_CHANNEL_OP, [EVENT_SEND, &raw const port as u64, 0, 0]) };
}

/// Sleeps until one of the ports is pending or the time has come.
pub fn poll(ports: &[u32], until: u64) {
    let poll = Poll {
        ports: ports.as_ptr(),
        count: ports.len() as u32,
        timeout: until,
    };
    // SAFETY: reads `poll` and the ports.
    unsafe { call(SCHED_OP, [SCHED_POLL, &raw const poll as u64, 0, 0]) };
}

/// Lets others run, with patterns made of `key` in the registers; what came back different.
pub fn yield_with(key: u64) -> u64 {
    let mut differs = 0;
    // SAFETY: a yield reads nothing.
    unsafe { patterned_call(SCHED_OP, SCHED_YIELD, 0, 0, key, &raw mut differs) };
    differs
}

/// Suspends the domain: whether that was cancelled, and whether the registers came back as they were.
pub fn suspend(start_info: u64, key: u64) -> (bool, bool) {
    let (reason, mut differs) = (SHUTDOWN_SUSPEND, 0);
    // SAFETY: reads four bytes of ours. The frame of start_info in RDX is for whoever saves the domain.
    let result = unsafe {
        patterned_call(
            SCHED_OP,
            SCHED_SHUTDOWN,
            &raw const reason as u64,
            start_info,
            key,
            &raw mut differs,
        )
    };
    (result == 1, differs == 0)
}

/// What Xen says of this domain, as `struct VmcAnswer` of its, or the negative errno.
pub fn ask(nonce: &[u8; 32]) -> Result<[u8; ANSWER], i64> {
    let mut answer = [0; ANSWER];
    answer[8..40].copy_from_slice(nonce);
    // SAFETY: reads and writes the structure.
    match unsafe { call(VMCRYPT_OP, [VMCRYPT_ASK, answer.as_mut_ptr() as u64, 0, 0]) } {
        0 => Ok(answer),
        error => Err(error),
    }
}

/// Ends the domain with an alarm.
pub fn crash() -> ! {
    let reason = SHUTDOWN_CRASH;
    loop {
        // SAFETY: reads four bytes of ours.
        unsafe { call(SCHED_OP, [SCHED_SHUTDOWN, &raw const reason as u64, 0, 0]) };
    }
}

unsafe extern "C" {
    fn patterned_call(number: u64, a: u64, b: u64, c: u64, key: u64, differs: *mut u64) -> i64;
}
