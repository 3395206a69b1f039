//! Save and restore, in all their variants.

use crate::case::{Problem, Verdict, demand};
use crate::cases::attack::swept_lines;
use crate::dom0::{Dom0, LONG, SHORT, last_lines};
use crate::guest::{Guest, Spec};
use serde_json::Value;
use std::time::Duration;
use vmcrypt_guest::{Role, secret};
use vmcrypt_tamper::stream::{Stream, equal_pages};
use vmcrypt_testbed::Answer;

/// The main job, with everything that dom0 can see looked at.
pub fn save_restore(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::main("main"))?;
    let status = dom0.status(&guest)?;
    demand!(
        status["domains"][0]["state"] == "running",
        "the guest's state is {}",
        status["domains"][0]["state"]
    );
    let share = plain_share(&status)?;
    let swept = swept_lines(&dom0.sweep(&guest)?)?;
    demand!(swept == 0, "a sweep saw {swept} lines of the secret");
    let save = save_clean(dom0, &guest)?;
    let pages = explained(&dom0.inspect(&guest.image())?)?;
    let restore = dom0.restore(&mut guest)?;
    Ok(format!(
        "0 lines in sweep and image, plain pages {share}; {pages}; {}, hash intact",
        times(&save, &restore)
    ))
}

/// Again and again.
pub fn five_cycles(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("cycles"))?;
    for _ in 0..5 {
        cycle(dom0, &mut guest)?;
    }
    Ok(format!(
        "five times 0 lines in the image, hash intact at round {}",
        guest.rounds[&Role::Secret]
    ))
}

/// Two saves of one guest have nothing in common.
pub fn checkpoint(dom0: &mut Dom0) -> Verdict {
    let (mut guest, equal, both) = two_images(dom0)?;
    demand!(both > 25_000, "only {both} data pages are in both images");
    // start_info, P2M leaves and rings are data to the toolstack, in clear, and mostly unchanged.
    demand!(
        equal * 100 < both,
        "{equal} of {both} data pages are equal in two saves"
    );
    for image in ["/root/first.img", "/root/second.img"] {
        let lines = dom0.secret_lines(image)?;
        demand!(lines == 0, "{lines} lines of the secret are in {image}");
    }
    dom0.must("xl restore /root/second.img", LONG)?;
    dom0.await_alive(&mut guest)?;
    Ok(format!(
        "{equal} of {both} data pages are equal in two saves; hash intact after both"
    ))
}

/// Saves a guest that goes on, and a second time for good; how many data pages the two images share.
pub fn two_images(dom0: &mut Dom0) -> Result<(Guest, usize, usize), Problem> {
    let mut guest = dom0.create(Spec::new("twice"))?;
    dom0.must("xl save -c twice /root/first.img", LONG)?;
    dom0.await_alive(&mut guest)?;
    dom0.must("xl save twice /root/second.img", LONG)?;
    let first = Stream::parse(dom0.take("/root/first.img")?)?;
    let second = Stream::parse(dom0.take("/root/second.img")?)?;
    let (equal, both) = equal_pages(&first, &second)?;
    Ok((guest, equal, both))
}

/// Two vCPUs.
pub fn vcpus_2(dom0: &mut Dom0) -> Verdict {
    one_cycle(
        dom0,
        Spec::new("smp").vcpus(2).roles(&[Role::Secret, Role::Dirty]),
    )
}

/// Four vCPUs.
pub fn vcpus_4(dom0: &mut Dom0) -> Verdict {
    one_cycle(
        dom0,
        Spec::new("smp").vcpus(4).roles(&[Role::Secret, Role::Dirty]),
    )
}

/// As small as Debian's kernel allows: it takes 66 MiB unpacked, so that a domain of 64 MiB cannot be built.
pub fn memory_smallest(dom0: &mut Dom0) -> Verdict {
    one_cycle(dom0, Spec::new("small").memory_mib(96))
}

