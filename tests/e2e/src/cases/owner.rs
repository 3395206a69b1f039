//! Owner keys: an image that outlives the host's boot. The owner's machine is the one that runs the tests.

use crate::case::{Config, Problem, Verdict, demand};
use crate::cases::{measurement, tamper};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use crate::runner::{Options, boot};
use anyhow::{Context, Result};
use vmcrypt_core::hpke::PublicKey;
use vmcrypt_core::sealed_key::Policy;
use vmcrypt_host::paths;
use vmcrypt_testbed::Image;
use vmcrypt_tools::owner::OwnerKey;

pub(super) const UUID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
pub(super) const UUID_BYTES: [u8; 16] = 0x0f1e_2d3c_4b5a_6978_8796_a5b4_c3d2_e1f0_u128.to_be_bytes();
pub(super) const ONCE: Policy = Policy {
    measurement: [0; 32],
    serial: 5,
    restores: 1,
};

/// Saved in one boot of the host, restored in the next.
pub fn reboot(image: &Image, options: &Options) -> Verdict {
    let owner = OwnerKey::draw()?;
    let stranger = OwnerKey::draw()?;
    let config = Config {
        // Once in the life of the test's process.
        xen_arguments: format!("vmcrypt-owner={:?}", owner.public()).leak(),
        ..Config::VMCRYPT
    };
    let logs = paths::target_subdir("testbed/logs/owner-key")?;
    let mut refused = Vec::new();

    let mut dom0 = boot(image, config, options, &logs.join("first-boot"))?;
    let old_host = public_key(&mut dom0)?;
    let old_key = owner.seal(UUID_BYTES, 0, ONCE, &[old_host])?;
    let mut changed = old_key.clone();
    changed[100] ^= 1;
    let foreign = stranger.seal(UUID_BYTES, 0, ONCE, &[old_host])?;
    let earlier = Policy { serial: 4, ..ONCE };
    let earlier = owner.seal(UUID_BYTES, 0, earlier, &[old_host])?;
    refuse_key(&mut dom0, &changed, "does not authenticate")?;
    refused.push("a changed key");
    refuse_key(&mut dom0, &foreign, "not booted to take keys of this owner")?;
    refused.push("a stranger's key");
    load(&mut dom0, &old_key)?;
    refuse_key(&mut dom0, &earlier, "a higher serial")?;
    refused.push("a key of a lower serial");
    let many = Policy { restores: 0, ..ONCE };
    let swapped = owner.seal(UUID_BYTES, 0, many, &[old_host])?;
    refuse_key(&mut dom0, &swapped, "another key with this serial")?;
    load(&mut dom0, &old_key)?;
    refused.push("another grant of an equal serial");

    let mut guest = dom0.create(Spec::new("owned").uuid(UUID))?;
    let id = format!("{:?}", owner.root(&UUID_BYTES, 0).key_id());
    under_owner(&mut dom0, &guest, &id)?;
    dom0.save(&guest)?;
    // Within one boot images follow each other without limit.
    dom0.restore(&mut guest)?;
    dom0.save(&guest)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(lines == 0, "the image holds {lines} lines of the secret");
    let saved = dom0.take(&guest.image())?;
    drop(dom0);

    let mut dom0 = boot(image, config, options, &logs.join("second-boot"))?;
    guest.new_console();
    let host = public_key(&mut dom0)?;
    demand!(host != old_host, "two boots have the same key pair");
    let file = dom0.give(&saved)?;
    dom0.run(&format!("mv {file} {}", guest.image()))?;
    let file = guest.image();
    dom0.restore_refused(&file, "Xen lacks the record's key")?;
    refused.push("the image without a key");
    refuse_key(&mut dom0, &old_key, "not sealed for this boot")?;
    refused.push("the key of the last boot");
    let other = owner.seal([7; 16], 0, ONCE, &[host])?;
    load(&mut dom0, &other)?;
    dom0.restore_refused(&file, "Xen lacks the record's key")?;
    refused.push("the image with another domain's key");

    let key = owner.seal(UUID_BYTES, 0, ONCE, &[old_host, host])?;
    load(&mut dom0, &key)?;
    dom0.restore(&mut guest)?;
    under_owner(&mut dom0, &guest, &id)?;
    let sweep = dom0.sweep(&guest)?;
    let found = &sweep["needles"]["occurrences"];
    demand!(
        found == 0,
        "a sweep of the restored guest finds the secret: {found}"
    );
    dom0.destroy("owned")?;
    dom0.restore_refused(&file, "as often as the owner allows")?;
    refused.push("a second restore");
    load(&mut dom0, &key)?;
    dom0.restore_refused(&file, "as often as the owner allows")?;
    refused.push("a second restore after the key was loaded again");
    Ok(format!(
        "restored intact after the reboot under key {id}; refused: {}",
        refused.join(", ")
    ))
}

