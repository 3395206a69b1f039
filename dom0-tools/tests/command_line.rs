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
