//! Images that dom0 damaged or forged. Each must be refused, with a cause in Xen's log, without harm to anything else.

use super::fresh::twin;
use crate::case::{Config, Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use crate::runner::{Options, boot};
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;
use vmcrypt_core::Refusal;
use vmcrypt_guest::Role;
use vmcrypt_host::paths;
use vmcrypt_tamper::stream::{Page, Stream, kind};
use vmcrypt_testbed::Image;

/// Keys come from hardware or not at all.
pub fn no_entropy(image: &Image, options: &Options) -> Verdict {
    const WITHOUT: Config = Config {
        xen_arguments: "cpuid=no-rdrand,no-rdseed",
        ..Config::VMCRYPT
    };
    panics(
        image,
        options,
        WITHOUT,
        "no-entropy",
        "VMCrypt: no RDSEED or RDRAND",
    )
}

/// A generator that says that all is well and repeats itself: from the first word, or in the middle of the second key.
pub fn stuck_entropy(image: &Image, options: &Options) -> Verdict {
    let mut said = String::new();
    for xen_arguments in [
        "vmcrypt-entropy-canary=ones",
        "vmcrypt-entropy-canary=repeat",
        "vmcrypt-entropy-canary=after:40",
    ] {
        let stuck = Config {
            xen_arguments,
            ..Config::DEBUG
        };
        said = panics(
            image,
            options,
            stuck,
            "stuck-entropy",
            "VMCrypt: RDSEED or RDRAND is stuck",
        )?;
    }
    Ok(said)
}

/// Xen does not come up on this machine, and says these words.
fn panics(image: &Image, options: &Options, config: Config, case: &str, words: &str) -> Verdict {
    let dir = paths::target_subdir(&format!("testbed/logs/{case}"))?;
    demand!(
        boot(image, config, options, &dir).is_err(),
        "Xen came up with {}",
        config.xen_arguments
    );
    let console = fs::read_to_string(dir.join("xen.log"))?;
    let said = console.lines().find(|line| line.contains(words));
    let said = said.with_context(|| format!("Xen did not come up, and did not say: {words}"))?;
    Ok(said.trim().to_owned())
}

/// Stuck after boot: no session opens, so that nothing of a guest is mapped, and the guest goes on.
pub fn stuck_later(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("lonely"))?;
    dom0.xen_log()?;
    dom0.must_refuse(&format!("xl save lonely {}", guest.image()), LONG)?;
    let cause = Refusal::StuckEntropy.text();
    demand!(
        dom0.xen_log()?.contains(cause),
        "the save failed, and not because of \"{cause}\""
    );
    let count = &dom0.status(&guest)?["domains"][0]["refusals"]["stuck-entropy"];
    demand!(count.as_u64() > Some(0), "the refusal was not counted: {count}");
    dom0.await_alive(&mut guest)?;
    Ok("xl save was refused for it, the guest goes on".to_owned())
}

/// A saved guest to forge with, and another one that must not notice.
struct Scene {
    guest: Guest,
    bystander: Guest,
    stream: Stream,
    refusals: Vec<String>,
}

impl Scene {
    fn new(dom0: &mut Dom0) -> Result<Scene, Problem> {
        Scene::with(dom0, |spec| spec)
    }

    fn with(dom0: &mut Dom0, change: impl Fn(Spec) -> Spec) -> Result<Scene, Problem> {
        let bystander = dom0.create(Spec::new("bystander"))?;
        // Small, so that a case can afford many restores.
        let guest = dom0.create(change(Spec::new("forged")))?;
        dom0.save(&guest)?;
        let stream = Stream::parse(dom0.take(&guest.image())?)?;
        Ok(Scene {
            guest,
            bystander,
            stream,
            refusals: Vec::new(),
        })
    }

    /// Restores an image that must not come to life, for a cause that Xen's log must name.
    fn refuse_for(&mut self, dom0: &mut Dom0, cause: &str, what: &str, image: &[u8]) -> Result<(), Problem> {
        let said = self.refuse(dom0, what, image)?;
        demand!(
            said.contains(cause),
            "{what}: refused, but not because of \"{cause}\": {said}"
        );
        Ok(())
    }