/// Four times the usual size.
pub fn memory_1024(dom0: &mut Dom0) -> Verdict {
    one_cycle(dom0, Spec::new("large").memory_mib(1024))
}

/// AES-NI off: the status must say so, or the case tests the wrong cipher.
pub fn portable(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("portable"))?;
    let status = dom0.status(&guest)?;
    demand!(
        status["host"]["backend"] == "portable",
        "the backend is {}",
        status["host"]["backend"]
    );
    cycle(dom0, &mut guest)
}

/// Without XSAVE libxc would leave the record out that carries the sealed one, if Xen let it.
pub fn no_xsave(dom0: &mut Dom0) -> Verdict {
    let features = dom0.run("grep -m 1 -o -w xsave /proc/cpuinfo; true")?.text();
    if !features.is_empty() {
        return Err(anyhow::anyhow!("dom0's CPU has XSAVE, so that this case tests nothing").into());
    }
    let mut guest = dom0.create(Spec::new("old").roles(&[Role::Secret, Role::Dirty]))?;
    cycle(dom0, &mut guest)
}

/// Pages given back to Xen and taken again.
pub fn balloon(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::main("balloon"))?;
    for mib in [160, 256, 200] {
        resize(dom0, &mut guest, mib)?;
        if mib == 256 {
            cycle(dom0, &mut guest)?;
        }
    }
    Ok(format!(
        "saved at 256 MiB and at 200 MiB; {}",
        cycle(dom0, &mut guest)?
    ))
}

/// Has the guest's balloon driver give back memory, or take it, and waits until that is done.
pub fn resize(dom0: &mut Dom0, guest: &mut Guest, mib: u32) -> Result<(), Problem> {
    let name = guest.name();
    dom0.run(&format!("xl mem-set {name} {mib}m"))?;
    // The balloon driver leaves a page or two behind.
    let reached = format!(
        "for try in $(seq 200); do mem=$(xl list {name} | awk 'NR == 2 {{ print $3 }}'); \
         [ $mem -le {} ] && [ $mem -ge {} ] && exit 0; sleep 0.2; done; exit 1",
        mib + 2,
        mib - 2
    );
    dom0.must(&reached, SHORT)?;
    dom0.await_alive(guest)
}

/// Devices at work.
pub fn io(dom0: &mut Dom0) -> Verdict {
    one_cycle(
        dom0,
        Spec::new("io").roles(&[Role::Secret, Role::Disk, Role::Net]),
    )
}

/// Two saves and two restores in parallel.
pub fn two_at_once(dom0: &mut Dom0) -> Verdict {
    let mut left = dom0.create(Spec::new("left"))?;
    let mut right = dom0.create(Spec::new("right").roles(&[Role::Secret, Role::Dirty]))?;
    for verb in ["save", "restore"] {
        let one = |guest: &Guest| match verb {
            "save" => format!("xl save {} {}", guest.name(), guest.image()),
            _ => format!("xl restore {}", guest.image()),
        };
        let both = format!(
            "{} & one=$!; {} & two=$!; wait $one && wait $two",
            one(&left),
            one(&right)
        );
        dom0.must(&both, LONG)?;
        if verb == "save" {
            for guest in [&left, &right] {
                let lines = dom0.secret_lines(&guest.image())?;
                demand!(lines == 0, "{lines} lines of the secret are in {}", guest.image());
            }
        }
    }
    dom0.await_alive(&mut left)?;
    dom0.await_alive(&mut right)?;
    Ok("0 lines in both images, both hashes intact".into())
}

/// The console, whose ring dom0 keeps mapped.
pub fn console(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("console").roles(&[Role::Secret, Role::Echo]))?;
    type_and_read(dom0, &mut guest, "before the save")?;
    cycle(dom0, &mut guest)?;
    type_and_read(dom0, &mut guest, "after the restore")?;
    Ok("answers to lines typed before and after a cycle".into())
}

