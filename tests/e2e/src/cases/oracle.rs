//! The debug build, in which Xen looks at its assertions, and at every suspend judges each page of the guest afresh. A
//! failed assertion, and a page that was noted wrong, are words on the console that end any case.

use crate::case::{Problem, Verdict, demand};
use crate::cases::cycle;
use crate::dom0::{Dom0, LONG};
use crate::guest::Spec;
use vmcrypt_guest::Role;
use vmcrypt_testbed::ORACLE;

/// Tables come and go while the guest writes on two vCPUs, gives memory back and takes it again: the notes stay right.
pub fn agrees(dom0: &mut Dom0) -> Verdict {
    let before = dom0.machine().console().len();
    let spec = Spec::new("judged").vcpus(2).roles(&[Role::Secret, Role::Dirty]);
    let mut guest = dom0.create(spec)?;
    let mut suspends = 0;
    for mib in [128, 110, 128] {
        cycle::resize(dom0, &mut guest, mib)?;
        dom0.must(&format!("xl save -c judged {}", guest.image()), LONG)?;
        dom0.await_alive(&mut guest)?;
        cycle::cycle(dom0, &mut guest)?;
        suspends += 2;
    }
    let console = dom0.machine().console();
    let said = verdicts(&console[before..]);
    demand!(
        said.len() == suspends,
        "{suspends} suspends, and the oracle spoke {} times: {}",
        said.len(),
        said.join(" | ")
    );
    Ok(format!("{suspends} suspends; the last: {}", said[suspends - 1]))
}

/// Xen is told to find a page wrong: the oracle must say so, and that must end what the case was doing.
pub fn canary(dom0: &mut Dom0) -> Verdict {
    let guest = dom0.create(Spec::new("canary"))?;
    let before = dom0.machine().console().len();
    let alarm = match dom0.save(&guest) {
        Err(Problem::Error(error)) => format!("{error:#}"),
        _ => String::new(),
    };
    // dom0 knows nothing of it: let it end the save before it is asked for anything else.
    let _ = (0..3).find(|_| dom0.machine().run("true", LONG).is_ok());
    let console = dom0.machine().console();
    let said = verdicts(&console[before..]);
    let (oracle, _) = ORACLE;
    demand!(
        alarm.contains(oracle) && said.len() == 1 && said[0].ends_with(" 1 differ"),
        "one page was found wrong, and that is what came of it: {alarm}; {}",
        said.join(" | ")
    );
    Ok(format!(
        "the save ended with {}",
        alarm[alarm.find(oracle).unwrap_or(0)..].trim()
    ))
}

/// The oracle's last word on each suspend.
fn verdicts(console: &str) -> Vec<&str> {
    let (oracle, _) = ORACLE;
    console
        .lines()
        .filter_map(|line| line.find(oracle).map(|at| line[at..].trim_end()))
        .filter(|line| line.ends_with(" differ"))
        .collect()
}
