//! Everything that decides, seen from outside and compared with models too simple to be wrong.

mod bitmap;
mod doors;
mod entropy;
mod keyring;
mod life;
mod measure;
mod p2m;
mod policy;
mod record;
mod refusal;

use proptest::prelude::ProptestConfig;
use std::sync::atomic::AtomicU64;
use vmcrypt_core::PfnSet;

/// Few cases, so that the whole takes a moment; none of it writes files. An interpreter gets fewer still.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { cases },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Memory for a set of PFNs below `pfns`.
fn words(pfns: u64) -> Vec<AtomicU64> {
    (0..PfnSet::words_for(pfns)).map(|_| AtomicU64::new(0)).collect()
}

/// Every state of a domain's life.
pub const STATES: [vmcrypt_core::State; 6] = [
    vmcrypt_core::State::Building,
    vmcrypt_core::State::Sealing,
    vmcrypt_core::State::Running,
    vmcrypt_core::State::Suspended,
    vmcrypt_core::State::Dying,
    vmcrypt_core::State::Refused,
];
