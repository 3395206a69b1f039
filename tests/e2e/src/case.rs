//! What a case is, and the four ways it can end.

use crate::dom0::Dom0;
use crate::runner::Options;
use std::fmt;
use vmcrypt_testbed::{Image, Store, Vectors};

/// One end-to-end case.
pub struct Case {
    /// How it is called on the command line.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// What it does, and where.
    pub body: Body,
}

/// What a case does.
pub enum Body {
    /// Something in dom0 of a machine that the runner boots, or has booted for the case before.
    In(Config, fn(&mut Dom0) -> Verdict),
    /// Something that boots its own machines.
    Free(&'static [Hypervisor], fn(&Image, &Options) -> Verdict),
}

impl Case {
    /// The machine that it wants to find running.
    pub fn machine(&self) -> Option<Config> {
        match self.body {
            Body::In(config, _) => Some(config),
            Body::Free(..) => None,
        }
    }

    /// Whether it shows that a detector trips, and not that VMCrypt holds.
    pub fn is_control(&self) -> bool {
        self.name.starts_with("canary-")
    }

    /// The hypervisors that must have been built.
    pub fn hypervisors(&self) -> Vec<Hypervisor> {
        match self.body {
            Body::In(config, _) => vec![config.hypervisor],
            Body::Free(all, _) => all.to_vec(),
        }
    }
}

/// Which hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hypervisor {
    /// Debian's, unpatched: where the detectors must find the secret.
    Stock,
    /// The one under test.
    VmCrypt,
    /// The same with Xen's assertions and the oracle.
    Debug,
}

/// A machine to boot. Cases with equal configurations share one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Config {
    /// Which hypervisor.
    pub hypervisor: Hypervisor,
    /// Added to its command line.
    pub xen_arguments: &'static str,
    /// What the CPU has for the page cipher.
    pub vectors: Vectors,
    /// CPUs of the machine.
    pub cpus: u8,
    /// Memory of the machine.
    pub memory_mib: u32,
    /// Which xenstore daemon.
    pub store: Store,
    /// Whether its clock counts instructions.
    pub counted: bool,
    /// Whether it has an IOMMU.
    pub iommu: bool,
    /// Whether UEFI starts it.
    pub efi: bool,
}

impl Config {
    /// The usual machine under test.
    pub const VMCRYPT: Config = Config {
        hypervisor: Hypervisor::VmCrypt,
        xen_arguments: "",
        vectors: Vectors::AesNi,
        cpus: 1,
        memory_mib: 2560,
        store: Store::C,
        counted: false,
        iommu: false,
        efi: false,
    };
    /// The same with the unpatched hypervisor.
    pub const STOCK: Config = Config {
        hypervisor: Hypervisor::Stock,
        ..Config::VMCRYPT
    };
    /// The unpatched hypervisor with two CPUs.
    pub const STOCK_TWO_CPUS: Config = Config {
        cpus: 2,
        ..Config::STOCK
    };
    /// The debug build. With two CPUs it has races to see.
    pub const DEBUG: Config = Config {
        hypervisor: Hypervisor::Debug,
        cpus: 2,
        ..Config::VMCRYPT
    };
    /// Two CPUs: live migration of a busy guest does not end with one.
    pub const TWO_CPUS: Config = Config {
        cpus: 2,
        ..Config::VMCRYPT
    };
}

/// `Ok` carries the evidence, in words.
pub type Verdict = Result<String, Problem>;

/// Why a case did not pass.
#[derive(Debug)]
pub enum Problem {
    /// What is under test did wrong.
    Fail(String),
    /// The case could not be judged: the machine, dom0 or the test itself broke.
    Error(anyhow::Error),
    /// It cannot be run here.
    Skip(String),
    /// The time for cases was used up before it began.
    Late,
}

impl Problem {
    /// For callers to whom every reason is just an error.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Problem::Error(error) => error,
            other => anyhow::Error::msg(other.to_string()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Fail(why) | Problem::Skip(why) => f.write_str(why),
            Problem::Late => {
                f.write_str("the time for end-to-end cases is used up; `cargo xtask e2e` runs them all")
            }
            Problem::Error(error) => write!(f, "{error:#}"),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Problem::Error(error.into())
    }
}

/// Fails the case unless the condition holds.
macro_rules! demand {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::case::Problem::Fail(format!($($why)+)));
        }
    };
}
pub(crate) use demand;
