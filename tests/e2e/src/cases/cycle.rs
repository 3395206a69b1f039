//! Save and restore, in all their variants.

use crate::case::{Verdict, demand};
use crate::dom0::{Dom0, marker};
use crate::guest::Spec;

/// The main job.
pub fn save_restore(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("main"))?;
    let save = dom0.save(&guest)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(lines == 0, "{lines} lines of the secret are in the image");
    let restore = dom0.restore(&mut guest)?;
    marker(format!(
        "0 lines of the secret in the image; save {:.1} s, restore {:.1} s, hash intact",
        save.time.as_secs_f64(),
        restore.time.as_secs_f64()
    ))
}
