//! Operations on the machine that reach guests, by the tools that dom0 has for them; and what stock tools do every day.

use crate::case::{Problem, Verdict, demand};
use crate::dom0::{Dom0, LONG, SHORT};
use crate::guest::Spec;
use serde_json::Value;
use vmcrypt_guest::Role;

/// Changes a parameter of Xen's at run time, to what it is.
const SET_PARAMETER: &str = "xl set-parameters global-pages=no";
/// What an administrator does without reading or changing a guest.
const EVERY_DAY: &[&str] = &[
    "xl info -n",
    "xl list -v",
    "xl vcpu-list",
    "xl dmesg | tail",
    "xl debug-keys q",
    "xl debug-keys r",
    "xl cpupool-list",
    "xl sched-credit2 -d everyday -w 300",
    "xl vcpu-pin everyday 0 0",
    "xl pause everyday",
    "xl unpause everyday",
    "xl sysrq everyday s",
    "xl trigger everyday nmi || true",
    "xl mem-max everyday 300",
    "xl mem-set everyday 96",
    "xl dump-core everyday /root/core && rm /root/core",
];

/// Refused, told and counted; and nothing that stock tools need is.
pub fn doors(dom0: &mut Dom0) -> Verdict {
    let before = host(dom0)?;
    dom0.xen_log()?;
    // A key that sends a non-maskable interrupt, one that nobody registered, and a parameter.
    for command in ["xl debug-keys N", "xl debug-keys Z", SET_PARAMETER] {
        dom0.must_refuse(command, SHORT)?;
    }
    let log = dom0.xen_log()?;
    for told in ["debug key 78 denied", "debug key 90 denied", "hypfs op 2 denied"] {
        demand!(log.contains(told), "Xen's log does not say \"{told}\": {log}");
    }
    let after = host(dom0)?;
    let counted = denied(&after)? - denied(&before)?;
    demand!(
        counted == 3,
        "three operations were refused, {counted} were counted"
    );
    let last = after["last_denied"].as_str().unwrap_or_default();
    demand!(
        last == "hypfs op write_contents",
        "the latest is said to be {last}"
    );
    let weak = after["weaknesses"].to_string();
    demand!(
        weak.contains("no-iommu"),
        "this machine has no IOMMU, and Xen does not say so: {weak}"
    );

    let mut guest = dom0.create(Spec::new("everyday").roles(&[Role::Secret]))?;
    for command in EVERY_DAY {
        dom0.must(command, LONG)?;
    }
    dom0.await_alive(&mut guest)?;
    let end = host(dom0)?;
    demand!(
        denied(&end)? == denied(&after)?,
        "stock tools were denied something: {}",
        end["last_denied"]
    );
    Ok(format!(
        "3 operations refused, told and counted; {} of stock tools' went through; the machine lacks {weak}",
        EVERY_DAY.len()
    ))
}

/// Stock Xen lets dom0 do it.
pub fn canary(dom0: &mut Dom0) -> Verdict {
    dom0.must(SET_PARAMETER, SHORT)?;
    dom0.must("xl debug-keys Z", SHORT)?;
    Ok("stock Xen's parameters are changed at run time".to_owned())
}

fn host(dom0: &mut Dom0) -> Result<Value, Problem> {
    Ok(dom0.json("vmcrypt status --json")?["host"].take())
}

fn denied(host: &Value) -> Result<u64, Problem> {
    let count = host["denied"].as_u64();
    demand!(count.is_some(), "`vmcrypt status` counts nothing: {host}");
    Ok(count.unwrap_or_default())
}
