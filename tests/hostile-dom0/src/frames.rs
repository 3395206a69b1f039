//! Which frames a guest has.

use anyhow::{Context, Result};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::xen::{self, DomId, Domain, Frame, PageType};

/// The frames that a domain owns.
pub fn owned_frames(xen: &Privcmd, domain: DomId) -> Result<Vec<Frame>> {
    Ok(typed_frames(xen, domain)?
        .into_iter()
        .map(|(frame, _)| frame)
        .collect())
}

/// The frames that a domain owns and what they are, found as an attacker would: by asking about every frame there is.
pub fn typed_frames(xen: &Privcmd, domain: DomId) -> Result<Vec<(Frame, PageType)>> {
    let target = find(xen, domain)?;
    let all: Vec<Frame> = (0..xen::frame_limit(xen, &target)?).map(Frame).collect();
    let mut owned = Vec::new();
    for batch in all.chunks(xen::BATCH) {
        let types = xen::page_types(xen, domain, batch)?;
        let all = batch.iter().copied().zip(types);
        owned.extend(all.filter(|(_, kind)| *kind != PageType::Invalid));
    }
    Ok(owned)
}

pub fn find(xen: &Privcmd, domain: DomId) -> Result<Domain> {
    let domains = xen::domains(xen)?;
    let found = domains.into_iter().find(|one| one.id == domain);
    found.with_context(|| format!("there is no domain {domain}"))
}
