//! What a guest is told of itself, and what its owner makes of that.

use crate::case::{Config, Problem, Verdict, demand};
use crate::cases::owner::{self, ONCE, UUID, UUID_BYTES};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::runner::{Options, boot};
use anyhow::{Context, Result};
use vmcrypt_core::abi::Answer;
use vmcrypt_host::paths;
use vmcrypt_kernel::{Line, nonce};
use vmcrypt_testbed::Image;
use vmcrypt_tools::owner::{Error, OwnerKey};

const LOG: &str = "/var/log/xen/console/guest-asking.log";

/// Under an owner's key: what the guest passes on proves to him where it runs, before and after a save, and dom0 cannot
/// get the like.
pub fn owned(image: &Image, options: &Options) -> Verdict {
    let (owner, stranger) = (OwnerKey::draw()?, OwnerKey::draw()?);
    let config = Config {
        xen_arguments: format!("vmcrypt-owner={:?}", owner.public()).leak(),
        ..Config::VMCRYPT
    };
    let mut dom0 = boot(image, config, options, &paths::target_subdir("testbed/logs/ask")?)?;
    let host = owner::public_key(&mut dom0)?;
    owner::load(&mut dom0, &owner.seal(UUID_BYTES, 0, ONCE, &[host])?)?;
    create(&mut dom0)?;
    let first = answer(&mut dom0, 0)?;
    let told = owner.check(&UUID_BYTES, 0, &nonce(0), &first);
    let Ok(told) = told else {
        return Err(Problem::Fail(format!("the owner does not believe it: {told:?}")));
    };
    demand!(told.host == host.0, "it names another host: {told:?}");
    let status = dom0.json("vmcrypt status $(xl domid asking) --json")?;
    let measured = &status["domains"][0]["measurement"];
    let shown: String = told
        .measurement
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    demand!(*measured == shown, "measured {measured}, told {shown}");
    let forged = stranger.check(&UUID_BYTES, 0, &nonce(0), &first);
    demand!(
        matches!(forged, Err(Error::Forged)),
        "a stranger believes it: {forged:?}"
    );

    let domid = dom0.run("xl domid asking")?.text();
    let asked = dom0.attack(&format!("ask {domid}"), SHORT)?;
    demand!(
        asked["state"] == 0 && asked["tag"] == false && asked["named"] == false,
        "dom0 asked in the guest's name, and was told {asked}"
    );

    dom0.must("xl save asking /root/asking.img", LONG)?;
    dom0.must("xl restore /root/asking.img", LONG)?;
    let second = answer(&mut dom0, 1)?;
    let rounds = (1..1000).find(|rounds| second.get(8..40) == Some(&nonce(*rounds)));
    let rounds = rounds.context("the guest asked with no nonce of its own")?;
    let again = owner.check(&UUID_BYTES, 0, &nonce(rounds), &second);
    demand!(
        matches!(again, Ok(again) if again.measurement == told.measurement),
        "after a restore: {again:?}"
    );
    let old = owner.check(&UUID_BYTES, 0, &nonce(rounds), &first);
    demand!(
        matches!(old, Err(Error::Nonce)),
        "an old answer is believed: {old:?}"
    );
    Ok(format!(
        "the owner believes both, launched as {}; dom0 is told that it is not protected",
        &shown[..16]
    ))
}

/// Under the host's key: protected, and nothing that proves it.
pub fn ownerless(dom0: &mut Dom0) -> Verdict {
    create(dom0)?;
    let told = Answer::from_bytes(&answer(dom0, 0)?).context("an answer of another size")?;
    demand!(
        told.state != 0 && told.owner == [0; 16] && told.tag == [0; 32],
        "without an owner: {told:?}"
    );
    Ok("protected, without an owner and without a tag".to_owned())
}

/// Where it is switched off a guest learns that it is not protected.
pub fn off(dom0: &mut Dom0) -> Verdict {
    create(dom0)?;
    let told = Answer::from_bytes(&answer(dom0, 0)?).context("an answer of another size")?;
    let nothing = Answer {
        version: told.version,
        ..Answer::default()
    };
    demand!(told == nothing, "with vmcrypt=off: {told:?}");
    Ok("told that it is not protected".to_owned())
}

/// On stock Xen as well.
pub fn stock(dom0: &mut Dom0) -> Verdict {
    const ENOSYS: &str = "-38";
    create(dom0)?;
    let said = said(dom0, |line| matches!(line, Line::NoAnswer(_)), 0)?;
    demand!(
        matches!(Line::parse(&said), Some(Line::NoAnswer(ENOSYS))),
        "the hypercall ended otherwise: {said}"
    );
    Ok("the hypercall does not exist".to_owned())
}

fn create(dom0: &mut Dom0) -> Result<(), Problem> {
    let config = format!(
        "name = \"asking\"\ntype = \"pv\"\nkernel = \"/usr/local/bin/vmcrypt-kernel\"\nmemory = 8\nmaxmem = 8\n\
         vcpus = 2\nuuid = \"{UUID}\"\non_crash = \"preserve\"\n"
    );
    dom0.run(&format!("cat >/root/asking.cfg <<'EOF'\n{config}EOF"))?;
    dom0.must("xl create -q /root/asking.cfg", LONG)?;
    Ok(())
}

/// The bytes of the `number`th answer that the guest passed on.
fn answer(dom0: &mut Dom0, number: usize) -> Result<Vec<u8>> {
    let line = said(dom0, |line| matches!(line, Line::Answer(_)), number)?;
    let Some(Line::Answer(digits)) = Line::parse(&line) else {
        anyhow::bail!("not an answer: {line}");
    };
    let byte = |two: &[u8]| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    bytes.context("digits that are none")
}

/// The `number`th line of a kind on the guest's console.
fn said(dom0: &mut Dom0, kind: impl Fn(Line<'_>) -> bool, number: usize) -> Result<String> {
    for _ in 0..60 {
        let log = dom0.try_run(&format!("cat {LOG}"), SHORT)?.text();
        let mut lines = log.lines().filter(|line| Line::parse(line).is_some_and(&kind));
        if let Some(line) = lines.nth(number) {
            return Ok(line.to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    None.context("the guest does not say what it was told")
}