    /// Restores an image that must not come to life; what Xen said, or else the tools.
    fn refuse(&mut self, dom0: &mut Dom0, what: &str, image: &[u8]) -> Result<String, Problem> {
        demand!(
            image != self.stream.bytes,
            "{what}: the forged image equals the good one"
        );
        let file = dom0.give(image)?;
        self.refuse_file(dom0, what, file)
    }

    /// Restores the saved image with one bit of it changed.
    fn refuse_flip(&mut self, dom0: &mut Dom0, place: &Place) -> Result<(), Problem> {
        let (file, byte) = (self.guest.image(), self.stream.bytes[place.at]);
        let set = |byte: u8| {
            format!(
                "printf '\\{byte:03o}' | dd of={file} bs=1 seek={} conv=notrunc status=none",
                place.at
            )
        };
        dom0.run(&set(byte ^ 1 << place.bit))?;
        self.refuse_file(dom0, &place.what, &file)?;
        dom0.run(&set(byte))?;
        Ok(())
    }

    fn refuse_file(&mut self, dom0: &mut Dom0, what: &str, file: &str) -> Result<String, Problem> {
        dom0.xen_log()?;
        // What the guest said before it was saved is no sign of life afterwards.
        dom0.read_console(&mut self.guest)?;
        let rounds = self.guest.rounds.clone();
        let answer = dom0.try_run(&format!("xl restore {file}"), LONG)?;
        let mut crashed = false;
        if answer.ok() {
            // xl takes no notice of an unpause that Xen refuses, so that only the guest itself can tell.
            std::thread::sleep(Duration::from_secs(4));
            dom0.read_console(&mut self.guest)?;
            demand!(
                self.guest.rounds == rounds,
                "{what}: the guest runs from a forged image"
            );
            let list = dom0.run("xl list forged")?.text();
            let state = list
                .lines()
                .last()
                .and_then(|line| line.split_whitespace().nth(4))
                .unwrap_or("?")
                .to_owned();
            demand!(
                state.contains(['p', 's', 'c', 'd']),
                "{what}: the domain's state is {state}"
            );
            // Without any record Xen takes the image for a new guest, whose kernel is then noise.
            crashed = state.contains('c');
        }
        let log = dom0.xen_log()?;
        let cause = log.lines().rev().find(|line| line.contains("VMCrypt: d"));
        // What Xen never got to see was refused by the tools, which say so themselves.
        let said = cause.map(str::to_owned).unwrap_or_else(|| answer.all_text());
        demand!(
            cause.is_some() || crashed || !answer.ok(),
            "{what}: refused without a word in Xen's log"
        );
        dom0.note(&format!("refused: {what}: {}", said.trim()));
        self.refusals.push(what.to_owned());
        dom0.destroy("forged")?;
        Ok(said)
    }

    /// The good image still restores, the bystander goes on.
    fn end(mut self, dom0: &mut Dom0) -> Verdict {
        dom0.await_alive(&mut self.bystander)?;
        dom0.restore(&mut self.guest)?;
        dom0.await_alive(&mut self.bystander)?;
        Ok(format!(
            "refused: {}; the good image restores, the bystander goes on",
            self.refusals.join(", ")
        ))
    }

    fn data_pages(&self) -> Result<Vec<Page>> {
        let data: Vec<Page> = self
            .stream
            .pages()?
            .into_iter()
            .filter(|page| page.class == 0)
            .collect();
        anyhow::ensure!(data.len() > 1000, "only {} data pages in the image", data.len());
        Ok(data)
    }
}

