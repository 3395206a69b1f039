//! Launch measurement: one value in Xen and without it, and another one for everything that differs.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG};
use crate::guest::Spec;
use serde_json::Value;
use std::collections::BTreeMap;

/// Debian's cloud kernel, as it is packed.
const OTHER_KERNEL: &str = "/share/vmlinuz-other";

/// Two kernels under two configurations.
pub fn agrees(dom0: &mut Dom0) -> Verdict {
    let mut values = BTreeMap::new();
    let small = Spec::new("small");
    let large = Spec::new("large")
        .memory_mib(160)
        .vcpus(2)
        .arguments("vmcrypt.other");
    for (spec, kernel) in [
        (&small, None),
        (&large, None),
        (&small, Some(OTHER_KERNEL)),
        (&large, Some(OTHER_KERNEL)),
    ] {
        let name = spec.name.clone();
        write_config(dom0, spec, kernel)?;
        let expected = offline(dom0, &format!("/root/{name}.cfg"))?;
        create(dom0, &name)?;
        let domid = dom0.run(&format!("xl domid {name}"))?.text();
        let before = launch(dom0, &domid)?;
        demand!(
            before.is_none(),
            "{name} has a measurement before its first unpause: {before:?}"
        );
        dom0.must(&format!("xl unpause {name}"), LONG)?;
        let found = launch(dom0, &domid)?;
        if found.as_deref() != Some(&expected) {
            dom0.run(&format!("xl destroy {name}"))?;
            create(dom0, &name)?;
            let difference = difference(dom0, &name)?;
            demand!(
                false,
                "{name}, {kernel:?}: Xen measured {found:?}, offline it is {expected}; where they differ: {difference}"
            );
        }
        dom0.run(&format!("xl destroy {name}"))?;
        values.insert(expected, (name, kernel));
    }
    demand!(values.len() == 4, "different launches have one value: {values:?}");
    let values: Vec<&str> = values.keys().map(|value| &value[..16]).collect();
    Ok(format!(
        "two kernels under two configurations, Xen and offline agree: {}",
        values.join(" ")
    ))
}

