//! What an administrator does to a guest, at random: after each step the guest is there and intact.

use crate::case::{Problem, Verdict, demand};
use crate::cases::cycle::resize;
use crate::cases::migrate::{WIRE, migrate};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::{Guest, Spec};
use std::collections::BTreeMap;
use vmcrypt_guest::Role;

/// Holds another seed than [`SEED`].
const SEED_VARIABLE: &str = "VMCRYPT_STEPS_SEED";
/// Draws each kind of step, and in the first 40 those that take minutes once.
const SEED: u64 = 6460;
const NAME: &str = "random";
/// What the balloon is set to, in MiB; the guest starts with the first.
const MEMORY: [u32; 4] = [96, 120, 144, 168];

/// One kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    MemSet,
    VcpuSet,
    Disk,
    Net,
    Pause,
    Rename,
    Checkpoint,
    SaveRestore,
    SavePaused,
    FailedRestore,
    SuspendResume,
    Migrate,
    Xenconsoled,
    Monitor,
    DumpCore,
}

/// Each kind as often as it is to be drawn: what takes a minute is rare.
const BAG: &[Step] = &[
    Step::MemSet,
    Step::MemSet,
    Step::MemSet,
    Step::VcpuSet,
    Step::VcpuSet,
    Step::Disk,
    Step::Disk,
    Step::Net,
    Step::Net,
    Step::Pause,
    Step::Pause,
    Step::Rename,
    Step::Checkpoint,
    Step::SaveRestore,
    Step::SavePaused,
    Step::FailedRestore,
    Step::SuspendResume,
    Step::Migrate,
    Step::Xenconsoled,
    Step::Monitor,
    Step::DumpCore,
];

/// As many as a run of all cases has time for.
pub fn short(dom0: &mut Dom0) -> Verdict {
    walk(dom0, 40)
}

/// More of them.
pub fn long(dom0: &mut Dom0) -> Verdict {
    walk(dom0, 200)
}

/// A guest, and what was attached to it.
struct Walk {
    guest: Guest,
    random: fastrand::Rng,
    disk: bool,
    net: bool,
}

fn walk(dom0: &mut Dom0, steps: u32) -> Verdict {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text
            .parse()
            .map_err(|e| anyhow::anyhow!("{SEED_VARIABLE}: {e}"))?,
        Err(_) => SEED,
    };
    let spec = Spec::new(NAME)
        .memory_mib(MEMORY[0])
        .max_memory_mib(256)
        .vcpus(2)
        .roles(&[Role::Secret, Role::Disk, Role::Net]);
    let mut walk = Walk {
        guest: dom0.create(spec)?,
        random: fastrand::Rng::with_seed(seed),
        disk: false,
        net: false,
    };
    dom0.run("truncate -s 16M /root/more.disk")?;
    let mut done = BTreeMap::new();
    for number in 1..=steps {
        let step = BAG[walk.random.usize(..BAG.len())];
        dom0.note(&format!("\nstep {number} of {steps}, seed {seed}: {step:?}"));
        walk.take(dom0, step)
            .and_then(|()| dom0.await_alive(&mut walk.guest))
            .map_err(|problem| match problem {
                Problem::Fail(said) => {
                    Problem::Fail(format!("step {number} of seed {seed}, {step:?}: {said}"))
                }
                other => other,
            })?;
        *done.entry(step).or_insert(0) += 1;
    }
    let counts: Vec<String> = done
        .iter()
        .map(|(step, count)| format!("{step:?} {count}"))
        .collect();
    Ok(format!(
        "seed {seed}: {steps} steps, and all roles go on: {}",
        counts.join(", ")
    ))
}

