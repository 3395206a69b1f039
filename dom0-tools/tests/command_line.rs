//! The `vmcrypt` program as a user meets it: exit status and words.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn vmcrypt(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmcrypt"))
        .args(args)
        .output()
        .expect("vmcrypt runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file that vanishes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("vmcrypt-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("a scratch file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The shortest image there can be: a libxl stream that ends at once.
const EMPTY: &[u8] = b"LibxlFmt\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0";

#[test]
fn a_whole_image_is_fine_and_hits_count_only_when_denied() {
    let image = Scratch::new("whole", &[EMPTY, b"after the end: a secret"].concat());
    let run = |more: &[&str]| vmcrypt(&[&["inspect", image.path()], more].concat());
    assert_eq!(run(&[]).status.code(), Some(0));
    assert_eq!(run(&["--needle", "secret"]).status.code(), Some(0));
    assert_eq!(run(&["--needle", "secret", "--deny-hits"]).status.code(), Some(3));
    assert_eq!(
        run(&["--needle-hex", "736563726574", "--deny-hits"])
            .status
            .code(),
        Some(3)
    );
    assert_eq!(run(&["--needle", "other", "--deny-hits"]).status.code(), Some(0));

    let lines = Scratch::new("lines", b"nothing\nsecret\n\n");
    let json = run(&["--needle-file", lines.path(), "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(
        json["needles"],
        serde_json::json!({ "needles": 2, "needles_found": 1, "occurrences": 1 })
    );
}

#[test]
fn what_is_no_image_is_named_with_its_fault() {
    let cut = Scratch::new("cut", &EMPTY[..20]);
    let output = vmcrypt(&["inspect", cut.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("ends at offset 20, 4 bytes short of a libxl record header"),
        "{output:?}"
    );

    let foreign = Scratch::new("foreign", b"#!/bin/sh\nexit 0\n");
    let output = vmcrypt(&["inspect", foreign.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not a save image"), "{output:?}");

    let output = vmcrypt(&["inspect", "/nonexistent/image"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("cannot open /nonexistent/image"),
        "{output:?}"
    );
}

#[test]
fn a_picture_is_written() {
    let image = Scratch::new("drawn", EMPTY);
    let png = Scratch::new("png", b"");
    assert_eq!(
        vmcrypt(&["inspect", image.path(), "--png", png.path()])
            .status
            .code(),
        Some(0)
    );
    let decoder = png::Decoder::new(std::io::BufReader::new(
        std::fs::File::open(&png.0).expect("a file"),
    ));
    let mut reader = decoder.read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    reader.next_frame(&mut pixels).expect("whole");
}

#[test]
fn without_xen_the_hypervisor_verbs_say_so() {
    if Path::new("/dev/xen/privcmd").exists() {
        return;
    }
    for args in [&["status"][..], &["sweep", "1", "--needle", "x"]] {
        let output = vmcrypt(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("not on Xen"), "{output:?}");
    }
}

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// An owner's whole way: draw, seal, look.
#[test]
fn an_owner_draws_a_key_and_seals_it() {
    use std::os::unix::fs::PermissionsExt;
    let gone = |name: &str| {
        let scratch = Scratch::new(name, b"");
        std::fs::remove_file(&scratch.0).expect("it was there");
        scratch
    };
    let (key, sealed) = (gone("owner"), gone("sealed"));
    let made = vmcrypt(&["key", "new", key.path()]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let mode = std::fs::metadata(&key.0).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&key.0).expect("a key");
    let again = vmcrypt(&["key", "new", key.path()]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("File exists"), "{again:?}");
    assert_eq!(
        std::fs::read(&key.0).expect("a key"),
        before,
        "nothing is overwritten"
    );

    let shown = vmcrypt(&["key", "show", key.path()]);
    assert_eq!(shown.stdout, made.stdout);
    let secret = String::from_utf8_lossy(&before[before.len() - 65..before.len() - 1]).into_owned();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(secret.len() == 64 && !shown.contains(&secret), "{shown}");
    let owner = shown.split_whitespace().nth(1).expect("the public half");

    let hosts = ["11", "22"].map(|byte| byte.repeat(32));
    let seal = |more: &[&str]| {
        let base = ["key", "seal", key.path(), "--uuid", UUID, "--out", sealed.path()];
        vmcrypt(&[&base[..], more].concat())
    };
    let done = seal(&["--host", &hosts[0], &hosts[1], "--restores", "3", "--serial", "4"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let shown = vmcrypt(&["key", "show", sealed.path()]).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    for part in [
        UUID,
        owner,
        &hosts[0],
        &hosts[1],
        "restores    3",
        "serial      4",
        "launched as anything",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    for (wrong, words) in [
        (&["--host", "12"][..], "64 hexadecimal digits"),
        (&["--host", &hosts[0], "--restores", "0"], "above 0"),
        (
            &["--host", &hosts[0], "--measurement", "zz"],
            "64 hexadecimal digits",
        ),
        (&["--host", &hosts[0]], "File exists"),
        (&["--host", &hosts[0], "--host", &hosts[0]], "named twice"),
    ] {
        let output = seal(wrong);
        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains(words), "{words}: {output:?}");
    }

    let load = vmcrypt(&["key", "load", key.path()]);
    assert!(stderr(&load).contains("must not be in dom0"), "{load:?}");
    let bytes = std::fs::read(&sealed.0).expect("sealed");
    let cut = Scratch::new("cut-key", &bytes[..bytes.len() - 1]);
    let load = vmcrypt(&["key", "load", cut.path()]);
    assert!(stderr(&load).contains("not a sealed key"), "{load:?}");
    let large = Scratch::new("large-key", &[0; 4096]);
    let show = vmcrypt(&["key", "show", large.path()]);
    assert!(stderr(&show).contains("too large"), "{show:?}");
    if !Path::new("/dev/xen/privcmd").exists() {
        let load = vmcrypt(&["key", "load", sealed.path()]);
        assert!(stderr(&load).contains("not on Xen"), "{load:?}");
    }
}
