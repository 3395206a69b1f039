//! Registers of its vCPUs, read and written.

use super::{Attack, Came, Scene, after, let_through};
use crate::calls::{control, field, pair};
use crate::registers::{get_context, get_xsave, set_registers};
use anyhow::Result;
use vmcrypt_tools::hypercall::Buffer;
use vmcrypt_tools::pv::CONTEXT_BYTES;

pub const ATTACKS: &[Attack] = &[
    Attack::new("get-context", "11", "read general registers", |scene| {
        after(get_context(scene.xen, scene.id()), |context| {
            let [rip, rsp] = [RIP, RSP].map(|at| context.get::<u64>(at));
            Ok(match rip | rsp {
                0 => Came::Nothing("registers are zero".to_owned()),
                _ => Came::Through(format!("rip {rip:#x}, rsp {rsp:#x}")),
            })
        })
    }),
    Attack::new("get-xsave", "11", "read vector registers", |scene| {
        after(get_xsave(scene.xen, scene.id()), |state| Ok(any(&state)))
    })
    .argued(NO_XSAVE),
    Attack::new(
        "get-ext-context",
        "11",
        "read where it takes system calls and machine checks",
        |scene| {
            after(
                control(scene.xen, scene.id(), GET_EXT_VCPUCONTEXT, &[0]),
                |call| {
                    // Entries for system calls of 32-bit programs; zero if the guest has none.
                    Ok(any(&call.bytes(24, 16)))
                },
            )
        },
    )
    .argued("the tiny kernel has no programs, and so no entries; on a Linux guest see case `registers`"),
    Attack::new("get-msrs", "11", "read model-specific registers", |scene| {
        let list = scene.xen.buffer(16 * 16)?;
        after(
            control(
                scene.xen,
                scene.id(),
                GET_VCPU_MSRS,
                &[pair(0, 16), list.address()],
            ),
            |call| {
                let count = (field(&call, 0) >> 32) as usize;
                Ok(match count {
                    0 => Came::Nothing("there are none".to_owned()),
                    _ => Came::Through(format!("{count} registers")),
                })
            },
        )
    })
    .argued("of those that Xen tells of, the emulated CPU has none that is not zero"),
    Attack::new(
        "set-context",
        "12",
        "set registers to what was read of them",
        |scene| let_through(set_registers(scene.xen, scene.id())),
    ),
    Attack::new(
        "set-instruction-pointer",
        "12",
        "have vCPU 0 go on elsewhere",
        |scene| {
            after(get_context(scene.xen, scene.id()), |mut context| {
                context.put(RIP, 0x1000u64);
                load(scene, &context)
            })
        },
    ),
    Attack::new("reset-vcpu", "12", "reset vCPU 1", |scene| {
        let_through(control(scene.xen, scene.id(), SETVCPUCONTEXT, &[1, 0]))
    }),
    Attack::new(
        "set-ext-context",
        "12",
        "set where it takes system calls",
        |scene| {
            // Its size says what is filled in: all before the machine checks.
            let_through(control(
                scene.xen,
                scene.id(),
                SET_EXT_VCPUCONTEXT,
                &[pair(0, 32), 0x1000, 0x1000, 0],
            ))
        },
    ),
    Attack::new("set-xsave", "12", "set vector registers", |scene| {
        let (state, known) = match get_xsave(scene.xen, scene.id()) {
            Ok(state) => (state, true),
            Err(_) => (vec![0; 1024], false),
        };
        let mut buffer = scene.xen.buffer(state.len())?;
        buffer.fill(0, &state);
        let call = [0, state.len() as u64, buffer.address()];
        let set = control(scene.xen, scene.id(), SETVCPUEXTSTATE, &call);
        after(set, |_| Ok(Came::Through(format!("set, known before: {known}"))))
    })
    .argued(NO_XSAVE),
    Attack::new("set-msrs", "12", "set model-specific registers", |scene| {
        // None at all: what is asked is whether Xen would.
        let list = scene.xen.buffer(16)?;
        let_through(control(
            scene.xen,
            scene.id(),
            SET_VCPU_MSRS,
            &[pair(0, 0), list.address()],
        ))
    }),
];

const NO_XSAVE: &str = "the tiny kernel has not switched XSAVE on, and so has no such state; on a Linux guest see case `registers`";

fn load(scene: &Scene<'_>, context: &Buffer) -> Result<Came> {
    debug_assert!(context.len() >= CONTEXT_BYTES);
    let_through(control(
        scene.xen,
        scene.id(),
        SETVCPUCONTEXT,
        &[0, context.address()],
    ))
}

fn any(bytes: &[u8]) -> Came {
    match bytes.iter().filter(|byte| **byte != 0).count() {
        0 => Came::Nothing("all of it is zero".to_owned()),
        some => Came::Through(format!("{some} bytes that are not zero")),
    }
}

/// In `struct vcpu_guest_context`, behind 512 bytes of FPU state and the flags.
const RIP: usize = 520 + 16 * 8;
const RSP: usize = 520 + 19 * 8;

const SETVCPUCONTEXT: u32 = 12;
const SET_EXT_VCPUCONTEXT: u32 = 42;
const GET_EXT_VCPUCONTEXT: u32 = 43;
const SETVCPUEXTSTATE: u32 = 62;
const GET_VCPU_MSRS: u32 = 72;
const SET_VCPU_MSRS: u32 = 73;
