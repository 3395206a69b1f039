//! Launch measurement: one value in Xen and without it, and another one for everything that differs.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use std::collections::BTreeSet;

/// Kernels on dom0's disk: the ELF file that all cases use, and the bzImage that it was taken from.
const KERNELS: [&str; 2] = ["/boot/vmlinux", "$(ls /boot/vmlinuz-* | head -n 1)"];

/// Equal values, in Xen and without it, for kernels and configurations.
pub fn agrees(dom0: &mut Dom0) -> Verdict {
    let mut values = BTreeSet::new();
    let specs = [
        Spec::new("plain"),
        Spec::new("other")
            .memory_mib(160)
            .vcpus(2)
            .arguments("quiet vmcrypt.other"),
    ];
    for spec in specs {
        let name = spec.name.clone();
        let mut guest = dom0.create_paused(spec.clone())?;
        let (found, pages) = (offline(dom0, &name)?, format!("/root/{name}.cfg"));
        demand!(
            dom0.status(&guest)?["measurement"].is_null(),
            "{name} is measured before it was built to the end"
        );
        let domid = dom0.domid(&guest)?;
        dom0.run_for(
            &format!("vmcrypt-hostile launch-pages {domid} >/root/{name}.pages"),
            LONG,
        )?;
        dom0.start(&mut guest)?;
        let value = dom0.status(&guest)?["measurement"].clone();
        if value != found.as_str() {
            let difference = dom0.try_run(
                &format!("vmcrypt measure --pages {pages} >/root/{name}.offline; diff /root/{name}.pages /root/{name}.offline | head -n 60"),
                LONG,
            )?;
            demand!(
                false,
                "{name}: Xen measured {value}, offline it is {found}; pages: {}",
                difference.text()
            );
        }
        values.insert(found.clone());
        dom0.run(&format!("xl destroy {name}"))?;
        // Frames elsewhere, the same value.
        let again = measured(dom0, spec)?;
        demand!(
            again == found,
            "{name}: the second launch measured {again}, the first one {found}"
        );
    }
    demand!(values.len() == 2, "two configurations have one value: {values:?}");
    let unpacked = offline(dom0, "plain")?;
    let packed = dom0.run_for(
        &format!("vmcrypt measure {} /share/guest.cpio /root/plain.cfg", KERNELS[1]),
        LONG,
    )?;
    demand!(
        packed.text() == unpacked,
        "bzImage {} and the ELF file in it {unpacked} differ",
        packed.text()
    );
    Ok(format!(
        "the same value in Xen and offline: {}",
        values.into_iter().collect::<Vec<_>>().join(", ")
    ))
}

/// Creates a guest, lets it begin, and destroys it: what Xen measured.
fn measured(dom0: &mut Dom0, spec: Spec) -> Result<String, Problem> {
    let guest = dom0.create_paused(spec)?;
    dom0.must(&format!("xl unpause {}", guest.name()), SHORT)?;
    let status = dom0.status(&guest)?;
    dom0.run(&format!("xl destroy {}", guest.name()))?;
    status["measurement"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Problem::Fail(format!("{} runs and has no measurement: {status}", guest.name())))
}

fn offline(dom0: &mut Dom0, name: &str) -> Result<String, Problem> {
    Ok(dom0
        .must(&format!("vmcrypt measure /root/{name}.cfg"), LONG)?
        .text())
}