/// Everything that dom0 could change gives another value, or is refused.
pub fn differs(dom0: &mut Dom0) -> Verdict {
    let spec = Spec::new("edited");
    write_config(dom0, &spec, None)?;
    let config = "/root/edited.cfg";
    let expected = offline(dom0, config)?;
    let mut seen = BTreeMap::from([(expected.clone(), "nothing")]);

    // What goes into the domain, by the tool alone: a byte of it is enough.
    dom0.run(
        "cp /share/guest.cpio /root/edited.cpio; printf X | dd of=/root/edited.cpio bs=1 seek=1000000 conv=notrunc; \
         cp /boot/vmlinux /root/edited.elf; printf X | dd of=/root/edited.elf bs=1 seek=9000000 conv=notrunc",
    )?;
    for (what, command) in [
        (
            "a byte of the initrd",
            "vmcrypt measure /boot/vmlinux /root/edited.cpio /root/edited.cfg",
        ),
        (
            "a byte of the kernel",
            "vmcrypt measure /root/edited.elf /share/guest.cpio /root/edited.cfg",
        ),
        (
            "a letter of the command line",
            "sed 's/loglevel=4/loglevel=5/' /root/edited.cfg >/root/a.cfg; vmcrypt measure /root/a.cfg",
        ),
        (
            "the memory",
            "sed 's/^memory.*/memory = 127/' /root/edited.cfg >/root/b.cfg; vmcrypt measure /root/b.cfg",
        ),
        (
            "the memory limit",
            "sed 's/^maxmem.*/maxmem = 129/' /root/edited.cfg >/root/c.cfg; vmcrypt measure /root/c.cfg",
        ),
        (
            "the vCPUs",
            "sed 's/^maxvcpus.*/maxvcpus = 2/' /root/edited.cfg >/root/d.cfg; vmcrypt measure /root/d.cfg",
        ),
    ] {
        let value = dom0.must(command, LONG)?.text();
        if let Some(same) = seen.insert(value, what) {
            demand!(false, "{what} changed gives the same value as {same} changed");
        }
    }

    // What dom0 does to a domain that is built already.
    let mut refused = Vec::new();
    for (what, accepted) in [
        ("loaded", true),
        ("free-page", true),
        ("command-line", true),
        ("p2m", false),
        ("shared-info", false),
    ] {
        create(dom0, "edited")?;
        let domid = dom0.run("xl domid edited")?.text();
        let edit = format!("launch-edit {domid} {what}");
        dom0.attack(&edit, LONG)?;
        let status = unpause(dom0, &domid)?;
        demand!(
            (status["state"] == "running") == accepted,
            "{what} edited: the unpause should {}have been refused: {status}",
            if accepted { "not " } else { "" }
        );
        if !accepted {
            let why = &status["last_refusal"];
            demand!(why == "launch-form", "{what} edited: refused for {why}");
            refused.push(what);
            // The same once more takes the edit back.
            dom0.attack(&edit, LONG)?;
            let status = unpause(dom0, &domid)?;
            demand!(status["state"] == "running", "{what} edited and undone: {status}");
        }
        let found = launch(dom0, &domid)?;
        dom0.run("xl destroy edited")?;
        let found = found.ok_or_else(|| Problem::Fail(format!("{what} edited: no measurement")))?;
        demand!(
            (found == expected) != accepted,
            "{what} edited: measured {found}, unedited it is {expected}"
        );
        if accepted && let Some(same) = seen.insert(found, what) {
            demand!(false, "{what} edited gives the same value as {same}");
        }
    }
    Ok(format!(
        "{} launches that differ in a byte or a number, as many values; refused, and accepted once undone: {}",
        seen.len(),
        refused.join(", ")
    ))
}

/// The pages in which a domain that is built differs from what it should be.
fn difference(dom0: &mut Dom0, name: &str) -> Result<String, Problem> {
    let command = format!(
        "vmcrypt-hostile launch-pages $(xl domid {name}) >/root/{name}.pages; \
         vmcrypt measure --pages /root/{name}.cfg >/root/{name}.offline; \
         diff /root/{name}.pages /root/{name}.offline | head -n 60"
    );
    Ok(dom0.try_run(&command, LONG)?.text())
}

pub(super) fn write_config(dom0: &mut Dom0, spec: &Spec, kernel: Option<&str>) -> Result<(), Problem> {
    let config = spec.xl_config();
    let config = match kernel {
        Some(kernel) => config.replace("/boot/vmlinux", kernel),
        None => config,
    };
    dom0.run(&format!("cat >/root/{}.cfg <<'EOF'\n{config}EOF", spec.name))?;
    Ok(())
}

pub(super) fn create(dom0: &mut Dom0, name: &str) -> Result<(), Problem> {
    dom0.must(&format!("xl create -q -p /root/{name}.cfg"), LONG)?;
    Ok(())
}

/// `xl unpause`, which says nothing if Xen refuses; what became of it.
pub(super) fn unpause(dom0: &mut Dom0, domid: &str) -> Result<Value, Problem> {
    dom0.try_run(&format!("xl unpause {domid}"), LONG)?;
    let status = dom0.json(&format!("vmcrypt status {domid} --json"))?;
    Ok(status["domains"][0].clone())
}

/// What Xen measured.
fn launch(dom0: &mut Dom0, domid: &str) -> Result<Option<String>, Problem> {
    let status = dom0.json(&format!("vmcrypt status {domid} --json"))?;
    Ok(status["domains"][0]["measurement"].as_str().map(str::to_owned))
}

pub(super) fn offline(dom0: &mut Dom0, config: &str) -> Result<String, Problem> {
    Ok(dom0.must(&format!("vmcrypt measure {config}"), LONG)?.text())
}
