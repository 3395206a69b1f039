//! Old images and copies: a guest lives on in one place and never goes back.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use anyhow::{Context, anyhow};
use vmcrypt_core::record::{Header, MAGIC};
use vmcrypt_guest::Role;

/// What Xen's log says of an image that must not be restored any more.
const SPENT: &str = "restored before, or the domain ran on";
/// What it says of a guest that lives on elsewhere.
const ELSEWHERE: &str = "restored from its image and lives on there";
/// A receiver of a migration that keeps everything and never answers (`tools/xl/xl.h`, `migrate_receiver_banner`).
const EATER: &str =
    "printf 'xl migration receiver ready, send binary domain data.\\n'; exec cat >/root/copy.img";

/// One image after another.
pub fn rollback(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("again"))?;
    dom0.must("xl save -c again /root/first.img", LONG)?;
    dom0.await_alive(&mut guest)?;
    dom0.must("xl save again /root/second.img", LONG)?;
    dom0.restore_refused("/root/first.img", SPENT)?;
    dom0.must("xl restore /root/second.img", LONG)?;
    dom0.await_alive(&mut guest)?;
    dom0.destroy("again")?;
    dom0.restore_refused("/root/second.img", SPENT)?;
    Ok(
        "refused: the image of a guest that went on, and the second restore of the latest; hash intact"
            .to_owned(),
    )
}

/// Two records of one suspend: dom0 asks for another when it has the image.
pub fn two_records(dom0: &mut Dom0) -> Verdict {
    let stopped = dom0.create(Spec::new("stopped"))?;
    let mut copy = eat(dom0, &stopped)?;
    let domid = dom0.domid(&stopped)?;
    let answer = dom0.attack(&format!("record {domid} /root/second.record"), SHORT)?;
    demand!(answer["errno"] == 0, "no second record was given out: {answer}");
    dom0.restore_refused("/root/copy.cfg /root/copy.img", SPENT)?;

    // The pages are the session's, so that they belong to its last record, too.
    let mut image = dom0.take("/root/copy.img")?;
    let record = dom0.take("/root/second.record")?;
    let at = memchr::memmem::find(&image, &MAGIC).context("no record in the image")?;
    let header = |bytes: &[u8]| Header::read(bytes).map(|header| (header.session, header.sequence));
    let second = header(&record).map_err(|refusal| anyhow!(refusal.text()))?;
    let first = header(image.get(at..at + record.len()).context("a shorter record")?);
    demand!(
        first == Ok((second.0, 0)) && second.1 == 1,
        "not two records of one session: {first:?}, {second:?}"
    );
    image[at..at + record.len()].copy_from_slice(&record);
    let good = dom0.give(&image)?;
    dom0.must(&format!("xl restore /root/copy.cfg {good}"), LONG)?;
    dom0.await_alive(&mut copy)?;
    dom0.run("pkill -f '[m]igrate'; xl destroy copy; xl destroy stopped")?;
    dom0.restore_refused(&format!("/root/copy.cfg {good}"), SPENT)?;
    Ok("refused: the first of two records of one suspend; restored by the last one, once".to_owned())
}

/// The same on a hypervisor that does not care.
pub fn canary(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("again"))?;
    dom0.must("xl save -c again /root/first.img", LONG)?;
    // Far enough for its going back to show.
    dom0.await_alive(&mut guest)?;
    dom0.await_alive(&mut guest)?;
    for turn in 1..=2 {
        dom0.destroy("again")?;
        dom0.must("xl restore /root/first.img", LONG)?;
        let back =
            matches!(dom0.await_alive(&mut guest), Err(Problem::Fail(said)) if said.contains("went back"));
        demand!(back, "restored for the {turn}. time, the guest did not go back");
    }
    Ok("went back twice to an image from before".to_owned())
}

