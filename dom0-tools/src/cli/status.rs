//! `vmcrypt status`

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use vmcrypt_core::abi::{self, DomainInfo, HostInfo, MODE_STRICT};
use vmcrypt_core::doors::FAMILIES;
use vmcrypt_core::weakness::Weakness;
use vmcrypt_core::{PlainClass, Refusal, State};
use vmcrypt_tools::hypercall::Privcmd;
use vmcrypt_tools::xen::{self, Domain};

use super::args::{exit, print_json};
use super::sweep::find;

/// Show what VMCrypt does on this host and for each domain
#[derive(Args)]
pub struct Status {
    /// Show this domain alone
    domid: Option<u16>,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(self) -> Result<ExitCode> {
        let xen = Privcmd::open()?;
        let domains = match self.domid {
            Some(id) => vec![find(&xen, id)?],
            None => xen::domains(&xen)?,
        };
        let Some(host) = xen::host_info(&xen)? else {
            bail!(
                "this Xen has no VMCrypt: dom0 can read every guest; boot the hypervisor that was built with it"
            );
        };
        if host.version != abi::INTERFACE_VERSION {
            bail!(
                "the running Xen speaks version {} of VMCrypt's interface, this tool version {}; install the tool that was built with it",
                host.version,
                abi::INTERFACE_VERSION
            );
        }
        let guests = domains
            .into_iter()
            .filter(|domain| domain.id.0 != 0 || self.domid == Some(0))
            .map(|domain| Ok((xen::domain_info(&xen, domain.id)?, domain)))
            .collect::<Result<Vec<_>>>()?;

        if self.json {
            let guests: Vec<Value> = guests
                .iter()
                .map(|(info, domain)| domain_json(info, domain))
                .collect();
            print_json(&json!({ "host": host_json(&host), "domains": guests }))?;
        } else {
            print_host(&host);
            for (info, domain) in &guests {
                print_domain(info, domain);
            }
        }
        exit(0)
    }
}

fn host_json(host: &HostInfo) -> Value {
    json!({
        "interface": host.version,
        "mode": mode(host),
        "backend": backend(host),
        "protected_domains": host.domains,
        "key_id": hex::encode(host.key_id),
        "public_key": hex::encode(host.public_key),
        "pool": {
            "frames": host.pool_frames,
            "free": host.pool_free,
            "low": host.pool_low,
            "exhausted": host.pool_exhausted,
        },
        "denied": host.denied,
        "last_denied": last_denied(host),
        "weaknesses": weaknesses(host).map(Weakness::name).collect::<Vec<_>>(),
    })
}

fn domain_json(info: &DomainInfo, domain: &Domain) -> Value {
    let plain: serde_json::Map<String, Value> = PlainClass::ALL
        .iter()
        .map(|&class| (class.name().into(), info.plain[class as usize].into()))
        .collect();
    let refusals: serde_json::Map<String, Value> = refusals(info)
        .map(|(refusal, count)| (refusal.name().into(), count.into()))
        .collect();
    let last = last_refusal(info);
    json!({
        "domid": domain.id,
        "uuid": domain.uuid,
        "type": if domain.hvm { "hvm" } else { "pv" },
        "run_state": domain.state,
        "state": state(info),
        "pages": info.pages,
        "plain": plain,
        "measurement": measurement(info),
        "session": session(info),
        "owner_key_id": owner(info),
        "exported": info.exported,
        "replicas": info.replicas,
        "refusals": refusals,
        "last_refusal": last.map(Refusal::name),
        "last_refusal_text": last.map(Refusal::text),
    })
}

fn print_host(host: &HostInfo) {
    say!("VMCrypt     {}", mode(host));
    say!("cipher      HCTR2-AES-256, {}", backend(host));
    say!("host key    {}", hex::encode(host.key_id));
    say!("public key  {}", hex::encode(host.public_key));
    say!(
        "replicas    {} of {} frames free, {} at the lowest; maps refused for want of one: {}",
        host.pool_free,
        host.pool_frames,
        host.pool_low,
        host.pool_exhausted
    );
    say!("protected   {} domains", host.domains);
    match last_denied(host) {
        Some(last) => say!(
            "denied      {} operations on the machine, the latest {last}",
            host.denied
        ),
        None => say!("denied      no operation on the machine"),
    }
    for weakness in weaknesses(host) {
        say!("WARNING     {}", weakness.text());
    }
}

fn print_domain(info: &DomainInfo, domain: &Domain) {
    say!("");
    say!("domain {} ({}), {}", domain.id, domain.uuid, domain.state);
    say!("  state     {}", state(info));
    if info.state == 0 {
        say!("            dom0 can read it all");
        return;
    }
    let plain: u64 = info.plain.iter().sum();
    let share = 100.0 * plain as f64 / info.pages.max(1) as f64;
    say!(
        "  pages     {}, of which {plain} in clear ({share:.2} %)",
        info.pages
    );
    for class in PlainClass::ALL {
        if info.plain[class as usize] > 0 {
            say!("            {:>8}  {}", info.plain[class as usize], class.name());
        }
    }
    if let Some(value) = measurement(info) {
        say!("  launch    {value}");
    }
    match session(info) {
        Some(id) => say!("  session   {id}: {} pages exported", info.exported),
        None => say!("  session   none open"),
    }
    match owner(info) {
        Some(id) => say!("  key       the owner's, {id}"),
        None => say!("  key       follows from the host key: images are good until this host reboots"),
    }
    say!("  replicas  {} mapped by dom0 now", info.replicas);
    for (refusal, count) in refusals(info) {
        say!("  refused   {count:>8}  {}", refusal.name());
    }
    if let Some(refusal) = last_refusal(info) {
        say!("  latest    {}", refusal.text());
    }
}

