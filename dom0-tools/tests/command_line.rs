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
    let made = vmcrypt(&["key", "new", "--no-passphrase", key.path()]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let mode = std::fs::metadata(&key.0).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&key.0).expect("a key");
    let again = vmcrypt(&["key", "new", "--no-passphrase", key.path()]);
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
    let bare = |more: &[&str]| {
        let base = ["key", "seal", key.path(), "--uuid", UUID, "--out", sealed.path()];
        vmcrypt(&[&base[..], more].concat())
    };
    let seal = |more: &[&str]| bare(&[more, &["--any-launch"]].concat());
    let done = seal(&[
        "--host",
        &hosts[0],
        &hosts[1],
        "--restores",
        "3",
        "--serial",
        "4",
        "--epoch",
        "6",
    ]);
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
        ", epoch 6",
        "launched as anything",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    for (wrong, words) in [
        (&["--host", "12"][..], "64 hexadecimal digits"),
        (&["--host", &hosts[0], "--restores", "0"], "above 0"),
        (&["--host", &hosts[0]], "File exists"),
        (&["--host", &hosts[0], "--host", &hosts[0]], "named twice"),
    ] {
        let output = seal(wrong);
        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains(words), "{words}: {output:?}");
    }
    // What is launched is named, or said to be anything.
    let measured = "77".repeat(32);
    for (wrong, words) in [
        (&["--host", &hosts[0]][..], "--measurement <HEX>"),
        (
            &["--host", &hosts[0], "--measurement", "zz"],
            "64 hexadecimal digits",
        ),
        (
            &["--host", &hosts[0], "--measurement", &measured, "--any-launch"],
            "cannot be used with",
        ),
        (
            &["--host", &hosts[0], "--measurement", &"00".repeat(32)],
            "--any-launch seals",
        ),
    ] {
        let output = bare(wrong);
        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains(words), "{words}: {output:?}");
    }
    // Without a serial, it is the time.
    std::fs::remove_file(&sealed.0).expect("it was there");
    let now = || std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let before = now();
    let done = bare(&["--host", &hosts[0], "--measurement", &measured]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let shown = vmcrypt(&["key", "show", sealed.path()]).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains(&format!("launched as {measured}")), "{shown}");
    let serial = shown.lines().find_map(|line| line.strip_prefix("serial      "));
    let serial: u64 = serial.expect("a serial").parse().expect("a number");
    assert!((before..=now()).contains(&serial), "{serial}");

    let load = vmcrypt(&["key", "load", key.path()]);
    assert!(stderr(&load).contains("must not be in dom0"), "{load:?}");
    let bytes = std::fs::read(&sealed.0).expect("sealed");
    let cut = Scratch::new("cut-key", &bytes[..bytes.len() - 1]);
    let load = vmcrypt(&["key", "load", cut.path()]);
    assert!(stderr(&load).contains("not a sealed key"), "{load:?}");
    let mut later = bytes.clone();
    later[8] = 9;
    let later = Scratch::new("later-key", &later);
    for verb in ["load", "show"] {
        let output = vmcrypt(&["key", verb, later.path()]);
        let words = "version 9, cipher 1: sealed key of a version";
        assert!(stderr(&output).contains(words), "{output:?}");
    }
    let large = Scratch::new("large-key", &[0; 4096]);
    let show = vmcrypt(&["key", "show", large.path()]);
    assert!(stderr(&show).contains("too large"), "{show:?}");
    if !Path::new("/dev/xen/privcmd").exists() {
        let load = vmcrypt(&["key", "load", sealed.path()]);
        assert!(stderr(&load).contains("not on Xen"), "{load:?}");
    }
}

fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
}

/// A key under a passphrase opens with that alone, and is shown to nobody else.
#[test]
fn a_passphrase_protects_an_owners_key() {
    let (right, wrong) = (
        Scratch::new("right", b"correct horse\n"),
        Scratch::new("wrong", b"correct hors\n"),
    );
    let empty = Scratch::new("empty", b"\n");
    for file in [&right, &wrong, &empty] {
        chmod(&file.0, 0o600);
    }
    let key = Scratch::new("protected", b"");
    std::fs::remove_file(&key.0).expect("it was there");
    let with = |verb: &[&str], passphrase: &Scratch| {
        vmcrypt(
            &[
                &["key"],
                verb,
                &[key.path(), "--passphrase-file", passphrase.path()],
            ]
            .concat(),
        )
    };
    let none = with(&["new"], &empty);
    assert!(stderr(&none).contains("is no passphrase"), "{none:?}");
    assert!(!key.0.exists());
    let made = with(&["new"], &right);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let text = String::from_utf8(std::fs::read(&key.0).expect("a key")).expect("text");
    assert!(text.starts_with("vmcrypt-owner-2-scrypt 17 "), "{text}");
    let shown = with(&["show"], &right);
    assert_eq!(shown.stdout, made.stdout);
    let denied = with(&["show"], &wrong);
    assert!(stderr(&denied).contains("wrong passphrase"), "{denied:?}");
    assert_eq!(denied.stdout, b"");
    let load = vmcrypt(&["key", "load", key.path()]);
    assert!(stderr(&load).contains("must not be in dom0"), "{load:?}");

    for mode in [0o640, 0o604, 0o660, 0o610] {
        chmod(&key.0, mode);
        let open = with(&["show"], &right);
        assert_eq!(open.status.code(), Some(1), "{mode:o}");
        assert!(stderr(&open).contains("chmod 600"), "{open:?}");
    }
    chmod(&key.0, 0o400);
    chmod(&right.0, 0o644);
    let open = with(&["show"], &right);
    assert!(stderr(&open).contains("chmod 600"), "{open:?}");
}

/// A kernel whose note holds what a terminal obeys: it is shown, and not obeyed.
#[test]
fn what_others_wrote_is_escaped() {
    let features = b"!x\x1b]0;owned\x07\n\xc2\x9b2J\0";
    let mut note = [4, features.len() as u32, 10].map(u32::to_le_bytes).concat();
    note.extend(b"Xen\0");
    note.extend(features);
    let mut elf = vec![0; 64 + 56];
    let mut put = |at: usize, bytes: &[u8]| elf[at..][..bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1]);
    put(64, &[4, 0, 0, 0, 4]);
    put(72, &120u64.to_le_bytes());
    put(96, &(note.len() as u64).to_le_bytes());
    elf.extend(note);
    let kernel = Scratch::new("hostile-\x1b[2J-kernel", &elf);
    let config = Scratch::new("hostile-config", b"type = \"pv\"\nmemory = 32\nname = \"x\"\n");
    let output = vmcrypt(&["measure", kernel.path(), config.path()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("demands x\\u{1b}]0;owned\\u{7}\\u{a}\\u{9b}2J"),
        "{said}"
    );
    assert_eq!(said.matches('\n').count(), 1, "one line: {said:?}");
    let mut shown = said.trim_end_matches('\n').chars();
    assert!(!shown.any(char::is_control), "{said:?}");
    // Names of files are others', too.
    let output = vmcrypt(&["inspect", kernel.path()]);
    let all = [output.stdout, output.stderr].concat();
    let all = String::from_utf8(all).expect("text");
    assert!(
        all.contains("hostile-\\u{1b}[2J-kernel") && !all.contains('\x1b'),
        "{all:?}"
    );
}
