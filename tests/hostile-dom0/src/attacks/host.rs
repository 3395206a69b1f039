//! Calls that concern the whole host, and a guest by that.
//!
//! Some would end the machine, or need what an emulator does not have. Those are made with an argument that the operation
//! itself refuses: then it is its errno that comes back, not that of a door which is shut.

use super::{Attack, Came, Scene, after, let_through, secret_in};
use crate::calls::{HYPFS_OP, KEXEC_OP, MCA, XENOPROF_OP, XENPMU_OP, pair, platform, sysctl, words};
use anyhow::Result;
use std::thread::sleep;
use std::time::Duration;
use vmcrypt_tools::hypercall::Error;
use vmcrypt_tools::xen;

pub const ATTACKS: &[Attack] = &[
    Attack::unmade(
        "21",
        "dom0's own devices write into guests",
        "the testbed has no IOMMU; see the threat model",
    ),
    Attack::new(
        "kexec-load",
        "22",
        "load code that runs on all memory after Xen",
        |scene| {
            // EM_X86_64; one page to 16 MiB.
            let page = scene.xen.buffer(4096)?;
            let segment = words(scene.xen, &[page.address(), 4096, 16 << 20, 4096])?;
            let call = words(scene.xen, &[62 << 16 | 1 << 32, segment.address(), 16 << 20])?;
            let came = let_through(scene.xen.call("an image", KEXEC_OP, &[4, call.address()]))?;
            // And away with it: unload, of the default kind.
            let kind = words(scene.xen, &[0])?;
            let _ = scene.xen.call("no image", KEXEC_OP, &[5, kind.address()]);
            Ok(came)
        },
    ),
    Attack::new("livepatch", "23", "change Xen's code", |scene| {
        // The list of patches, of which none is asked for.
        let_through(sysctl(scene.xen, 27, &[pair(2, 0), 0, 0, 0, 0, 0, 0, 0, 0]))
    }),
    Attack::new("microcode", "24", "load microcode", |scene| {
        let data = scene.xen.buffer(4096)?;
        reached(platform(scene.xen, 35, &[data.address(), 48]))
    }),
    Attack::new(
        "sleep",
        "25",
        "put the machine to sleep with keys in memory",
        |scene| {
            // S3, with a flag that does not exist.
            reached(platform(scene.xen, 51, &[3 << 32, 2]))
        },
    ),
    Attack::new(
        "debug-keys",
        "26",
        "have Xen print registers of running guests",
        |scene| {
            // What follows the name of the guest, if it is shown; in its place stands that it is hidden.
            let shown = |text: &str| {
                let dumps = text
                    .split("*** Dumping")
                    .filter(|dump| dump.contains(&format!("(d{}v", scene.number())));
                dumps.filter(|dump| dump.contains("rax:")).count() > 0
            };
            let mut from = drain(scene, 0)?.1;
            let key = words(scene.xen, &[u64::from(b'd')])?;
            for _ in 0..80 {
                let pressed = sysctl(scene.xen, 7, &[key.address(), 1]);
                if let Err(error) = pressed {
                    return after(Err::<(), _>(error), |()| unreachable!());
                }
                let (text, next) = drain(scene, from)?;
                from = next;
                if shown(&text) {
                    return Ok(Came::Through("its registers are on Xen's console".to_owned()));
                }
                sleep(Duration::from_millis(7));
            }
            Ok(Came::Nothing(
                "80 key presses, and nothing of it on Xen's console".to_owned(),
            ))
        },
    ),
    Attack::new(
        "console-ring",
        "26",
        "look for the secret in what Xen logged",
        |scene| secret_in(drain(scene, 0)?.0.as_bytes(), "Xen's log"),
    )
    .argued("Xen prints stack words as numbers: see `debug-keys`, and case `consoles`"),
    Attack::new("trace-buffers", "27", "record what guests do", |scene| {
        let mut body = [0; 8];
        // Set the size, to a page.
        body[0] = 3;
        body[5] = 1;
        let came = let_through(sysctl(scene.xen, 2, &body))?;
        body[0] = 5;
        let _ = sysctl(scene.xen, 2, &body);
        Ok(came)
    }),
    Attack::new("vpmu", "28", "sample guests by performance counters", |scene| {
        let call = words(scene.xen, &[pair(0, 1), 2, 0, 0])?;
        let_through(scene.xen.call("sampling", XENPMU_OP, &[1, call.address()]))
    })
    .argued("off unless Xen's command line says vpmu, which the emulated CPU cannot do"),
    Attack::new("xenoprof", "28", "sample guests by the profiler", |scene| {
        let call = words(scene.xen, &[0; 8])?;
        let_through(scene.xen.call("the profiler", XENOPROF_OP, &[0, call.address()]))
    })
    .argued("no build has it unless asked for"),
    Attack::new(
        "page-offline",
        "29",
        "have a page taken out of use, to be exchanged through dom0",
        |scene| {
            // From a page to the one before. Stock Xen takes the page itself, and then hangs at the guest's end: it
            // gives back a lock of the guest's p2m that nobody has taken.
            let [data, _] = scene.data()?;
            let frame = data.frame.0 as u32;
            let status = scene.xen.buffer(4)?;
            let call = [pair(1, frame), u64::from(frame) - 1, status.address()];
            reached(sysctl(scene.xen, 14, &call))
        },
    ),
    Attack::new("inject-machine-check", "30", "pretend a machine check", |scene| {
        // A kind of injection that does not exist.
        let call = words(scene.xen, &[pair(6, 0x01ec_c003), pair(0xff, 0), 0, 0])?;
        reached(scene.xen.call("a machine check", MCA, &[call.address()]))
    }),
    Attack::unmade(
        "31",
        "write model-specific registers",
        "cpufreq=xen is the default: Xen lets dom0 write none that matters",
    ),
    Attack::unmade(
        "32",
        "reprogram the chipset",
        "the emulated one has no SMM to reach; measured boot is the answer",
    ),
    Attack::unmade(
        "33",
        "read the L1 cache by L1TF",
        "an emulated CPU has no such fault",
    ),
    Attack::unmade(
        "34",
        "watch caches and schedules",
        "side channels are not promised",
    ),
    Attack::unmade(
        "37, 39",
        "destroy a guest, close its event channels",
        "availability is not promised",
    ),
    Attack::new("hypfs-write", "40", "change Xen's options at run time", |scene| {
        let mut path = scene.xen.buffer(64)?;
        let name = b"/params/pcid\0";
        path.fill(0, name);
        let mut value = scene.xen.buffer(64)?;
        value.fill(0, b"no\0");
        let arguments = [2, path.address(), name.len() as u64, value.address(), 3];
        reached(scene.xen.call("an option", HYPFS_OP, &arguments))
    }),
    Attack::new("symbols", "40", "get addresses of Xen's functions", |scene| {
        let name = scene.xen.buffer(128)?;
        after(
            platform(scene.xen, 63, &[pair(128, 0), name.address(), 0, 0]),
            |call| {
                let address: u64 = call.get(8 + 16);
                Ok(match address {
                    0 => Came::Nothing("no address".to_owned()),
                    _ => Came::Through(format!("the first is at {address:#x}")),
                })
            },
        )
    }),
    Attack::new("read-msr", "40", "read a register of the machine", |scene| {
        // The time stamp counter.
        let entry = words(scene.xen, &[0, 0x10, 0])?;
        after(platform(scene.xen, 61, &[pair(1, 0), entry.address()]), |_| {
            Ok(match (entry.get::<u32>(0), entry.get::<u64>(16)) {
                (0, 1..) => Came::Through(format!("it holds {:#x}", entry.get::<u64>(16))),
                (status, _) => Came::Nothing(format!("status {status:#x}")),
            })
        })
    }),
    Attack::new("coverage", "40", "read which code of Xen's ran", |scene| {
        let_through(sysctl(scene.xen, 20, &[0; 4]))
    })
    .argued("no build has it unless asked for"),
    Attack::unmade(
        "40",
        "change the firmware's variables",
        "they are dom0's: case `efi` shows that it can set one",
    ),
    Attack::unmade(
        "41",
        "send messages by argo",
        "off unless Xen's command line says argo",
    ),
    Attack::unmade(
        "42",
        "replace Xen on the disk",
        "only measured boot can answer that",
    ),
];

/// Whether the call came as far as the operation itself.
fn reached<T>(result: Result<T, Error>) -> Result<Came> {
    const CLOSED: [i32; 4] = [1, 13, 38, 95]; // EPERM, EACCES, ENOSYS, EOPNOTSUPP
    match result {
        Err(error) if error.errno().is_some_and(|errno| !CLOSED.contains(&errno)) => {
            Ok(Came::Through(format!("the operation itself answered: {error}")))
        }
        other => let_through(other),
    }
}

/// What Xen has logged behind a place.
fn drain(scene: &Scene<'_>, from: u32) -> Result<(String, u32)> {
    let (mut all, mut from) = (String::new(), from);
    loop {
        let (text, next) = xen::console(scene.xen, from)?;
        from = next;
        if text.is_empty() {
            return Ok((all, from));
        }
        all += &text;
    }
}
