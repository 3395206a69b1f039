//! Twins on the unpatched hypervisor: each shows that a detector finds what is there.

use crate::case::{Verdict, demand};
use crate::dom0::{Dom0, marker};
use crate::guest::Spec;
use vmcrypt_guest::secret;

/// The image of a stock save holds the secret.
pub fn image(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("canary"))?;
    let save = dom0.save(&guest)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(
        lines >= u64::from(secret::LINES) * 9 / 10,
        "only {lines} lines of the secret are in a stock image"
    );
    let restore = dom0.restore(&mut guest)?;
    marker(format!(
        "{lines} lines of the secret in the image; save {:.1} s, restore {:.1} s, hash intact",
        save.time.as_secs_f64(),
        restore.time.as_secs_f64()
    ))
}