fn mode(host: &HostInfo) -> &'static str {
    match host.mode {
        0 => "off",
        1 => "every PV guest is protected",
        MODE_STRICT => "every guest is protected, and only such are created",
        _ => "in a mode that this tool does not know",
    }
}

/// The latest denied operation on the machine, by its name in Xen's headers.
fn last_denied(host: &HostInfo) -> Option<String> {
    if host.denied == 0 {
        return None;
    }
    let family = FAMILIES.iter().find(|family| family.number == host.last_family);
    let door = family.and_then(|family| {
        family
            .doors
            .iter()
            .find(|door| door.number == host.last_operation)
    });
    Some(match (family, door) {
        (Some(family), Some(door)) => format!("{} {}", family.name, door.name),
        (Some(family), None) => format!("{} {}", family.name, host.last_operation),
        (None, _) => format!("hypercall {}, {}", host.last_family, host.last_operation),
    })
}

/// What the machine lacks.
fn weaknesses(host: &HostInfo) -> impl Iterator<Item = Weakness> {
    let bits = host.weaknesses;
    Weakness::ALL
        .into_iter()
        .filter(move |weakness| bits >> *weakness as u32 & 1 == 1)
}

fn backend(host: &HostInfo) -> &'static str {
    match host.backend {
        0 => "portable",
        1 => "AES-NI",
        2 => "VAES on 256 bits, PCLMULQDQ on 128",
        3 => "VAES and VPCLMULQDQ on 256 bits",
        4 => "VAES and VPCLMULQDQ on 512 bits",
        _ => "unknown",
    }
}

fn state(info: &DomainInfo) -> &'static str {
    const STATES: [(State, &str); 6] = [
        (State::Building, "building"),
        (State::Sealing, "sealing"),
        (State::Running, "running"),
        (State::Suspended, "suspended"),
        (State::Dying, "dying"),
        (State::Refused, "refused"),
    ];
    if info.state == 0 {
        return "unprotected";
    }
    STATES
        .iter()
        .find(|(state, _)| *state as u32 == info.state)
        .map_or("unknown", |(_, name)| name)
}

fn session(info: &DomainInfo) -> Option<String> {
    (info.session != [0; 16]).then(|| hex::encode(info.session))
}

fn measurement(info: &DomainInfo) -> Option<String> {
    (info.measurement != [0; 32]).then(|| hex::encode(info.measurement))
}

fn owner(info: &DomainInfo) -> Option<String> {
    (info.owner != [0; 16]).then(|| hex::encode(info.owner))
}

fn refusals(info: &DomainInfo) -> impl Iterator<Item = (Refusal, u64)> + '_ {
    Refusal::all()
        .map(|refusal| (refusal, info.refusals[refusal as usize]))
        .filter(|&(_, count)| count > 0)
}

fn last_refusal(info: &DomainInfo) -> Option<Refusal> {
    info.last_refusal.checked_sub(1).and_then(Refusal::from_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_denied_and_what_lacks_is_named() {
        let mut host = HostInfo::default();
        assert_eq!(last_denied(&host), None);
        assert_eq!(weaknesses(&host).count(), 0);
        (host.denied, host.last_family, host.last_operation) = (1, 35, 2);
        assert_eq!(last_denied(&host).unwrap(), "sysctl tbuf_op");
        host.last_operation = 999;
        assert_eq!(last_denied(&host).unwrap(), "sysctl 999");
        host.last_family = 5;
        assert_eq!(last_denied(&host).unwrap(), "hypercall 5, 999");
        host.weaknesses = 0b1001;
        assert_eq!(
            weaknesses(&host).collect::<Vec<_>>(),
            [Weakness::NoIommu, Weakness::L1tf]
        );
    }

    #[test]
    fn numbers_from_the_hypervisor_become_names() {
        let mut info = DomainInfo {
            state: 3,
            last_refusal: 1 + Refusal::RecordKey as u32,
            ..DomainInfo::default()
        };
        info.refusals[Refusal::RecordKey as usize] = 2;
        assert_eq!(state(&info), "running");
        assert_eq!(last_refusal(&info), Some(Refusal::RecordKey));
        assert_eq!(refusals(&info).collect::<Vec<_>>(), [(Refusal::RecordKey, 2)]);
        assert_eq!(
            last_refusal(&DomainInfo {
                last_refusal: 999,
                ..DomainInfo::default()
            }),
            None
        );
        assert_eq!(
            state(&DomainInfo {
                state: 77,
                ..DomainInfo::default()
            }),
            "unknown"
        );
    }
}