fn type_and_read(dom0: &mut Dom0, guest: &mut Guest, line: &str) -> Result<(), Problem> {
    let wanted = secret::sha256(line.as_bytes())?;
    let name = guest.name().to_owned();
    // xl forwards what is typed only if it has a terminal. The typist waits for the answer, however long xl took to
    // start, and leaves with xl's escape character.
    let command = format!(
        "rm -f /tmp/shown; {{ sleep 3; echo '{line}'; \
         for try in $(seq 80); do sleep 1; grep -q {wanted} /tmp/shown && break; done; printf '\\035'; sleep 1; }} | \
         timeout 100 script -qfc 'xl console {name}' /tmp/shown >/dev/null 2>&1; cat /tmp/shown"
    );
    let shown = dom0.run(&command)?.text();
    demand!(
        shown.contains(&wanted),
        "xl console does not show the answer to a typed line: {}",
        last_lines(&shown)
    );
    dom0.wait(guest, SHORT, "answer on the console", |guest| {
        guest.answers.contains(&wanted)
    })
}

/// The helper that writes the image dies; xl must bring the guest back, and the next save must work.
pub fn save_killed(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("killed").roles(&[Role::Secret, Role::Dirty]))?;
    // The reader wants no more than a part, so that the helper cannot have ended.
    let kill = format!(
        "mkfifo /root/pipe; (head -c {HALF} >/root/half.img; exec sleep 1000) </root/pipe & reader=$!; \
         xl save killed /root/pipe & save=$!; {} \
         kill -9 $(pidof libxl-save-helper) && echo helper killed; wait $save && echo saved; kill $reader; rm /root/pipe; true",
        once_grown("/root/half.img")
    );
    killed_and_not(dom0, &kill, "saved")?;
    dom0.await_alive(&mut guest)?;
    let lines = dom0.secret_lines("/root/half.img")?;
    demand!(lines == 0, "{lines} lines of the secret are in the half image");
    Ok(format!("alive after the kill; then {}", cycle(dom0, &mut guest)?))
}

/// A restore that dies takes nothing with it: the image is as good as before.
pub fn restore_killed(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("halfway"))?;
    dom0.save(&guest)?;
    // The writer gives no more than a part, so that the helper cannot have ended.
    let kill = format!(
        "mkfifo /root/pipe; (head -c {HALF} /root/halfway.img | tee /root/half.img; exec sleep 1000) >/root/pipe & writer=$!; \
         xl restore /root/pipe & restore=$!; {} \
         kill -9 $(pidof libxl-save-helper) && echo helper killed; wait $restore && echo restored; kill $writer; rm /root/pipe; true",
        once_grown("/root/half.img")
    );
    killed_and_not(dom0, &kill, "restored")?;
    dom0.destroy("halfway")?;
    dom0.restore(&mut guest)?;
    Ok("a restore was killed half-way, and the next one of the same image brought the guest back".to_owned())
}

/// Bytes that go through a pipe before what is at its other end is killed; a pipe holds 64 KiB more.
const HALF: usize = 50_000_000;

/// Shell code that waits until a file has nearly as many bytes.
fn once_grown(file: &str) -> String {
    format!(
        "for try in $(seq 800); do [ $(stat -c %s {file} 2>/dev/null || echo 0) -ge {HALF} ] && break; sleep 0.05; done;"
    )
}

fn killed_and_not(dom0: &mut Dom0, command: &str, done: &str) -> Result<(), Problem> {
    let answer = dom0.try_run(command, LONG)?.text();
    demand!(
        answer.contains("helper killed") && !answer.contains(done),
        "not killed half-way: {answer:?}"
    );
    Ok(())
}