/// A guest that is refused shows that it ended. Nothing boots in its place, whatever its configuration says of a crash.
pub fn restart(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("refused").roles(&[Role::Secret, Role::Disk]))?;
    let config = twin(dom0, &guest, "refused")?;
    dom0.save(&guest)?;
    let image = guest.image();
    dom0.run(&format!(
        "sed -i 's/^on_crash.*/on_crash = \"restart\"/' {config}; grep restart {config}"
    ))?;
    let stream = Stream::parse(dom0.take(&image)?)?;
    let pages = stream.pages()?;
    let of_class = |class: u8| {
        let page = pages.iter().filter(|page| page.class & 7 == class).nth(9);
        page.with_context(|| format!("no ten pages of class {class}"))
    };
    for (page, byte, bit, refusal) in [
        (of_class(0)?, 7, 3, Refusal::PagesDiffer),
        (of_class(1)?, 1, 4, Refusal::TablesDiffer),
    ] {
        let at = page.at + byte;
        let set = |value: u8| {
            format!("printf '\\{value:03o}' | dd of={image} bs=1 seek={at} conv=notrunc status=none")
        };
        dom0.run(&set(stream.bytes[at] ^ 1 << bit))?;
        dom0.xen_log()?;
        dom0.try_run(&format!("xl restore {config} {image}"), LONG)?;
        let name = refusal.name();
        let log = dom0.xen_log()?;
        demand!(
            log.contains(refusal.text()),
            "Xen's log does not say {name}: {log}"
        );
        let told = dom0.status(&guest)?["domains"][0]["last_refusal"].clone();
        demand!(told == name, "vmcrypt status says {told}, and not {name}");
        let before = dom0.run("xl list refused | tail -n 1")?.text();
        demand!(
            before
                .split_whitespace()
                .nth(4)
                .is_some_and(|state| state.contains('s')),
            "{name}: it does not show that the guest ended: {before}"
        );
        // Whoever calls it a crash, and unpauses it, finds that it is over.
        let domid = dom0.domid(&guest)?;
        dom0.attack(&format!("remote-crash {domid}"), SHORT)?;
        dom0.run("xl unpause refused; sleep 6")?;
        let after = dom0.domid(&guest)?;
        demand!(
            domid == after,
            "{name}: domain {after} was booted in place of {domid}"
        );
        dom0.read_console(&mut guest)?;
        demand!(guest.boots == 1, "{name}: the guest was booted anew");
        dom0.destroy("refused")?;
        dom0.run(&set(stream.bytes[at]))?;
    }
    dom0.restore(&mut guest)?;
    Ok("a private page and a page table were changed: the guest ended, said why, and was not booted; the good image restores".to_owned())
}

/// Saves that fail say why, in Xen's log and in the domain's status.
pub fn save(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("kept"))?;
    let domid = dom0.domid(&guest)?;
    let mut said = Vec::new();
    for (attack, refusal) in [
        (format!("record {domid} /root/kept.record"), Refusal::NotSuspended),
        (format!("short-record {domid}"), Refusal::RecordBuffer),
    ] {
        let name = refusal.name();
        dom0.xen_log()?;
        let answer = dom0.attack(&attack, SHORT)?;
        demand!(answer["errno"] != 0, "{attack} succeeded: {answer}");
        let log = dom0.xen_log()?;
        demand!(
            log.contains(refusal.text()),
            "{attack}: Xen's log does not say {name}: {log}"
        );
        let count = dom0.status(&guest)?["domains"][0]["refusals"][name].clone();
        demand!(count.as_u64() > Some(0), "{attack}: {name} was not counted");
        said.push(name);
    }
    dom0.await_alive(&mut guest)?;
    dom0.save(&guest)?;
    dom0.restore(&mut guest)?;
    Ok(format!(
        "told and counted: {}; then it was saved and restored",
        said.join(", ")
    ))
}

/// Cut off at the begin, in the middle, and before the last records.
pub fn truncated(dom0: &mut Dom0) -> Verdict {
    let mut scene = Scene::new(dom0)?;
    let whole = scene.stream.bytes.clone();
    let xsave = scene.stream.first(kind::VCPU_XSAVE)?;
    for (what, length) in [
        ("header alone", 4096),
        ("half", whole.len() / 2),
        ("cut in the sealed record", xsave.body.end - 100),
        ("last record missing", whole.len() - 64),
    ] {
        scene.refuse(dom0, what, &whole[..length])?;
    }
    scene.end(dom0)
}

/// One bit of an image.
struct Place {
    what: String,
    at: usize,
    bit: u8,
}

impl Place {
    fn new(what: impl Into<String>, at: usize, bit: u8) -> Place {
        let what = what.into();
        Place { what, at, bit }
    }
}

