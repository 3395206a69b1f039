//! Twins on the unpatched hypervisor: each shows that a detector finds what is there.

use crate::case::{Verdict, demand};
use crate::cases::{attack, cycle, migrate};
use crate::dom0::{Dom0, LONG};
use crate::guest::Spec;
use vmcrypt_guest::{Role, pattern, secret};
use vmcrypt_tamper::stream::{Stream, equal_pages};

/// What a detector must find of the secret's lines to count as working.
const MOST: u64 = secret::LINES as u64 * 9 / 10;

/// The image of a stock save holds the secret.
pub fn image(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::main("canary"))?;
    let save = dom0.save(&guest)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(
        lines >= MOST,
        "only {lines} lines of the secret are in a stock image"
    );
    let inspected = dom0.inspect(&guest.image())?;
    let pages = inspected["pages"]["with_needle"].as_u64().unwrap_or(0);
    demand!(
        pages > 100,
        "vmcrypt inspect finds the secret on {pages} pages of a stock image"
    );
    let restore = dom0.restore(&mut guest)?;
    Ok(format!(
        "{lines} lines of the secret in the image, on {pages} pages; {}, hash intact",
        cycle::times(&save, &restore)
    ))
}

/// A sweep finds it in memory.
pub fn sweep(dom0: &mut Dom0) -> Verdict {
    let guest = dom0.create(Spec::main("canary"))?;
    let found = attack::swept_lines(&dom0.sweep(&guest)?)?;
    demand!(
        found >= MOST,
        "a sweep of a stock guest finds only {found} lines of the secret"
    );
    Ok(format!("{found} lines of the secret seen by a sweep"))
}

/// Registers are there for the asking.
pub fn registers(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("canary").roles(&[Role::Regs]))?;
    let seen = attack::registers_seen(dom0, &mut guest)?;
    demand!(
        seen.general > 0,
        "dom0 never saw the pattern in a stock guest's general registers: {seen:?}"
    );
    demand!(
        seen.vector > 0,
        "dom0 never saw the pattern in a stock guest's vector registers: {seen:?}"
    );
    dom0.save(&guest)?;
    let image = dom0.take(&guest.image())?;
    let places = pattern::count(&image);
    demand!(places > 0, "a stock image does not show the pattern");
    Ok(format!("{seen}; {places} places in the image"))
}

/// The wire carries the secret.
pub fn migration(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("canary"))?;
    let time = migrate::migrate(dom0, &mut guest)?.time;
    let lines = dom0.secret_lines(migrate::WIRE)?;
    demand!(
        lines >= MOST,
        "only {lines} lines of the secret went over the wire"
    );
    Ok(format!(
        "{lines} lines of the secret on the wire; {:.1} s",
        time.as_secs_f64()
    ))
}

/// Two saves of one guest are much alike.
pub fn checkpoint(dom0: &mut Dom0) -> Verdict {
    let (_, equal, both) = cycle::two_images(dom0)?;
    demand!(
        equal * 2 > both,
        "only {equal} of {both} pages are equal in two stock images"
    );
    Ok(format!("{equal} of {both} data pages are equal in two saves"))
}

/// Nobody notices a changed bit.
pub fn bit_flip(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("canary"))?;
    dom0.save(&guest)?;
    let stream = Stream::parse(dom0.take(&guest.image())?)?;
    // A data page of zeros: free memory in all likelihood, so that the guest does not stumble.
    let pages = stream.pages()?;
    let free = pages
        .iter()
        .rev()
        .find(|page| page.class == 0 && stream.content(**page).iter().all(|b| *b == 0));
    let Some(free) = free else {
        return Err(anyhow::anyhow!("no zero page in a stock image").into());
    };
    let file = dom0.give(&stream.with_flipped_bit(free.at + 100, 3))?;
    dom0.must(&format!("xl restore {file}"), LONG)?;
    dom0.await_alive(&mut guest)?;
    let same = equal_pages(&stream, &stream)?;
    demand!(same.0 == same.1, "the comparison of images is broken: {same:?}");
    Ok(format!(
        "restored and running with a changed bit in page {:#x}",
        free.pfn
    ))
}

/// dom0 may write to a running guest.
pub fn write(dom0: &mut Dom0) -> Verdict {
    let guest = dom0.create(Spec::new("canary"))?;
    let domid = dom0.domid(&guest)?;
    let outcome = dom0.attack(&format!("map-writable {domid}"), LONG)?;
    let mapped = outcome["0"].as_u64().unwrap_or(0);
    demand!(
        mapped > 30_000,
        "only {mapped} pages of a stock guest could be mapped writable: {outcome}"
    );
    Ok(format!("{mapped} pages mapped writable"))
}

/// What dom0 mapped or granted itself before the first unpause goes on working.
pub fn maps_over_unpause(dom0: &mut Dom0) -> Verdict {
    let mut evidence = Vec::new();
    for attack in [
        "maps-over-unpause {} data 1",
        "maps-over-unpause {} all-data 60",
        "maps-over-unpause {} shared-info 1",
        "forge-grant {} 5",
        "use-grant {} 5",
    ] {
        let mut guest = dom0.create_paused(Spec::new("canary"))?;
        let domid = dom0.domid(&guest)?.to_string();
        let answer = dom0.attack(&attack.replace("{}", &domid), LONG)?;
        let harm = match attack.split(' ').nth(2) {
            Some("all-data") => answer["lines"].as_u64() >= Some(MOST),
            Some("shared-info") => answer["changed"] == 1,
            Some("data") => answer["mapped"] == 1,
            _ => answer["kept"] == true,
        };
        demand!(
            answer["errno"] == 0 && harm,
            "{attack} came to nothing on stock Xen: {answer}"
        );
        dom0.await_work(&mut guest)?;
        evidence.push(format!("{attack}: {answer}"));
        dom0.clean()?;
    }
    Ok(evidence.join("; ").replace("{} ", ""))
}

/// The guest's frames show the secret by whatever map.
pub fn replicas(dom0: &mut Dom0) -> Verdict {
    let guest = dom0.create(Spec::new("canary"))?;
    let domid = dom0.domid(&guest)?;
    let report = dom0.attack(&format!("seek-replicas {domid}"), LONG)?;
    let lines = report["owners"]["guest"]["secret"].as_u64();
    demand!(lines >= Some(MOST), "stock Xen hides the secret: {report}");
    Ok(report.to_string())
}

/// Any page will do as a ring.
pub fn ring_place(dom0: &mut Dom0) -> Verdict {
    let guest = dom0.create_paused(Spec::new("canary"))?;
    let domid = dom0.domid(&guest)?;
    let answer = dom0.attack(&format!("forge-ring {domid} store"), LONG)?;
    demand!(answer["errno"] == 0, "stock Xen refused it: {answer}");
    Ok("a free page was accepted as xenstore ring".into())
}

/// The patched hypervisor, told to stay out of it.
pub fn off(dom0: &mut Dom0) -> Verdict {
    let swept = sweep(dom0)?;
    dom0.clean()?;
    Ok(format!("{swept}; {}", image(dom0)?))
}
