//! The machine that measures: what it is, how busy it is, and how much of a CPU's time work takes.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeValLike,
};
use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// What figures belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    cpu: String,
    family: String,
    model: String,
    /// Whether the machine is a virtual one.
    virtual_machine: bool,
    cpus: usize,
    /// Compiler.
    rustc: String,
    /// Which SHA-256 the record used: Xen has the portable one.
    sha256: String,
    /// `/proc/loadavg` when measuring began.
    load_before: String,
    /// `/proc/loadavg` when it was over: the bench itself counts as one.
    load_after: String,
}

impl Machine {
    /// This machine, as it is now.
    pub fn this() -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(key, _)| key.trim() == name);
            found.map_or("", |(_, value)| value.trim()).to_owned()
        };
        let load = load()?;
        Ok(Self {
            cpu: field("model name"),
            family: field("cpu family"),
            model: field("model"),
            virtual_machine: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            cpus: std::thread::available_parallelism()?.get(),
            rustc: env!("VMCRYPT_BENCH_RUSTC").to_owned(),
            sha256: if cfg!(sha2_backend = "soft") {
                "portable"
            } else {
                "the fastest that the CPU has"
            }
            .to_owned(),
            load_before: load.clone(),
            load_after: load,
        })
    }

    /// Notes how busy the machine is at the end.
    pub fn finish(&mut self) -> Result<()> {
        self.load_after = load()?;
        Ok(())
    }

    /// Whether figures of both can be held against each other: the CPU and their number are the same.
    pub fn is_like(&self, other: &Self) -> bool {
        let kind = |machine: &Self| {
            let Self {
                cpu, family, model, ..
            } = machine.clone();
            (cpu, family, model, machine.virtual_machine, machine.cpus)
        };
        kind(self) == kind(other)
    }

    /// What one run may have that another has not, in one line.
    pub fn run(&self) -> String {
        format!(
            "{}, SHA-256: {}, load {} before, {} after",
            self.rustc, self.sha256, self.load_before, self.load_after
        )
    }

    /// The CPU, in one line.
    pub fn cpu(&self) -> String {
        let guest = if self.virtual_machine {
            " of a virtual machine"
        } else {
            ""
        };
        format!(
            "{}, family {}, model {}, {} CPUs{guest}",
            self.cpu, self.family, self.model, self.cpus
        )
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n{} (1, 5 and 15 minutes; this program is one of it)",
            self.cpu(),
            self.run()
        )
    }
}

/// The three averages.
fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// CPUs that this thread may run on.
pub fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("cannot ask for the CPUs of this thread")?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Keeps this thread on one CPU, so that its caches stay its own.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// Does `work` with this thread kept on the last CPU that it may run on; interrupts tend to go to the first.
pub fn pinned<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None)?;
    pin(cpus()?.pop().context("no CPU to run on")?)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    result
}

/// Nanoseconds that one of `count` took this thread on the CPU. The clock stands still while another program runs.
pub fn on_cpu(count: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = cpu_time()?;
    work()?;
    Ok((cpu_time()? - start).as_nanos() as f64 / count as f64)
}

fn cpu_time() -> Result<Duration> {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))
        .context("the thread's clock is before its start")
}

/// What work with threads and programs of its own took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds on the wall.
    pub wall: f64,
    /// Seconds on a CPU, of this process and of the programs that it started and that ended.
    pub cpu: f64,
}

/// Does `work`, nothing else of this process being under way.
pub fn cost(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (start, before) = (Instant::now(), all_cpu_time()?);
    work()?;
    Ok(Cost {
        wall: start.elapsed().as_secs_f64(),
        cpu: all_cpu_time()? - before,
    })
}

fn all_cpu_time() -> Result<f64> {
    let seconds = |who| -> Result<f64> {
        let usage = getrusage(who).context("cannot ask for the time on the CPU")?;
        let times = [usage.user_time(), usage.system_time()];
        Ok(times
            .map(|time| time.num_microseconds() as f64 * 1e-6)
            .iter()
            .sum())
    };
    Ok(seconds(UsageWho::RUSAGE_SELF)? + seconds(UsageWho::RUSAGE_CHILDREN)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No time is asked for, only that it is noted at all.
    #[test]
    fn the_cost_of_a_program_counts() {
        let cost = cost(|| {
            let dd = ["if=/dev/zero", "of=/dev/null", "bs=1M", "count=500"];
            let status = std::process::Command::new("dd")
                .args(dd)
                .arg("status=none")
                .status()?;
            anyhow::ensure!(status.success(), "dd failed");
            Ok(())
        })
        .unwrap();
        assert!(cost.cpu > 0.0 && cost.wall > 0.0, "{cost:?}");
    }
}