/// One bit, in pages of every kind and in the sealed record.
pub fn bit_flips(dom0: &mut Dom0) -> Verdict {
    let mut scene = Scene::new(dom0)?;
    let data = scene.data_pages()?;
    let xsave = scene.stream.first(kind::VCPU_XSAVE)?.body;
    let mut places = vec![
        Place::new("first byte of a page", data[data.len() / 2].at, 0),
        Place::new("last byte of a page", data[data.len() / 3].at + 4095, 7),
        Place::new("sealed record", xsave.end - 40, 2),
        Place::new("end of the sealed record", xsave.end - 1, 5),
    ];
    places.extend(plain_places(&scene.stream)?);
    for place in places {
        scene.refuse_flip(dom0, &place)?;
    }
    scene.end(dom0)
}

/// Bits of plain pages that Xen itself would take either way.
fn plain_places(stream: &Stream) -> Result<Vec<Place>> {
    const PRESENT: u8 = 1;
    let pages = stream.pages()?;
    let mut places = Vec::new();
    // Not the accessed bit in an L4 table: Xen sets it itself.
    for (level, what, byte, bit) in [
        (1, "write permission in an L1 table", 0, 1),
        (1, "frame in an L1 table", 1, 4),
        (2, "execute permission in an L2 table", 7, 7),
        (4, "execute permission in an L4 table", 7, 7),
    ] {
        let entry = pages
            .iter()
            .filter(|page| page.class & 7 == level)
            .find_map(|page| {
                let content = stream.content(*page);
                let entry = (0..4096).step_by(8).find(|at| content[*at] & PRESENT != 0)?;
                Some(page.at + entry)
            });
        let entry = entry.with_context(|| format!("no L{level} table in the image"))?;
        places.push(Place::new(what, entry + byte, bit));
    }
    let context = stream.vcpu_context(0)?;
    let find = |pfn: u64| {
        let page = pages.iter().find(|page| page.pfn == pfn);
        page.with_context(|| format!("page {pfn:#x} is not in the image"))
    };
    // The bit of a descriptor that is for software to use; the guest's own text on its command line.
    let descriptor = find(context.gdt_frame)?.at + 8 * 2 + 6;
    places.push(Place::new("descriptor table", descriptor, 4));
    places.push(Place::new(
        "command line in start_info",
        find(context.start_info)?.at + 130,
        0,
    ));
    Ok(places)
}

/// The sealed record itself.
pub fn records(dom0: &mut Dom0) -> Verdict {
    let mut scene = Scene::new(dom0)?;
    // A second save of the same guest gives a record of another session, another guest one of another domain.
    let mut again = scene.guest.clone();
    dom0.restore(&mut again)?;
    dom0.save(&again)?;
    let later = Stream::parse(dom0.take(&again.image())?)?;
    let stranger = dom0.create(Spec::new("stranger"))?;
    dom0.save(&stranger)?;
    let strange = Stream::parse(dom0.take(&stranger.image())?)?;
    scene.guest = again;
    let old = std::mem::replace(&mut scene.stream, later);

    let stream = scene.stream.clone();
    let record = stream.first(kind::VCPU_XSAVE)?;
    let body = &stream.bytes[record.body.clone()];
    let replaced = |by: &[u8]| stream.with_replaced(&record, by);
    let other = |from: &Stream| Ok::<_, anyhow::Error>(replaced(from.raw(&from.first(kind::VCPU_XSAVE)?)));
    for (what, image) in [
        ("no record", replaced(&[])),
        (
            "record of eight bytes less",
            replaced(&Stream::encode(kind::VCPU_XSAVE, &body[..body.len() - 8])),
        ),
        (
            "record of eight bytes more",
            replaced(&Stream::encode(kind::VCPU_XSAVE, &[body, &[0; 8]].concat())),
        ),
        ("record of an earlier save", other(&old)?),
        ("record of another domain", other(&strange)?),
    ] {
        scene.refuse(dom0, what, &image)?;
    }
    scene.end(dom0)
}

