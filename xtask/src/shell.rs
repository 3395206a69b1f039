//! `cargo xtask shell`.

use anyhow::Result;
use std::fs;
use std::path::PathBuf;
use vmcrypt_e2e::guest::Spec;
use vmcrypt_guest::Role;
use vmcrypt_host::paths;
use vmcrypt_testbed::{Boot, Image, Machine, Vectors};

use crate::xen::{self, Flavour};

/// Boot the testbed and hand over the console of dom0.
///
/// The shell is root's; ending it powers the machine off. Nothing done in it outlasts the machine, except files
/// written to /out, which are kept below target/testbed/shell/out.
#[derive(clap::Args)]
pub struct Args {
    /// Boot the unpatched hypervisor.
    #[arg(long)]
    stock: bool,
    /// Boot this hypervisor.
    #[arg(long, value_name = "FILE", conflicts_with = "stock")]
    hypervisor: Option<PathBuf>,
    /// Added to Xen's command line, for example `vmcrypt=off`.
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    xen_arguments: String,
    /// Give the machine no AES-NI.
    #[arg(long)]
    no_aes_ni: bool,
    /// Give the machine VAES as well.
    #[arg(long, conflicts_with = "no_aes_ni")]
    vaes: bool,
    /// CPUs of the machine.
    #[arg(long, default_value_t = 1)]
    cpus: u8,
}

/// Run the verb.
pub fn run(args: &Args) -> Result<()> {
    let hypervisor = match &args.hypervisor {
        Some(file) => file.clone(),
        None => xen::build(if args.stock {
            Flavour::Stock
        } else {
            Flavour::Product
        })?
        .join("xen"),
    };
    let image = Image::ensure()?;
    let boot = Boot {
        xen_arguments: args.xen_arguments.clone(),
        vectors: match (args.no_aes_ni, args.vaes) {
            (true, _) => Vectors::None,
            (false, true) => Vectors::Vaes,
            (false, false) => Vectors::AesNi,
        },
        cpus: args.cpus,
        ..Boot::new(hypervisor)
    };
    let guest = Spec::new("guest").roles(&[Role::Secret, Role::Echo]);
    fs::write(image.share().join("guest.cfg"), guest.xl_config())?;
    fs::write(image.share().join("motd"), MOTD)?;
    println!("booting; half a minute until the shell appears");
    Machine::interactive(&image, &boot, paths::target_subdir("testbed/shell")?)
}

const MOTD: &str = "
dom0 of the VMCrypt testbed. Try:
  xl create guest.cfg              a guest that holds a secret
  tail -f /var/log/xen/console/*   what it says
  xl save guest /root/guest.img
  vmcrypt inspect /root/guest.img
  vmcrypt status
  exit                             powers the machine off
";