/// Copies, made by receivers of a migration.
pub fn fork(dom0: &mut Dom0) -> Verdict {
    let stopped = dom0.create(Spec::new("stopped"))?;
    let mut copy = eat(dom0, &stopped)?;
    dom0.must("xl restore /root/copy.cfg /root/copy.img", LONG)?;
    dom0.await_alive(&mut copy)?;
    dom0.xen_log()?;
    let domid = dom0.domid(&stopped)?;
    let answer = dom0.attack(&format!("resume {domid}"), SHORT)?;
    demand!(
        answer["errno"] == EEXIST,
        "the guest goes on beside its copy: {answer}"
    );
    let log = dom0.xen_log()?;
    demand!(log.contains(ELSEWHERE), "Xen's log does not say why: {log}");
    dom0.await_alive(&mut copy)?;
    dom0.run("pkill -f '[m]igrate'; xl destroy copy; xl destroy stopped")?;

    let mut resumed = dom0.create(Spec::new("resumed"))?;
    eat(dom0, &resumed)?;
    // The receiver dies, and xl lets the guest go on.
    dom0.run("pkill -x cat")?;
    dom0.await_alive(&mut resumed)?;
    dom0.restore_refused("/root/copy.cfg /root/copy.img", SPENT)?;
    dom0.await_alive(&mut resumed)?;
    Ok("refused: to resume what was restored from its copy, to restore what was resumed".to_owned())
}

/// `xl save -p` leaves the guest paused beside its image: both are one life, and whichever runs first has it.
pub fn save_paused(dom0: &mut Dom0) -> Verdict {
    let spec = Spec::new("original").roles(&[Role::Secret, Role::Disk]);
    let mut guest = dom0.create(spec)?;
    let config = twin(dom0, &guest, "copy")?;
    let copy = |guest: &Guest| {
        Guest::new(Spec {
            name: "copy".to_owned(),
            ..guest.spec.clone()
        })
    };

    // A configuration beside the image, and xl draws another uuid: Xen says which one it takes.
    leave_paused(dom0, &guest)?;
    let stranger = Spec {
        name: "stranger".to_owned(),
        ..guest.spec.clone()
    };
    dom0.run(&format!(
        "cat >/root/stranger.cfg <<'EOF'\n{}EOF",
        stranger.xl_config()
    ))?;
    dom0.run("cp --sparse=always /root/original.disk /root/stranger.disk")?;
    let wanted = format!("restore it with uuid = \"{}\"", uuid(dom0, &guest)?);
    dom0.restore_refused(&format!("/root/stranger.cfg {}", guest.image()), &wanted)?;
    dom0.must("xl unpause original", SHORT)?;
    dom0.await_alive(&mut guest)?;

    // A backup: the original never ran on. Neither a restore that fails nor a copy that never runs spends the image.
    leave_paused(dom0, &guest)?;
    dom0.destroy("original")?;
    dom0.run("mv /root/original.disk /root/away.disk")?;
    dom0.must_refuse(&format!("xl restore {}", guest.image()), LONG)?;
    dom0.run("mv /root/away.disk /root/original.disk")?;
    dom0.must(&format!("xl restore -p {}", guest.image()), LONG)?;
    dom0.destroy("original")?;
    dom0.must(&format!("xl restore -p {}", guest.image()), LONG)?;
    dom0.must("xl unpause original", LONG)?;
    dom0.await_alive(&mut guest)?;

    // The original runs on.
    leave_paused(dom0, &guest)?;
    dom0.must("xl unpause original", SHORT)?;
    dom0.await_alive(&mut guest)?;
    dom0.run("cp --sparse=always /root/original.disk /root/copy.disk")?;
    dom0.restore_refused(&format!("{config} {}", guest.image()), SPENT)?;
    dom0.await_alive(&mut guest)?;

    // A copy runs: the original never does again.
    leave_paused(dom0, &guest)?;
    dom0.run("cp --sparse=always /root/original.disk /root/copy.disk")?;
    dom0.must(&format!("xl restore {config} {}", guest.image()), LONG)?;
    let mut ran = copy(&guest);
    dom0.await_alive(&mut ran)?;
    for again in ["", " once more", " beside nobody"] {
        dom0.xen_log()?;
        dom0.run("xl unpause original")?;
        let log = dom0.xen_log()?;
        demand!(
            log.contains(ELSEWHERE),
            "unpaused{again}, Xen's log does not say why not: {log}"
        );
        demand!(
            paused(dom0, "original")?,
            "the original runs beside its copy, unpaused{again}"
        );
        if again == " once more" {
            dom0.destroy("copy")?;
        }
    }
    dom0.destroy("original")?;
    Ok(
        "one life: a copy of a guest that did not run on, the guest that did, the copy before the guest"
            .to_owned(),
    )
}

