//! Links the kernel where its own pages lie, with nothing but itself.

fn main() {
    println!("cargo::rerun-if-changed=link.x");
    let script = format!(
        "{}/link.x",
        std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where it builds")
    );
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        &format!("-T{script}"),
    ] {
        println!("cargo::rustc-link-arg-bin=vmcrypt-kernel={argument}");
    }
}
