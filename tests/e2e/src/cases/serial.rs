//! Where owners read a host's public key: the serial line, to which dom0 writes as well.

use crate::case::{Problem, Verdict, demand};
use crate::cases::owner;
use crate::dom0::{Dom0, SHORT};
use std::time::Duration;

/// A key that nobody drew.
const FAKE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Three times Ctrl-A, which turns input from dom0 to Xen, and then the key.
const TYPED: &[u8] = b"\x01\x01\x01K";
/// What cancels a control sequence, and resets the terminal.
const RESET: &str = "\x18\x1b\\\x1bc";
const LINE: &str = "VMCrypt: host public key ";

/// By default dom0 paints what it likes. Whoever types at the line sees Xen's key alone, on an empty screen.
pub fn typed(dom0: &mut Dom0) -> Verdict {
    let key = owner::public_key(dom0)?;
    let boot = dom0.machine().console();
    let shown = boot.find(LINE).unwrap_or(usize::MAX);
    let dom0_runs = boot
        .find("*** Building a PV Dom0")
        .or_else(|| boot.find("Dom0 kernel"));
    demand!(
        dom0_runs.is_some_and(|dom0_runs| shown < dom0_runs),
        "the key is not shown before there is a dom0"
    );
    paint(dom0)?;
    let painted = said_since(dom0, boot.len());
    demand!(
        painted.contains(&format!("\x1b[2J\x1b[H(XEN) {LINE}{FAKE}")),
        "dom0's bytes do not pass as they are: {painted:?}"
    );

    let before = dom0.machine().console().len();
    let words = format!("{LINE}{key:?}");
    dom0.machine()
        .type_at_console(TYPED, &words, Duration::from_secs(60))?;
    paint(dom0)?;
    let said = said_since(dom0, before);
    let (_, after) = said.rsplit_once(RESET).ok_or_else(|| {
        Problem::Fail(format!(
            "the terminal is not reset before the key is shown: {said:?}"
        ))
    })?;
    let lines: Vec<_> = after.lines().filter(|line| line.contains(LINE)).collect();
    demand!(
        lines.len() == 1 && lines[0].trim_end().ends_with(&words),
        "beside the key the console shows {after:?}"
    );

    let refused = dom0.must_refuse("xl debug-keys K", SHORT)?;
    demand!(
        !said_since(dom0, before + said.len()).contains(LINE),
        "dom0 had the key shown, and the output of others held: {}",
        refused.all_text()
    );
    std::thread::sleep(HELD);
    let before = dom0.machine().console().len();
    paint(dom0)?;
    demand!(
        said_since(dom0, before).contains(FAKE),
        "dom0's output is held for ever"
    );
    Ok(format!(
        "shown {} when typed for, after a reset, and nothing of dom0's with it",
        &words[LINE.len()..][..16]
    ))
}

/// As long as Xen leaves out what dom0 writes, and a while.
const HELD: Duration = Duration::from_secs(25);

/// Marked, each line says whose it is, and no escape of dom0's reaches the terminal.
pub fn marked(dom0: &mut Dom0) -> Verdict {
    let before = dom0.machine().console().len();
    paint(dom0)?;
    // A line so long that a terminal goes on at the left margin.
    dom0.run(&format!(
        "printf '%080d(XEN) {LINE}{FAKE}\\n' 0 >/dev/hvc0; sleep 1"
    ))?;
    let said = said_since(dom0, before);
    let lines: Vec<_> = said.lines().filter(|line| line.contains(&FAKE[..8])).collect();
    demand!(
        lines.len() == 2 && lines.iter().all(|line| line.starts_with("(d0) ")),
        "dom0's lines: {lines:?}"
    );
    demand!(
        !said.contains('\x1b'),
        "an escape of dom0's got through: {said:?}"
    );
    let long = said.lines().find(|line| line.len() > 80);
    demand!(long.is_none(), "a line that wraps: {long:?}");
    Ok(lines[0].trim_end().to_owned())
}

/// What dom0 would show an owner, and time for it to get there.
fn paint(dom0: &mut Dom0) -> Result<(), Problem> {
    dom0.run(&format!(
        "printf '\\033[2J\\033[H(XEN) {LINE}{FAKE}\\r\\n' >/dev/hvc0; sleep 1"
    ))?;
    Ok(())
}

fn said_since(dom0: &mut Dom0, before: usize) -> String {
    dom0.machine()
        .console()
        .get(before..)
        .unwrap_or_default()
        .to_owned()
}
