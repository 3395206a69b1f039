//! `vmcrypt measure` reads a guest's configuration, which whoever wants it measured brings. What it understands keeps within
//! what it allows, and means the same with a comment behind it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vmcrypt_tools::measure::Config;

fuzz_target!(|bytes: &[u8]| {
    let config = Config::parse(bytes).ok();
    if let Some(config) = &config {
        assert!((1..=1 << 24).contains(&config.memory_mib));
        assert!((config.memory_mib..=1 << 24).contains(&config.max_memory_mib));
        assert!((1..=8192).contains(&config.max_vcpus));
    }
    let commented = [bytes, b"\n# the end"].concat();
    assert_eq!(Config::parse(&commented).ok(), config);
});
