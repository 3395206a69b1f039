//! An evil (or clumsy) dom0. Prints what Xen answered, as JSON, and judges nothing; that is for the case that runs it.

fn main() -> anyhow::Result<()> {
    vmcrypt_hostile::run()
}