/// A save for which there is no room fails, and says why; the guest goes on and can be saved elsewhere.
pub fn disk_full(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("roomless").roles(&[Role::Secret, Role::Dirty]))?;
    dom0.run("mkdir -p /root/small && mount -t tmpfs -o size=40M tmpfs /root/small")?;
    let said = dom0
        .must_refuse("xl save roomless /root/small/full.img", LONG)?
        .all_text();
    demand!(
        said.contains("No space left"),
        "the save failed for another reason: {said}"
    );
    dom0.await_alive(&mut guest)?;
    let lines = dom0.secret_lines("/root/small/full.img")?;
    demand!(
        lines == 0,
        "{lines} lines of the secret are in the image that was cut off"
    );
    dom0.run("umount /root/small")?;
    Ok(format!(
        "alive after the failed save; then {}",
        cycle(dom0, &mut guest)?
    ))
}

/// Creates a guest and takes it through a cycle.
fn one_cycle(dom0: &mut Dom0, spec: Spec) -> Verdict {
    let mut guest = dom0.create(spec)?;
    cycle(dom0, &mut guest)
}

/// Pages of a restored guest are decrypted by a CPU that has nothing else to do, too.
pub fn restore_cpus(dom0: &mut Dom0) -> Verdict {
    let done = one_cycle(dom0, Spec::main("shared"))?;
    let log = dom0
        .must("xl dmesg | grep -o '[0-9]* on other CPUs'", SHORT)?
        .text();
    let helped = log
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum::<u64>();
    demand!(helped > 0, "all was decrypted by one CPU: {log}");
    Ok(format!("{done}; {helped} pages decrypted on the other CPU"))
}

/// Saves, looks for the secret, restores, waits for signs of life.
pub fn cycle(dom0: &mut Dom0, guest: &mut Guest) -> Verdict {
    let save = save_clean(dom0, guest)?;
    let restore = dom0.restore(guest)?;
    Ok(format!(
        "0 lines in the image; {}, all roles go on",
        times(&save, &restore)
    ))
}

/// Saves, and fails if the image holds the secret.
fn save_clean(dom0: &mut Dom0, guest: &Guest) -> Result<Answer, Problem> {
    let save = dom0.save(guest)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(lines == 0, "{lines} lines of the secret are in the image");
    Ok(save)
}

/// The share of plain pages, which must be below one in a hundred.
fn plain_share(status: &Value) -> Result<String, Problem> {
    let domain = &status["domains"][0];
    let by_class: Vec<(&String, u64)> = domain["plain"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(class, count)| Some((class, count.as_u64()?)))
        .collect();
    let plain: u64 = by_class.iter().map(|(_, count)| count).sum();
    let pages = domain["pages"].as_u64().unwrap_or(0);
    demand!(
        plain > 0,
        "no page is plain, so dom0 could not have built the guest: {domain}"
    );
    demand!(
        plain * 100 < pages,
        "{plain} of {pages} pages are plain: {by_class:?}"
    );
    let classes: Vec<String> = by_class
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(class, count)| format!("{class} {count}"))
        .collect();
    Ok(format!("{plain} of {pages} ({})", classes.join(", ")))
}

/// Every page that is in clear in an image must be of a known class.
fn explained(report: &Value) -> Result<String, Problem> {
    let pages = &report["pages"];
    let (random, other, zero) = (&pages["random"], &pages["other"], &pages["zero"]);
    demand!(
        random.as_u64().unwrap_or(0) > 50_000,
        "the image holds only {random} pages of ciphertext"
    );
    demand!(
        other == 0 && zero == 0,
        "pages in clear that no class explains: {other} with content, {zero} of zeros"
    );
    Ok(format!(
        "{random} pages of ciphertext, none in clear without a class"
    ))
}

/// How long a save and a restore took.
pub fn times(save: &Answer, restore: &Answer) -> String {
    let seconds = |time: Duration| time.as_secs_f64();
    format!(
        "save {:.1} s, restore {:.1} s",
        seconds(save.time),
        seconds(restore.time)
    )
}
