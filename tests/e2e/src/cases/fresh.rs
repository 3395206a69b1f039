//! Old images and copies: a guest lives on in one place and never goes back.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use anyhow::{Context, anyhow};
use vmcrypt_core::record::{Header, MAGIC};

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

/// Sends a guest to a receiver that keeps it, and waits until it has everything; the guest under another name.
fn eat(dom0: &mut Dom0, guest: &Guest) -> Result<Guest, Problem> {
    let name = guest.name();
    let uuid = dom0.json(&format!("xl list -l {name}"))?[0]["config"]["c_info"]["uuid"]
        .as_str()
        .context("xl list -l gives no uuid")?
        .to_owned();
    let spec = Spec {
        name: "copy".to_owned(),
        ..guest.spec.clone()
    };
    dom0.run(&format!(
        "cat >/root/copy.cfg <<'EOF'\n{}uuid = \"{uuid}\"\nEOF",
        spec.xl_config()
    ))?;
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
