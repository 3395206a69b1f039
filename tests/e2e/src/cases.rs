//! The table of all cases.

pub mod canary;
pub mod cycle;

use crate::case::{Case, Config};

/// Every case, in the order in which a reader should meet them.
pub const ALL: &[Case] = &[
    Case {
        name: "canary-image",
        about: "stock Xen: the image holds the secret, so the search in images works",
        machine: Config::STOCK,
        run: canary::image,
    },
    Case {
        name: "save-restore",
        about: "a guest is saved and restored, its image holds no line of the secret",
        machine: Config::VMCRYPT,
        run: cycle::save_restore,
    },
];