/// A launch that the owner did not name, one that he did, and an image that he lets be restored again and again.
pub fn policy(image: &Image, options: &Options) -> Verdict {
    let owner = OwnerKey::draw()?;
    let config = Config {
        xen_arguments: format!("vmcrypt-owner={:?}", owner.public()).leak(),
        ..Config::VMCRYPT
    };
    let logs = paths::target_subdir("testbed/logs/owner-policy")?;
    let mut dom0 = boot(image, config, options, &logs)?;
    let host = public_key(&mut dom0)?;

    let spec = Spec::new("owned").uuid(UUID);
    measurement::write_config(&mut dom0, &spec, None)?;
    let value = measurement::offline(&mut dom0, "/root/owned.cfg")?;
    let mut named = [0; 32];
    from_hex(&value, &mut named)?;
    let mut other = named;
    other[31] ^= 1;
    let many = Policy {
        measurement: other,
        serial: 1,
        restores: 0,
    };
    load(&mut dom0, &owner.seal(UUID_BYTES, 0, many, &[host])?)?;
    measurement::create(&mut dom0, "owned")?;
    let domid = dom0.run("xl domid owned")?.text();
    let status = measurement::unpause(&mut dom0, &domid)?;
    demand!(
        status["state"] == "refused" && status["last_refusal"] == "measurement",
        "a launch that the owner did not name: {status}"
    );
    dom0.destroy("owned")?;

    let many = Policy {
        measurement: named,
        serial: 2,
        ..many
    };
    load(&mut dom0, &owner.seal(UUID_BYTES, 0, many, &[host])?)?;
    let mut guest = dom0.create(spec)?;
    under_owner(
        &mut dom0,
        &guest,
        &format!("{:?}", owner.root(&UUID_BYTES, 0).key_id()),
    )?;
    dom0.save(&guest)?;
    dom0.restore(&mut guest)?;
    dom0.destroy("owned")?;
    let again = dom0.restore(&mut guest);
    demand!(
        matches!(&again, Err(Problem::Fail(said)) if said.contains("went back")),
        "the second restore of one image did not bring its guest back: {again:?}"
    );
    // The image is opened while that is allowed, and unpaused when it no longer is.
    dom0.destroy("owned")?;
    dom0.must(&format!("xl restore -p {}", guest.image()), LONG)?;
    let once = Policy {
        serial: 3,
        restores: 1,
        ..many
    };
    load(&mut dom0, &owner.seal(UUID_BYTES, 0, once, &[host])?)?;
    dom0.xen_log()?;
    // xl takes no notice of it.
    dom0.run("xl unpause owned")?;
    let log = dom0.xen_log()?;
    demand!(
        log.contains("restored before, or the domain ran on"),
        "unpaused or refused for another cause, after the owner had taken back many restores: {log}"
    );
    Ok(format!(
        "refused: a launch that the owner did not name, a restore that he took back before the unpause; launched as {}, one image was restored twice",
        &value[..16]
    ))
}

/// Epochs: what runs keeps its key until it is restored, what is restored goes on under the latest.
pub fn rotation(image: &Image, options: &Options) -> Verdict {
    let owner = OwnerKey::draw()?;
    let config = Config {
        xen_arguments: format!("vmcrypt-owner={:?}", owner.public()).leak(),
        ..Config::VMCRYPT
    };
    let logs = paths::target_subdir("testbed/logs/owner-rotation")?;
    let mut dom0 = boot(image, config, options, &logs)?;
    let host = public_key(&mut dom0)?;
    let id = |epoch: u32| format!("{:?}", owner.root(&UUID_BYTES, epoch).key_id());
    let mut serial = 0;
    let mut seal = |epoch: u32| {
        serial += 1;
        owner.seal(UUID_BYTES, epoch, Policy { serial, ..ONCE }, &[host])
    };
    let saved_under = |dom0: &mut Dom0, file: &str| -> Result<(String, u64), Problem> {
        let record = &dom0.json(&format!("vmcrypt inspect --json {file}"))?["sealed_record"];
        let key = record["key_id"].as_str().unwrap_or_default().to_owned();
        Ok((key, record["epoch"].as_u64().unwrap_or(u64::MAX)))
    };

    load(&mut dom0, &seal(0)?)?;
    let mut guest = dom0.create(Spec::new("owned").uuid(UUID))?;
    under_owner(&mut dom0, &guest, &id(0))?;
    load(&mut dom0, &seal(1)?)?;
    under_owner(&mut dom0, &guest, &id(0))?;
    dom0.save(&guest)?;
    let shown = saved_under(&mut dom0, &guest.image())?;
    demand!(
        shown == (id(0), 0),
        "saved under {shown:?}, it ran under {}",
        id(0)
    );
    dom0.restore(&mut guest)?;
    under_owner(&mut dom0, &guest, &id(1))?;
    load(&mut dom0, &seal(2)?)?;
    dom0.save(&guest)?;
    let shown = saved_under(&mut dom0, &guest.image())?;
    demand!(
        shown == (id(1), 1),
        "saved under {shown:?}, it ran under {}",
        id(1)
    );
    refuse_key(&mut dom0, &seal(0)?, "two keys of later epochs")?;
    dom0.restore(&mut guest)?;
    under_owner(&mut dom0, &guest, &id(2))?;

    // Two epochs on, its key is no longer there.
    dom0.save(&guest)?;
    load(&mut dom0, &seal(3)?)?;
    load(&mut dom0, &seal(4)?)?;
    let file = guest.image();
    dom0.restore_refused(&file, "Xen lacks the record's key")?;
    Ok("saved under epochs 0, 1 and 2, restored from 0 and 1 into 1 and 2; refused: an image two epochs old, a key older than both".to_owned())
}

