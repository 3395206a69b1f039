//! Guests whose PFNs are not simply those below their memory at start.

use crate::case::{Problem, Verdict, demand};
use crate::cases::cycle::{cycle, resize};
use crate::cases::migrate::migrate;
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use vmcrypt_guest::Role;

/// Room for more memory than there is at start: Linux makes its P2M for all of it.
pub fn maxmem(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("roomy").max_memory_mib(512))?;
    let first = cycle(dom0, &mut guest)?;
    checkpoint(dom0, &mut guest)?;
    let second = cycle(dom0, &mut guest)?;
    Ok(format!("{first}; after a checkpoint {second}"))
}

/// Linux takes the highest PFNs first, which nobody had when the guest was sealed.
pub fn grown(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("grown").memory_mib(160).max_memory_mib(512))?;
    for mib in [224, 144] {
        resize(dom0, &mut guest, mib)?;
        cycle(dom0, &mut guest)?;
    }
    checkpoint(dom0, &mut guest)?;
    Ok("saved and restored at 224 and at 144 MiB, then a checkpoint; all roles go on".to_owned())
}

/// dom0 raises the limit, and the guest makes room for what it did not know of.
pub fn hotplug(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("plugged"))?;
    dom0.must("xl mem-max plugged 300", SHORT)?;
    resize(dom0, &mut guest, 220)?;
    let first = cycle(dom0, &mut guest)?;
    let second = cycle(dom0, &mut guest)?;
    Ok(format!("{first}; {second}"))
}

/// Linux takes PFNs without memory for what it maps by grants.
pub fn grants(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("grants").roles(&[Role::Secret, Role::Grants]))?;
    let first = cycle(dom0, &mut guest)?;
    let second = cycle(dom0, &mut guest)?;
    Ok(format!("{first}; {second}"))
}

/// The map is gone after the restore, on stock Xen, too; everything else is there.
pub fn grants_held(dom0: &mut Dom0) -> Verdict {
    let spec = Spec::new("held")
        .roles(&[Role::Secret, Role::Grants])
        .arguments("vmcrypt.grants=held");
    let mut guest = dom0.create(spec)?;
    cycle(dom0, &mut guest)
}

/// Live, where pages are sent before the guest stops.
pub fn migrated(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("roomy").max_memory_mib(512))?;
    migrate(dom0, &mut guest)?;
    resize(dom0, &mut guest, 200)?;
    let answer = migrate(dom0, &mut guest)?;
    Ok(format!(
        "migrated at 128 and at 200 MiB, in {:.1} s; all roles go on",
        answer.time.as_secs_f64()
    ))
}

/// Memory and maxmem, in MiB: far apart, and where the P2M just fills a page table, or just does not.
const SHAPES: &[(u32, u32)] = &[
    (200, 65536),
    (301, 2560),
    (256, 1024),
    (256, 1026),
    (256, 1022),
    (129, 131),
    (256, 4096),
];

/// One guest after the other.
pub fn shapes(dom0: &mut Dom0) -> Verdict {
    let mut done = Vec::new();
    for &(memory, most) in SHAPES {
        let name = format!("shape-{memory}-{most}");
        let mut guest = dom0.create(Spec::new(&name).memory_mib(memory).max_memory_mib(most))?;
        cycle(dom0, &mut guest)?;
        done.push(format!("{memory}:{most}"));
        dom0.destroy(&name)?;
        dom0.run(&format!("rm -f {}", guest.image()))?;
    }
    Ok(format!("saved and restored: {}", done.join(", ")))
}

/// Guests that differ in something else than memory.
fn variants() -> Vec<(&'static str, Spec)> {
    let small = || Spec::new("variant").memory_mib(112);
    vec![
        ("33 vCPUs", small().memory_mib(192).vcpus(33)),
        ("8 vCPUs, 7 of them offline", small().max_vcpus(8)),
        ("E820 map of the host", small().configuration("e820_host = 1\n")),
        (
            "memory exchanged for bounce buffers",
            small().arguments("swiotlb=force"),
        ),
        (
            "no XSAVE in its policy",
            small().configuration("cpuid = \"host,xsave=0\"\n"),
        ),
        (
            "no AES in its policy",
            small().configuration("cpuid = \"host,aes=0\"\n"),
        ),
        (
            "TSC emulated",
            small().configuration("tsc_mode = \"always_emulate\"\n"),
        ),
        ("TSC native", small().configuration("tsc_mode = \"native\"\n")),
    ]
}

/// One variant after the other: a checkpoint, two cycles, and the end of each is told.
pub fn varied(dom0: &mut Dom0) -> Verdict {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (what, spec) in variants() {
        dom0.note(&format!("\nvariant: {what}"));
        match variant(dom0, spec) {
            Ok(()) => good.push(what.to_owned()),
            Err(Problem::Fail(said)) => bad.push(format!("{what}: {said}")),
            Err(other) => return Err(other),
        }
        dom0.clean()?;
    }
    demand!(
        bad.is_empty(),
        "{}; these came back: {}",
        bad.join("; "),
        good.join(", ")
    );
    Ok(good.join(", "))
}

fn variant(dom0: &mut Dom0, spec: Spec) -> Result<(), Problem> {
    let mut guest = dom0.create(spec)?;
    checkpoint(dom0, &mut guest)?;
    cycle(dom0, &mut guest)?;
    cycle(dom0, &mut guest)?;
    Ok(())
}

/// Saves a guest that goes on.
fn checkpoint(dom0: &mut Dom0, guest: &mut Guest) -> Result<(), Problem> {
    let name = guest.name();
    dom0.must(&format!("xl save -c {name} /root/{name}.checkpoint.img"), LONG)?;
    dom0.await_alive(guest)
}