impl Walk {
    fn take(&mut self, dom0: &mut Dom0, step: Step) -> Result<(), Problem> {
        let image = self.guest.image();
        match step {
            Step::MemSet => {
                let mib = MEMORY[self.random.usize(..MEMORY.len())];
                resize(dom0, &mut self.guest, mib)?;
            }
            Step::VcpuSet => {
                let vcpus = self.random.u32(1..=2);
                dom0.must(&format!("xl vcpu-set --ignore-host {NAME} {vcpus}"), SHORT)?;
            }
            Step::Disk => {
                let command = match self.disk {
                    true => format!("xl block-detach {NAME} xvdb"),
                    false => format!(
                        "xl block-attach {NAME} format=raw,vdev=xvdb,access=rw,target=/root/more.disk"
                    ),
                };
                dom0.must(&command, LONG)?;
                self.disk = !self.disk;
            }
            Step::Net => {
                let command = match self.net {
                    true => format!("xl network-detach {NAME} 1"),
                    false => format!("xl network-attach {NAME} bridge=xenbr0"),
                };
                dom0.must(&command, LONG)?;
                self.net = !self.net;
            }
            Step::Pause => {
                dom0.must(&format!("xl pause {NAME} && sleep 1 && xl unpause {NAME}"), SHORT)?;
            }
            Step::Rename => {
                dom0.must(
                    &format!("xl rename {NAME} other && xl rename other {NAME}"),
                    SHORT,
                )?;
            }
            Step::Checkpoint => {
                dom0.must(&format!("xl save -c {NAME} {image}"), LONG)?;
                clean(dom0, &image)?;
            }
            Step::SaveRestore => {
                dom0.must(&format!("xl save {NAME} {image}"), LONG)?;
                clean(dom0, &image)?;
                dom0.must(&format!("xl restore {image}"), LONG)?;
            }
            Step::SavePaused => {
                dom0.must(&format!("xl save -p {NAME} {image}"), LONG)?;
                clean(dom0, &image)?;
                match self.random.bool() {
                    true => dom0.must(&format!("xl unpause {NAME}"), SHORT)?,
                    false => dom0.must(
                        &format!("xl destroy {NAME} && xl restore -p {image} && xl unpause {NAME}"),
                        LONG,
                    )?,
                };
            }
            // Its disk is away, or its tool is killed on the way: the image is good for another time.
            Step::FailedRestore => {
                dom0.must(&format!("xl save {NAME} {image}"), LONG)?;
                let seconds = self.random.u32(1..=4);
                dom0.run(&format!(
                    "timeout -s KILL {seconds} xl restore {image}; pkill -KILL libxl-save; xl destroy {NAME}; \
                     for try in $(seq 50); do [ $(xl list | wc -l) = 2 ] && exit 0; sleep 0.2; done"
                ))?;
                dom0.must(&format!("xl restore {image}"), LONG)?;
            }
            Step::SuspendResume => {
                dom0.must(&format!("xl suspend {NAME} && sleep 1 && xl resume {NAME}"), LONG)?;
            }
            Step::Migrate => {
                migrate(dom0, &mut self.guest)?;
                clean(dom0, WIRE)?;
            }
            Step::Xenconsoled => {
                dom0.must(
                    "kill $(cat /run/xen/xenconsoled.pid) && sleep 1 && /usr/lib/xen-4.20/bin/xenconsoled --log=guest \
                     --log-dir=/var/log/xen/console --pid-file=/run/xen/xenconsoled.pid",
                    SHORT,
                )?;
            }
            // Who waits for the guest's end: nobody does until its next restore.
            Step::Monitor => {
                dom0.run("pkill -KILL -x xl")?;
            }
            Step::DumpCore => {
                dom0.must(&format!("xl dump-core {NAME} /root/random.core"), LONG)?;
                clean(dom0, "/root/random.core")?;
            }
        }
        Ok(())
    }
}

/// Nothing of the secret is in what dom0 got.
fn clean(dom0: &mut Dom0, file: &str) -> Result<(), Problem> {
    let lines = dom0.secret_lines(file)?;
    demand!(lines == 0, "{lines} lines of the secret are in {file}");
    Ok(())
}