/// Format versions whose images are restored, and the hash that the guest has of its memory.
const FORMATS: [(&str, &str); 1] = [("v2-c1", "53d003e678ea69e0")];
/// The secret of the owner under whom they were made: it protects nothing else.
const FORMATS_OWNER: &[u8] =
    b"vmcrypt-owner-2 5555555555555555555555555555555555555555555555555555555555555555\n";

/// Images that earlier builds wrote. With `VMCRYPT_WRITE_IMAGE` set to a file, writes the one of today's format instead.
pub fn formats(image: &Image, options: &Options) -> Verdict {
    let owner = OwnerKey::from_text(FORMATS_OWNER)?;
    let config = Config {
        xen_arguments: format!("vmcrypt-owner={:?}", owner.public()).leak(),
        ..Config::VMCRYPT
    };
    let logs = paths::target_subdir("testbed/logs/image-formats")?;
    let mut dom0 = boot(image, config, options, &logs)?;
    let host = public_key(&mut dom0)?;
    load(&mut dom0, &owner.seal(UUID_BYTES, 0, ONCE, &[host])?)?;
    if let Some(file) = std::env::var_os("VMCRYPT_WRITE_IMAGE") {
        let saved = tamper::saved_tiny(&mut dom0, UUID)?;
        std::fs::write(&file, saved).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(format!("written: {}", file.display()));
    }
    let mut restored = Vec::new();
    for (format, hash) in FORMATS {
        let file = paths::workspace_root().join(format!("tests/images/{format}.img"));
        let saved = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let (round, found) = tamper::restored_tiny(&mut dom0, &saved)?;
        demand!(found == hash, "{format}: its memory is {found}, it was {hash}");
        restored.push(format!("{format} at round {round}"));
    }
    Ok(format!("restored intact: {}", restored.join(", ")))
}

/// Xen's public key, which the console and the tool must agree on.
pub(super) fn public_key(dom0: &mut Dom0) -> Result<PublicKey, Problem> {
    let status = dom0.json("vmcrypt status --json")?;
    let digits = status["host"]["public_key"].as_str().unwrap_or_default();
    let line = format!("VMCrypt: host public key {digits}");
    let console = dom0.machine().console();
    demand!(
        digits.len() == 64 && console.contains(&line),
        "the console shows another public key than the hypercall, {digits}"
    );
    let mut key = PublicKey::default();
    from_hex(digits, &mut key.0)?;
    Ok(key)
}

fn from_hex(digits: &str, bytes: &mut [u8; 32]) -> Result<(), Problem> {
    for (at, byte) in bytes.iter_mut().enumerate() {
        let two = digits.get(2 * at..2 * at + 2).unwrap_or_default();
        *byte =
            u8::from_str_radix(two, 16).with_context(|| format!("not 32 bytes in hexadecimal: {digits}"))?;
    }
    Ok(())
}

fn under_owner(dom0: &mut Dom0, guest: &crate::guest::Guest, id: &str) -> Result<(), Problem> {
    let status = dom0.status(guest)?;
    let shown = &status["domains"][0]["owner_key_id"];
    demand!(shown == id, "the guest is under key {shown}, its owner gave {id}");
    Ok(())
}

pub(super) fn load(dom0: &mut Dom0, key: &[u8]) -> Result<(), Problem> {
    let file = dom0.give(key)?;
    dom0.must(&format!("vmcrypt key load {file}"), SHORT)?;
    Ok(())
}

fn refuse_key(dom0: &mut Dom0, key: &[u8], cause: &str) -> Result<(), Problem> {
    let file = dom0.give(key)?;
    let said = dom0
        .must_refuse(&format!("vmcrypt key load {file}"), SHORT)?
        .all_text();
    demand!(
        said.contains(cause),
        "key refused, but not because \"{cause}\": {said}"
    );
    Ok(())
}