/// vCPUs that are not those of the record.
pub fn vcpus(dom0: &mut Dom0) -> Verdict {
    const CAUSE: &str = "vCPU state differs";
    // In `struct vcpu_guest_context` (`public/arch-x86/xen.h`), which follows the vCPU's number in eight bytes.
    const FLAGS: usize = 8 + 512;
    const VM_ASSIST: usize = 8 + 5168 - 4 * 8;
    // The second vCPU is never started, so that the guest is saved without it.
    let mut scene = Scene::with(dom0, |spec| spec.max_vcpus(2).arguments("maxcpus=1"))?;
    let stream = scene.stream.clone();
    let count = stream.of_kind(kind::VCPU_BASIC).count();
    demand!(count == 1, "{count} vCPUs are in the image of a guest with one");
    let record = stream.first(kind::VCPU_BASIC)?;
    let mut second = stream.raw(&record).to_vec();
    second[8] = 1;
    let two = stream.with_replaced(&record, &[stream.raw(&record), &second].concat());
    let at = record.body.start;
    for (what, image) in [
        ("a vCPU too many", two),
        // VMASST_TYPE_runstate_update_flag
        ("another vm_assist", stream.with_flipped_bit(at + VM_ASSIST, 5)),
    ] {
        scene.refuse_for(dom0, CAUSE, what, &image)?;
    }
    // VGCF_in_kernel; libxc or Xen may refuse that earlier. (VGCF_online says nothing in an image: libxc sets it.)
    let image = stream.with_flipped_bit(at + FLAGS, 2);
    scene.refuse(dom0, "vCPU 0 in user mode", &image)?;
    scene.end(dom0)
}

/// Page types that are not those of the saved guest.
pub fn types(dom0: &mut Dom0) -> Verdict {
    const L1: u8 = 1;
    const PINNED_L1: u8 = 9;
    let mut scene = Scene::new(dom0)?;
    let stream = scene.stream.clone();
    let data = scene.data_pages()?;
    let private = data[data.len() / 2];
    let tables = stream.pages()?;
    // One that names frames: an empty one is a page table again as soon as another table names it.
    let table = tables
        .iter()
        .find(|page| page.class == L1 && stream.content(**page).iter().step_by(8).any(|low| low & 1 != 0));
    let table = *table.context("no L1 page table with an entry in the image")?;
    // An empty page is the one that Xen takes for a page table, unless another table maps it writable.
    let mut empty = stream.clone();
    empty.bytes[private.at..private.at + 4096].fill(0);
    for (what, image) in [
        (
            "a private page as pinned page table",
            empty.with_class(private, PINNED_L1),
        ),
        ("a private page as page table", empty.with_class(private, L1)),
        ("a page table as data", stream.with_class(table, 0)),
    ] {
        scene.refuse(dom0, what, &image)?;
    }
    scene.end(dom0)
}

/// The pages beneath a good record.
pub fn pages(dom0: &mut Dom0) -> Verdict {
    let mut scene = Scene::new(dom0)?;
    let stream = scene.stream.clone();
    let data = scene.data_pages()?;
    let (a, b) = (data[data.len() / 4], data[data.len() / 2]);
    let mut swapped = stream.bytes.clone();
    let (first, second) = (stream.content(a).to_vec(), stream.content(b).to_vec());
    swapped[a.at..a.at + 4096].copy_from_slice(&second);
    swapped[b.at..b.at + 4096].copy_from_slice(&first);
    let batches: Vec<_> = stream.of_kind(kind::PAGE_DATA).cloned().collect();
    let without_batch = stream.with_replaced(&batches[batches.len() / 2], &[]);
    let mut zeroed = stream.bytes.clone();
    zeroed[a.at..a.at + 4096].fill(0);
    for (what, image) in [
        ("two pages swapped", swapped),
        ("a batch of pages missing", without_batch),
        ("a page of zeros", zeroed),
    ] {
        scene.refuse(dom0, what, &image)?;
    }

    // The good session of a guest that has moved on, with one page of an earlier save.
    let mut again = scene.guest.clone();
    dom0.restore(&mut again)?;
    dom0.save(&again)?;
    let later = Stream::parse(dom0.take(&again.image())?)?;
    scene.guest = again;
    let mut stale = later.bytes.clone();
    let place = later
        .pages()?
        .into_iter()
        .find(|page| page.pfn == a.pfn)
        .context("the page is gone")?;
    stale[place.at..place.at + 4096].copy_from_slice(&first);
    scene.stream = later;
    scene.refuse(dom0, "a page of an earlier save", &stale)?;
    demand!(
        scene.guest.spec.roles == [Role::Secret],
        "the guest of this case holds a secret"
    );
    scene.end(dom0)
}
