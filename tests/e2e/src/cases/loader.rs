//! Guests whose kernel is not started by the domain builder.

use crate::case::{Verdict, demand};
use crate::cases::cycle::cycle;
use crate::cases::migrate::migrate;
use crate::dom0::{Dom0, LONG};
use crate::guest::Spec;

/// GRUB gives its kernel a `start_info` of its own and moves the rings to other PFNs: saved while it goes on, saved and
/// restored twice, migrated. While it runs no page is `start_info` for dom0: the builder's is ordinary memory by now.
pub fn pvgrub(dom0: &mut Dom0) -> Verdict {
    let mut guest = dom0.create(Spec::new("grub").memory_mib(192).grub())?;
    let swept = dom0.sweep(&guest)?;
    demand!(
        swept["needles"]["occurrences"] == 0 && swept["start_info"] == 0 && swept["other"] == 0,
        "a sweep of the running guest saw something: {swept}"
    );
    dom0.must(&format!("xl save -c {} {}", guest.name(), guest.image()), LONG)?;
    let lines = dom0.secret_lines(&guest.image())?;
    demand!(lines == 0, "{lines} lines of the secret are in the image");
    dom0.await_alive(&mut guest)?;
    for _ in 0..2 {
        cycle(dom0, &mut guest)?;
    }
    migrate(dom0, &mut guest)?;
    Ok(
        "saved while it goes on, saved and restored twice, migrated; start_info is not shown while it runs"
            .to_owned(),
    )
}