/// Both are unpaused at once, or the copy is destroyed while Xen verifies it: one lives on, or the other.
pub fn save_paused_race(dom0: &mut Dom0) -> Verdict {
    const TURNS: u32 = 4;
    let spec = Spec::new("original").memory_mib(96);
    let mut guest = dom0.create(spec.clone())?;
    let mut config = twin(dom0, &guest, "copy")?;
    let mut copies = 0;
    for turn in 0..TURNS {
        leave_paused(dom0, &guest)?;
        dom0.must(&format!("xl restore -p {config} {}", guest.image()), LONG)?;
        let delay = f64::from(turn / 2) * 0.2;
        let killed = turn % 2 == 1;
        dom0.xen_log()?;
        dom0.run(&if killed {
            format!("xl unpause copy & sleep {delay}; xl destroy copy; xl unpause original; wait; true")
        } else {
            format!("xl unpause copy & sleep {delay}; xl unpause original & wait; true")
        })?;
        let log = dom0.xen_log()?;
        let copied = log.contains("restored in");
        demand!(
            paused(dom0, "original")? == copied,
            "turn {turn}: of original and copy {} runs: {log}",
            if copied { "each" } else { "none" }
        );
        demand!(
            killed || paused(dom0, "copy")? != copied,
            "turn {turn}: the copy was{} restored, and it is not so: {log}",
            if copied { "" } else { " not" }
        );
        copies += u32::from(copied);
        if !copied {
            dom0.await_alive(&mut guest)?;
            dom0.destroy("copy")?;
            continue;
        }
        // Who has its life now, or had it, is asked for no further sign of it.
        dom0.run("xl destroy original; xl destroy copy; true")?;
        guest = dom0.create(spec.clone())?;
        config = twin(dom0, &guest, "copy")?;
    }
    Ok(format!(
        "{TURNS} turns: {copies} times the copy had the life, else the original, never both or none"
    ))
}

/// `xl save -p`, which ends with the guest paused.
fn leave_paused(dom0: &mut Dom0, guest: &Guest) -> Result<(), Problem> {
    dom0.must(&format!("xl save -p {} {}", guest.name(), guest.image()), LONG)?;
    demand!(
        paused(dom0, guest.name())?,
        "after xl save -p the guest is not paused"
    );
    Ok(())
}

fn paused(dom0: &mut Dom0, name: &str) -> Result<bool, Problem> {
    let list = dom0.run(&format!("xl list {name} | tail -n 1"))?.text();
    Ok(list
        .split_whitespace()
        .nth(4)
        .is_some_and(|state| state.contains('p')))
}

/// The configuration by which an image of `guest` is restored under another name.
pub fn twin(dom0: &mut Dom0, guest: &Guest, name: &str) -> Result<String, Problem> {
    let uuid = uuid(dom0, guest)?;
    let spec = Spec {
        name: name.to_owned(),
        ..guest.spec.clone()
    };
    let file = format!("/root/{name}.cfg");
    dom0.run(&format!(
        "cat >{file} <<'EOF'\n{}uuid = \"{uuid}\"\nEOF",
        spec.xl_config()
    ))?;
    Ok(file)
}

fn uuid(dom0: &mut Dom0, guest: &Guest) -> Result<String, Problem> {
    Ok(
        dom0.json(&format!("xl list -l {}", guest.name()))?[0]["config"]["c_info"]["uuid"]
            .as_str()
            .context("xl list -l gives no uuid")?
            .to_owned(),
    )
}

/// Sends a guest to a receiver that keeps it, and waits until it has everything; the guest under another name.
fn eat(dom0: &mut Dom0, guest: &Guest) -> Result<Guest, Problem> {
    let name = guest.name();
    let spec = Spec {
        name: "copy".to_owned(),
        ..guest.spec.clone()
    };
    twin(dom0, guest, "copy")?;
    dom0.run(&format!(
        "printf '%s\\n' '#!/bin/sh' {} >/root/eater; chmod +x /root/eater",
        quoted(EATER)
    ))?;
    dom0.run(&format!(
        "setsid xl migrate -s '' {name} /root/eater >/root/migrate.log 2>&1 </dev/null &"
    ))?;
    // The stream ends with the record END after the guest was suspended; nothing more comes then.
    let complete = format!(
        "for try in $(seq 240); do sleep 1; size=$(stat -c %s /root/copy.img 2>/dev/null); \
         [ \"$size\" = \"$last\" ] && xl list {name} | tail -n 1 | awk '{{ print $5 }}' | grep -q s && exit 0; \
         last=$size; done; cat /root/migrate.log; exit 1"
    );
    dom0.must(&complete, LONG)?;
    Ok(Guest::new(spec))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

const EEXIST: i64 = 17;
