//! What the control domain may ask of Xen for one guest.

use super::{Attack, Came, Scene, after, let_through};
use crate::calls::{DM_OP, HVM_OP, control, pair, remote_suspend};
use crate::export;
use anyhow::Result;

pub const ATTACKS: &[Attack] = &[
    Attack::unmade(
        "17",
        "follow by log-dirty which pages it writes",
        "not promised; what it cannot be used for, see case `stale-export`",
    ),
    Attack::unmade(
        "18",
        "ask for types and pins of its pages",
        "`xl save` needs them, and a map of a page table shows them",
    ),
    Attack::new(
        "hypercall-page",
        "13",
        "have a data page filled with hypercall stubs",
        |scene| {
            let [data, _] = scene.data()?;
            ask(scene, HYPERCALL_INIT, &[data.frame.0])
        },
    ),
    Attack::new("gdbsx-memory", "14", "read memory as a debugger", |scene| {
        ask(scene, GDBSX_GUESTMEMIO, &[0; 6])
    })
    .argued("builds that are not for debugging have no gdbsx"),
    Attack::new(
        "debugging",
        "14",
        "have every trap stop the guest for a debugger",
        |scene| {
            let came = ask(scene, SETDEBUGGING, &[1])?;
            let _ = ask(scene, SETDEBUGGING, &[0])?;
            Ok(came)
        },
    ),
    Attack::new("single-step", "15", "single-step a vCPU", |scene| {
        ask(scene, DEBUG_OP, &[pair(0, 1)])
    })
    .argued(HVM),
    Attack::new("trace-vcpu", "15", "record the branches of a vCPU", |scene| {
        ask(scene, VMTRACE_OP, &[pair(1, 0)])
    })
    .argued("the emulated CPU has no Processor Trace"),
    Attack::new(
        "hvm-context",
        "15",
        "read its state as that of a HVM guest",
        |scene| {
            let state = scene.xen.buffer(8192)?;
            ask(scene, GETHVMCONTEXT, &[8192, state.address()])
        },
    )
    .argued(HVM),
    Attack::unmade(
        "16",
        "open a ring for its events",
        "stock Xen 4.20 panics: vm_event_domctl() takes every domain for one with a p2m",
    ),
    Attack::new(
        "monitor",
        "16",
        "be told of its writes to control registers",
        |scene| ask(scene, MONITOR_OP, &[pair(0, 0), 0]),
    )
    .argued(HVM),
    Attack::new("mem-sharing", "16", "share its pages", |scene| {
        ask(scene, MEM_SHARING_OP, &[1, 1])
    })
    .argued(HVM),
    Attack::new(
        "mem-access",
        "16",
        "demand that somebody listens to its events",
        |scene| {
            after(control(scene.xen, scene.id(), SET_ACCESS_REQUIRED, &[1]), |_| {
                Ok(Came::Nothing(
                    "Xen notes it where it looks for HVM guests alone".to_owned(),
                ))
            })
        },
    )
    .argued(HVM),
    Attack::new("broken-page", "16", "declare a page broken", |scene| {
        let [data, _] = scene.data()?;
        ask(scene, SET_BROKEN_PAGE, &[data.pfn])
    })
    .argued(HVM),
    Attack::new("device-model", "16", "act as its device model", |scene| {
        let arguments = [scene.number(), 0, 0];
        let_through(
            scene
                .xen
                .call("an operation of a device model", DM_OP, &arguments),
        )
    })
    .argued(HVM),
    Attack::new("hvm-parameter", "16", "set one of its HVM parameters", |scene| {
        let call = crate::calls::words(scene.xen, &[pair(scene.id().0.into(), 4), 1])?;
        let_through(scene.xen.call("a parameter", HVM_OP, &[0, call.address()]))
    })
    .argued(HVM),
    Attack::new(
        "set-target",
        "19, R21",
        "give it power over dom0's other guests",
        |scene| ask(scene, SET_TARGET, &[0]),
    )
    .argued(HVM),
    Attack::new("assign-device", "20", "give it a device", |scene| {
        ask(scene, ASSIGN_DEVICE, &[pair(0, 0), 0x10])
    })
    .argued("the testbed has no IOMMU, and Xen gives no device without"),
    Attack::new(
        "iomem-permission",
        "20",
        "let it use a device's memory",
        |scene| ask(scene, IOMEM_PERMISSION, &[0xb8, 1, 1]),
    ),
    Attack::new("ioport-permission", "20", "let it use an I/O port", |scene| {
        ask(scene, IOPORT_PERMISSION, &[pair(0x80, 1), 1])
    }),
    Attack::new("irq-permission", "20", "let it use an interrupt", |scene| {
        ask(scene, IRQ_PERMISSION, &[pair(9, 1)])
    }),
    Attack::new("memory-mapping", "20", "map a device's memory into it", |scene| {
        ask(scene, MEMORY_MAPPING, &[0x100, 0xb8, 1, 1])
    }),
    Attack::new("bind-irq", "20", "bind an interrupt to it", |scene| {
        ask(scene, BIND_PT_IRQ, &[pair(9, 0), 0])
    })
    .argued("Xen binds only interrupts of devices that the guest has"),
    Attack::new("set-handle", "36", "give it another uuid", |scene| {
        ask(scene, SETDOMAINHANDLE, &[0x5a5a_5a5a_5a5a_5a5a; 2])
    }),
    Attack::new("address-size", "36, R21", "make it a 32-bit guest", |scene| {
        ask(scene, SET_ADDRESS_SIZE, &[32])
    })
    .argued("Xen changes only a domain without memory"),
    Attack::new("cpu-policy", "35", "give it another CPU policy", |scene| {
        ask(scene, SET_CPU_POLICY, &[0; 3])
    })
    .argued("Xen changes none once a guest has run"),
    Attack::new(
        "soft-reset",
        "38",
        "reset it while it keeps its memory",
        |scene| ask(scene, SOFT_RESET, &[]),
    )
    .argued(HVM),
    Attack::new(
        "remote-suspend",
        "38, R4",
        "suspend it at any instruction",
        |scene| {
            after(remote_suspend(scene.xen, scene.id()), |()| {
                export::resume(scene.xen, scene.id())?;
                Ok(Came::Through("it was suspended, and went on".to_owned()))
            })
        },
    ),
];

const HVM: &str = "for HVM guests alone";

fn ask(scene: &Scene<'_>, command: u32, body: &[u64]) -> Result<Came> {
    let_through(control(scene.xen, scene.id(), command, body))
}

const SETDOMAINHANDLE: u32 = 17;
const SETDEBUGGING: u32 = 18;
const IRQ_PERMISSION: u32 = 19;
const IOMEM_PERMISSION: u32 = 20;
const IOPORT_PERMISSION: u32 = 21;
const HYPERCALL_INIT: u32 = 22;
const GETHVMCONTEXT: u32 = 33;
const SET_ADDRESS_SIZE: u32 = 35;
const ASSIGN_DEVICE: u32 = 37;
const BIND_PT_IRQ: u32 = 38;
const MEMORY_MAPPING: u32 = 39;
const SET_TARGET: u32 = 46;
const DEBUG_OP: u32 = 54;
const MEM_SHARING_OP: u32 = 57;
const SET_ACCESS_REQUIRED: u32 = 64;
const SET_BROKEN_PAGE: u32 = 67;
const MONITOR_OP: u32 = 77;
const SOFT_RESET: u32 = 79;
const SET_CPU_POLICY: u32 = 83;
const VMTRACE_OP: u32 = 84;
const GDBSX_GUESTMEMIO: u32 = 1000;
