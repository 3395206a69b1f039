//! What Xen tells a guest about itself, asked for by dom0.

use anyhow::Result;
use serde_json::{Value, json};
use vmcrypt_core::abi::{self, Answer};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::xen::{self, DomId};

/// Asks with everything in the structure that would name the guest.
pub fn ask(xen: &Privcmd, domain: DomId) -> Result<Value> {
    let info = xen::domain_info(xen, domain)?;
    let wanted = Answer {
        version: abi::INTERFACE_VERSION,
        state: info.state,
        nonce: [0x5a; 32],
        uuid: info.uuid,
        measurement: info.measurement,
        owner: info.owner,
        ..Answer::default()
    };
    let mut buffer = xen.buffer(Answer::BYTES)?;
    buffer.fill(0, &wanted.to_bytes());
    xen.call(
        "what a guest is told of itself",
        abi::HYPERCALL.into(),
        &[abi::OP_ASK.into(), buffer.address()],
    )?;
    let told = Answer::from_bytes(&buffer.bytes(0, Answer::BYTES));
    Ok(json!(told.map(|told| json!({
        "state": told.state,
        "tag": told.tag != [0; 32],
        "named": told.uuid != [0; 16] || told.owner != [0; 16],
    }))))
}
