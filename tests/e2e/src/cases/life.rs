//! What an administrator does to a guest on an ordinary day, by stock `xl`.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use vmcrypt_guest::{Role, secret};

/// Everything works, and what shows memory shows ciphertext.
pub fn protected(dom0: &mut Dom0) -> Verdict {
    let (done, core) = day(dom0)?;
    demand!(core == 0, "{core} lines of the secret are in a core dump");
    Ok(format!("{done} commands; nothing of the secret in the core dump"))
}

/// The same commands on stock Xen.
pub fn stock(dom0: &mut Dom0) -> Verdict {
    let (done, core) = day(dom0)?;
    let most = secret::LINES as u64 * 9 / 10;
    demand!(core >= most, "only {core} lines of the secret are in a core dump");
    Ok(format!(
        "{done} commands; {core} lines of the secret in the core dump"
    ))
}

/// How many commands succeeded, and how often the secret is in the core dump.
fn day(dom0: &mut Dom0) -> Result<(usize, u64), Problem> {
    const STEPS: [&str; 21] = [
        "xl list | grep -q ordinary",
        "xl list -l ordinary | grep -q '\"name\": \"ordinary\"'",
        "xl info | grep -q free_memory",
        "xl vcpu-list ordinary | grep -q ordinary",
        "xl uptime ordinary",
        "xl pause ordinary && xl list ordinary | grep -q ' --p---' && xl unpause ordinary",
        "xl sysrq ordinary h",
        "xl mem-set ordinary 110m",
        "xl mem-set ordinary 128m",
        "xl mem-max ordinary 128m",
        "xl vcpu-set ordinary 2",
        "xl vcpu-set ordinary 1",
        "xl vcpu-pin ordinary 0 all",
        "truncate -s 16M /root/more.disk && \
         xl block-attach ordinary format=raw,vdev=xvdb,access=rw,target=/root/more.disk",
        "xl block-list ordinary | grep -q 51728 && xl block-detach ordinary xvdb",
        "xl network-attach ordinary bridge=xenbr0",
        "xl network-list ordinary | grep -q 'vif/[0-9]*/1' && xl network-detach ordinary 1",
        "xl sched-credit2 -d ordinary -w 300",
        "xl sched-credit2 -d ordinary | grep -q 300",
        "xl rename ordinary renamed && xl domid renamed",
        "xl rename renamed ordinary",
    ];
    let spec = Spec::new("ordinary")
        .max_vcpus(2)
        .roles(&[Role::Secret, Role::Disk, Role::Net]);
    let mut guest: Guest = dom0.create(spec)?;
    for step in STEPS {
        dom0.must(step, LONG)?;
        dom0.await_alive(&mut guest)?;
    }
    dom0.must("xl dump-core ordinary /root/ordinary.core", LONG)?;
    let core = dom0.secret_lines("/root/ordinary.core")?;
    dom0.run("rm /root/ordinary.core")?;
    dom0.await_alive(&mut guest)?;
    dom0.save(&guest)?;
    dom0.restore(&mut guest)?;
    dom0.must("xl trigger ordinary nmi", SHORT)?;
    dom0.await_alive(&mut guest)?;
    // The guest's init does not listen, on any Xen: what counts is that it could have.
    dom0.must("xl shutdown ordinary", SHORT)?;
    dom0.must("xl destroy ordinary", SHORT)?;
    Ok((STEPS.len() + 8, core))
}

/// What Xen itself writes into a guest's pages, events as a flood among it, neither breaks a save nor shows.
pub fn xen_writes(dom0: &mut Dom0) -> Verdict {
    let spec = Spec::new("written")
        .vcpus(2)
        .arguments("loglevel=7")
        .roles(&[Role::Secret, Role::Dirty]);
    let mut guest = dom0.create(spec)?;
    dom0.must(
        "grep -q 'FIFO-based ABI' /var/log/xen/console/guest-written.log",
        SHORT,
    )?;
    // Events while it runs, while it is paused, and while it is saved.
    const FLOOD: &str = "(while [ -e /tmp/flood ]; do xl sysrq written h; done) >/dev/null 2>&1 </dev/null &";
    dom0.run(&format!("touch /tmp/flood; {FLOOD}"))?;
    let running = swept(dom0, &guest)?;
    dom0.run("xl pause written; sleep 2")?;
    let paused = swept(dom0, &guest)?;
    dom0.run("xl unpause written")?;
    dom0.must(&format!("xl save -c written {}", guest.image()), LONG)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(lines == 0, "{lines} lines of the secret are in the image");
    dom0.await_alive(&mut guest)?;
    dom0.save(&guest)?;
    dom0.run("rm /tmp/flood")?;
    dom0.restore(&mut guest)?;
    let restored = swept(dom0, &guest)?;
    Ok(format!(
        "pages read while it ran, was paused, was restored: {running}, {paused}, {restored}; nothing of the secret"
    ))
}

/// How many pages a sweep read, in vain.
fn swept(dom0: &mut Dom0, guest: &Guest) -> Result<u64, Problem> {
    let report = dom0.sweep(guest)?;
    demand!(
        report["needles"]["occurrences"] == 0 && report["other"] == 0,
        "a sweep saw something: {report}"
    );
    let mapped = report["mapped"].as_u64().unwrap_or(0);
    demand!(mapped > 20_000, "only {mapped} pages could be mapped: {report}");
    Ok(mapped)
}
