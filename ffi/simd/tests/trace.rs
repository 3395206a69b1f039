//! Whether the way through a backend depends on key or page: which instructions are executed, and at which addresses.
//!
//! The CPU itself executes them, one at a time, so that this sees the wide backends too, whose instructions valgrind does
//! not know. Memcheck would follow each secret; this compares the traces of some secrets, and two secrets on
//! different sides of every branch are enough to see it.

#![allow(unsafe_code, reason = "calls the exported functions, and handles a signal")]

use core::arch::asm;
use std::cell::RefCell;
use std::hint::black_box;
use std::{mem, ptr, slice};

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, Register};
use vmcrypt_core::Pfn;
use vmcrypt_core::cipher::{Page, PageKey, PageKind, PageTag, Tweak};
use vmcrypt_core::ids::SessionId;
use vmcrypt_simd::{
    avx2::{Avx2, Halves},
    avx512::Avx512,
    ni::AesNi,
    *,
};

/// A function of `(*const PageKey, *const Tweak, *mut Page, *mut PageTag)`, which may take a `*const Page` besides.
type Entry = *const ();

/// An instruction, and an address that it uses or 0. One that uses several stands there once for each.
type Step = (u64, u64);

/// Secrets that are compared.
const RUNS: u64 = 8;

thread_local! {
    static TRACE: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// Called by the kernel before each instruction. Where that may be, nobody holds or moves the trace.
extern "C" fn step(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid context.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as u64;
    // SAFETY: an instruction stands there, and none is longer. The program's text does not end within it: what is traced is
    // followed by more of this program.
    let code = unsafe { slice::from_raw_parts(at as *const u8, 15) };
    let instruction = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
    let value = |register: Register, _, _| {
        let index = match register.full_register() {
            Register::RAX => libc::REG_RAX,
            Register::RBX => libc::REG_RBX,
            Register::RCX => libc::REG_RCX,
            Register::RDX => libc::REG_RDX,
            Register::RSI => libc::REG_RSI,
            Register::RDI => libc::REG_RDI,
            Register::RBP => libc::REG_RBP,
            Register::RSP => libc::REG_RSP,
            Register::R8 => libc::REG_R8,
            Register::R9 => libc::REG_R9,
            Register::R10 => libc::REG_R10,
            Register::R11 => libc::REG_R11,
            Register::R12 => libc::REG_R12,
            Register::R13 => libc::REG_R13,
            Register::R14 => libc::REG_R14,
            Register::R15 => libc::REG_R15,
            // Segments, whose bases do not change.
            _ => return Some(0),
        };
        Some(registers[index as usize] as u64)
    };
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(&instruction).used_memory();
    TRACE.with_borrow_mut(|trace| {
        if used.is_empty() {
            trace.push((at, 0));
        }
        trace.extend(used.iter().map(|memory| {
            let address = memory.virtual_address(0, value);
            (at, address.expect("no gathered operands"))
        }));
    });
}

/// A page that others may write.
#[repr(align(8))]
struct Frame(Page);

/// What a call of `entry` does, step by step.
#[inline(never)]
fn trace(entry: Entry, key: &PageKey, tweak: &Tweak, page: &mut Page, from: &Frame) -> Vec<Step> {
    const TRAP: u64 = 1 << 8;
    let mut tag = PageTag::default();
    // SAFETY: the handler touches nothing but the trace; the trap flag is set for the call alone, and all that the C ABI
    // lets a callee change is declared.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = step as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, ptr::null_mut()), 0);
        asm!(
            "pushfq", "or qword ptr [rsp], {trap}", "popfq",
            "call {entry}",
            "pushfq", "and qword ptr [rsp], ~{trap}", "popfq",
            trap = const TRAP,
            entry = in(reg) entry,
            in("rdi") key,
            in("rsi") tweak,
            in("rdx") page,
            in("rcx") &mut tag,
            in("r8") from,
            clobber_abi("C"),
        );
    }
    TRACE.take()
}

/// The first step at which two secrets take different ways.
fn difference(entry: Entry) -> Option<String> {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut key, mut page, mut from) = (
        Box::new(PageKey::empty()),
        Box::new([0; 4096]),
        Box::new(Frame([0; 4096])),
    );
    let tweak = Tweak {
        session: SessionId([7; 16]),
        pfn: Pfn(11),
        kind: PageKind::PRIVATE,
    };
    let mut first = Vec::new();
    for run in 0..=RUNS {
        let mut secret = [0; 64];
        random.fill(&mut secret);
        random.fill(&mut *page);
        random.fill(&mut from.0);
        key.set(&secret);
        let trace = trace(entry, &key, &tweak, &mut page, &from);
        match run {
            // The first call of all may have the dynamic linker do something.
            0 => {}
            1 => first = trace,
            _ => {
                let at = first.iter().zip(&trace).position(|(one, other)| one != other);
                let at = at.or((first.len() != trace.len()).then_some(first.len().min(trace.len())));
                if let Some(at) = at {
                    let (one, other) = (first.get(at), trace.get(at));
                    return Some(format!("step {at}: {one:x?} and {other:x?}"));
                }
            }
        }
    }
    assert!(first.len() > 20, "{} steps are no trace of anything", first.len());
    None
}

macro_rules! backends {
    ($($name:ident: $backend:ident, $($entry:ident)*;)*) => { $(
        #[test]
        #[cfg_attr(debug_assertions, ignore = "it is optimised code that counts: `cargo xtask test constant-time`")]
        fn $name() {
            if $backend::detect().is_some() {
                $(assert_eq!(difference($entry as Entry), None, stringify!($entry));)*
            } else {
                println!(concat!("SKIP  this CPU has no ", stringify!($name)));
            }
        }
    )* };
}

backends! {
    aesni: AesNi, vmc_simd_aesni_encrypt vmc_simd_aesni_encrypt_from vmc_simd_aesni_decrypt;
    halves: Halves, vmc_simd_halves_encrypt vmc_simd_halves_encrypt_from vmc_simd_halves_decrypt;
    avx2: Avx2, vmc_simd_avx2_encrypt vmc_simd_avx2_encrypt_from vmc_simd_avx2_decrypt;
    avx512: Avx512, vmc_simd_avx512_encrypt vmc_simd_avx512_encrypt_from vmc_simd_avx512_decrypt;
}

/// Long enough for a trace, whatever it is given.
fn some_steps() {
    for i in 0..100 {
        black_box(i);
    }
}

unsafe extern "C" fn index(_: *const PageKey, _: *const Tweak, page: *mut Page, tag: *mut PageTag) {
    static TABLE: [u8; 256] = [1; 256];
    some_steps();
    // SAFETY: the caller's pointers are valid.
    unsafe { (*tag).0[0] = black_box(&TABLE)[usize::from((*page)[100])] };
}

unsafe extern "C" fn branch(_: *const PageKey, _: *const Tweak, page: *mut Page, _: *mut PageTag) {
    some_steps();
    // SAFETY: the caller's pointer is valid.
    if unsafe { (*page)[100] } & 1 != 0 {
        // SAFETY: does nothing.
        unsafe { asm!("nop") };
    }
}

unsafe extern "C" fn neither(_: *const PageKey, _: *const Tweak, page: *mut Page, tag: *mut PageTag) {
    some_steps();
    // SAFETY: the caller's pointers are valid.
    unsafe { (*tag).0[0] = (*page)[100] };
}

#[test]
fn a_use_of_a_secret_is_seen() {
    assert!(difference(index as Entry).is_some());
    assert!(difference(branch as Entry).is_some());
    assert_eq!(difference(neither as Entry), None);
}
