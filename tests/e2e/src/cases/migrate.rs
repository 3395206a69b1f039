//! Live migration from the host to itself, without ssh, and with everything that crosses the wire recorded.

use crate::case::{Problem, Verdict, demand};
use crate::cases::cycle::resize;
use crate::dom0::{Dom0, LONG};
use crate::guest::{Guest, Spec};
use std::time::Duration;
use vmcrypt_guest::Role;
use vmcrypt_testbed::Answer;

/// Where the recording lies.
pub const WIRE: &str = "/root/migration.wire";

/// A guest that does little.
pub fn idle(dom0: &mut Dom0) -> Verdict {
    migrated(dom0, &[Role::Secret])
}

/// A guest that writes without a pause, and checks what it wrote.
pub fn busy(dom0: &mut Dom0) -> Verdict {
    migrated(dom0, &[Role::Secret, Role::Dirty])
}

/// Limit for the migration of a guest that leaves dom0 hardly any time.
const STORM_LIMIT: Duration = Duration::from_secs(1200);

/// A guest whose page tables come and go while the tools look at them.
pub fn storm(dom0: &mut Dom0) -> Verdict {
    const TIMES: u32 = 2;
    let spec = Spec::new("stormy")
        .memory_mib(384)
        .vcpus(2)
        .roles(&[Role::Secret, Role::Storm]);
    let mut guest = dom0.create(spec)?;
    let mut seconds = 0.0;
    for _ in 0..TIMES {
        seconds += migrate_within(dom0, &mut guest, STORM_LIMIT)?.time.as_secs_f64();
        let lines = dom0.secret_lines(WIRE)?;
        demand!(lines == 0, "{lines} lines of the secret went over the wire");
    }
    dom0.save(&guest)?;
    dom0.restore(&mut guest)?;
    Ok(format!(
        "migrated {TIMES} times in {seconds:.0} s, then saved and restored; all roles go on"
    ))
}

/// What a guest gives back on the way is with the receiver already, who would not take it back: the guest stays where it
/// is, and migrates once it rests.
pub fn given_back(dom0: &mut Dom0) -> Verdict {
    let spec = Spec::new("moving")
        .memory_mib(160)
        .roles(&[Role::Secret, Role::Dirty]);
    let mut guest = dom0.create(spec)?;
    let before = dom0.domid(&guest)?;
    dom0.xen_log()?;
    dom0.run(&format!(
        "(setsid {}; echo $? >/root/migrate.rc) >/root/migrate.log 2>&1 </dev/null &",
        command(guest.name())
    ))?;
    let half = format!(
        "for try in $(seq 300); do [ $(stat -c %s {WIRE} 2>/dev/null || echo 0) -gt 80000000 ] && exit 0; sleep 1; done; \
         cat /root/migrate.log; exit 1"
    );
    dom0.must(&half, LONG)?;
    // A page that goes between the tools' look at its type and their map of it ends a migration on any Xen.
    dom0.run("pkill -STOP libxl-save")?;
    resize(dom0, &mut guest, 112)?;
    dom0.run("pkill -CONT libxl-save")?;
    dom0.must(
        "for try in $(seq 400); do [ -e /root/migrate.rc ] && exit 0; sleep 1; done; cat /root/migrate.log; exit 1",
        LIMIT,
    )?;
    dom0.run("cat /root/migrate.log")?;
    let code = dom0.run("cat /root/migrate.rc; rm /root/migrate.rc")?.text();
    let log = dom0.xen_log()?;
    demand!(
        code != "0" && log.contains("gave memory back"),
        "the migration ended with {code}, and Xen's log says: {log}"
    );
    dom0.await_alive(&mut guest)?;
    let after = dom0.domid(&guest)?;
    demand!(before == after, "the guest is domain {after}, and was {before}");
    let answer = migrate(dom0, &mut guest)?;
    Ok(format!(
        "refused where it runs, which goes on; then migrated in {:.1} s",
        answer.time.as_secs_f64()
    ))
}

fn migrated(dom0: &mut Dom0, roles: &[Role]) -> Verdict {
    let mut guest = dom0.create(Spec::main("moving").roles(roles))?;
    let before = dom0.domid(&guest)?;
    let answer = migrate(dom0, &mut guest)?;
    let after = dom0.domid(&guest)?;
    demand!(before != after, "the guest is still domain {before}");
    let lines = dom0.secret_lines(WIRE)?;
    demand!(lines == 0, "{lines} lines of the secret went over the wire");
    let size: u64 = dom0.run(&format!("stat -c %s {WIRE}"))?.text().parse()?;
    demand!(size > 200 << 20, "only {size} bytes were recorded");
    Ok(format!(
        "0 lines in {} MiB of wire; {:.1} s, all roles go on as domain {after}",
        size >> 20,
        answer.time.as_secs_f64()
    ))
}

/// Migrates a guest and waits for signs of life.
pub fn migrate(dom0: &mut Dom0, guest: &mut Guest) -> Result<Answer, Problem> {
    migrate_within(dom0, guest, LIMIT)
}

/// Limit for any other migration.
const LIMIT: Duration = Duration::from_secs(420);

fn command(name: &str) -> String {
    format!("xl migrate -s '' {name} 'tee {WIRE} | xl migrate-receive'")
}

fn migrate_within(dom0: &mut Dom0, guest: &mut Guest, limit: Duration) -> Result<Answer, Problem> {
    let answer = dom0.must(&command(guest.name()), limit)?;
    guest.migrated = true;
    dom0.await_alive(guest)?;
    Ok(answer)
}
