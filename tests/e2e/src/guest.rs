//! A guest as a case sees it: how to configure it, and what its console has said.

use std::collections::HashMap;
use vmcrypt_guest::Role;

/// What to create.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name; none may be the beginning of another's.
    pub name: String,
    /// Memory at start.
    pub memory_mib: u32,
    /// The most that it may have, if that is more.
    pub max_memory_mib: Option<u32>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// How many it may have at most.
    pub max_vcpus: u32,
    /// Its uuid, if it is not for xl to choose.
    pub uuid: Option<&'static str>,
    /// Added to its kernel's command line.
    pub arguments: &'static str,
    /// Lines added to its configuration.
    pub configuration: &'static str,
    /// What it does.
    pub roles: Vec<Role>,
    /// Whether GRUB starts its kernel, from a disk that comes with the testbed, and gives it the role `secret` alone.
    pub grub: bool,
}

impl Spec {
    /// A test guest: one vCPU, a secret, and as little memory as leaves room: under emulation it is memory that takes time.
    pub fn new(name: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            memory_mib: 128,
            max_memory_mib: None,
            vcpus: 1,
            max_vcpus: 1,
            uuid: None,
            arguments: "",
            configuration: "",
            roles: vec![Role::Secret],
            grub: false,
        }
    }

    /// The same with other roles.
    pub fn roles(self, roles: &[Role]) -> Spec {
        Spec {
            roles: roles.to_vec(),
            ..self
        }
    }

    /// The guest that the figures are told of: 256 MiB.
    pub fn main(name: &str) -> Spec {
        Spec::new(name).memory_mib(256)
    }

    /// The same with another size.
    pub fn memory_mib(self, memory_mib: u32) -> Spec {
        Spec { memory_mib, ..self }
    }

    /// The same with room for more memory than it has at start.
    pub fn max_memory_mib(self, max_memory_mib: u32) -> Spec {
        Spec {
            max_memory_mib: Some(max_memory_mib),
            ..self
        }
    }

    /// The same with more virtual CPUs.
    pub fn vcpus(self, vcpus: u32) -> Spec {
        Spec {
            vcpus,
            max_vcpus: vcpus,
            ..self
        }
    }

    /// The same with virtual CPUs that are not there from the beginning.
    pub fn max_vcpus(self, max_vcpus: u32) -> Spec {
        Spec { max_vcpus, ..self }
    }

    /// The same with this uuid.
    pub fn uuid(self, uuid: &'static str) -> Spec {
        Spec {
            uuid: Some(uuid),
            ..self
        }
    }

    /// The same with more on its kernel's command line.
    pub fn arguments(self, arguments: &'static str) -> Spec {
        Spec { arguments, ..self }
    }

    /// The same with more in its configuration.
    pub fn configuration(self, configuration: &'static str) -> Spec {
        Spec {
            configuration,
            ..self
        }
    }

    /// The same, started by GRUB.
    pub fn grub(self) -> Spec {
        Spec { grub: true, ..self }
    }

    /// The configuration file for `xl create`.
    pub fn xl_config(&self) -> String {
        let Spec {
            name,
            memory_mib,
            vcpus,
            max_vcpus,
            arguments,
            configuration,
            ..
        } = self;
        let max_memory_mib = self.max_memory_mib.unwrap_or(*memory_mib);
        let roles: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        let kernel = match self.grub {
            true => "kernel = \"/share/grub-xen\"\n".to_owned(),
            false => format!(
                "kernel = \"/boot/vmlinux\"\nramdisk = \"/share/guest.cpio\"\n\
                 extra = \"console=hvc0 loglevel=4 vmcrypt.roles={} vmcrypt.address=10.77.0.2/24 \
                 vmcrypt.server=10.77.0.1:7777 {arguments}\"\n",
                roles.join(",")
            ),
        };
        let mut config = format!(
            "name = \"{name}\"\ntype = \"pv\"\n{kernel}\
             memory = {memory_mib}\nmaxmem = {max_memory_mib}\nvcpus = {vcpus}\nmaxvcpus = {max_vcpus}\n\
             on_crash = \"preserve\"\non_reboot = \"destroy\"\non_poweroff = \"destroy\"\n{configuration}"
        );
        if let Some(uuid) = self.uuid {
            config += &format!("uuid = \"{uuid}\"\n");
        }
        if self.roles.contains(&Role::Disk) || self.grub {
            config += &format!("disk = [ \"format=raw,vdev=xvda,access=rw,target=/root/{name}.disk\" ]\n");
        }
        if self.roles.contains(&Role::Net) {
            config += "vif = [ \"mac=00:16:3e:00:00:02,bridge=xenbr0\" ]\n";
        }
        config
    }
}

/// A created guest and what is known of it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// How it was made.
    pub spec: Spec,
    /// How much of each console log was read.
    pub(crate) read: HashMap<String, u64>,
    /// Beginning of a line whose end is still to come, for each log.
    pub(crate) unfinished: HashMap<String, String>,
    /// Last round that each role reported.
    pub(crate) rounds: HashMap<Role, u64>,
    /// Answers on the console so far.
    pub(crate) answers: Vec<String>,
    /// Whether it has come over a wire.
    pub(crate) migrated: bool,
    /// How often it came up; more than once means that it was booted again.
    pub(crate) boots: u32,
}

impl Guest {
    pub(crate) fn new(spec: Spec) -> Guest {
        Guest {
            spec,
            read: HashMap::new(),
            unfinished: HashMap::new(),
            rounds: HashMap::new(),
            answers: Vec::new(),
            migrated: false,
            boots: 0,
        }
    }

    /// Its console is another file from now on: dom0 booted again.
    pub(crate) fn new_console(&mut self) {
        self.read.clear();
        self.unfinished.clear();
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The last round that a role reported, 0 if none.
    pub fn round(&self, role: Role) -> u64 {
        self.rounds.get(&role).copied().unwrap_or(0)
    }

    /// Where dom0 saves it.
    pub fn image(&self) -> String {
        format!("/root/{}.img", self.spec.name)
    }
}
