//! What of an `xl` configuration file decides what a guest's memory holds at its start.
//!
//! Grammar: `tools/libs/util/libxlu_cfg_l.l` and `libxlu_cfg_y.y`; meaning: `tools/xl/xl_parse.c`.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Error;

/// The part of a configuration that a launch measurement depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `kernel`.
    pub kernel: Option<PathBuf>,
    /// `ramdisk`.
    pub ramdisk: Option<PathBuf>,
    /// `cmdline`, or `root` and `extra`.
    pub cmdline: Vec<u8>,
    /// `memory`.
    pub memory_mib: u64,
    /// `maxmem`, or `memory`.
    pub max_memory_mib: u64,
    /// `maxvcpus`, or `vcpus`.
    pub max_vcpus: u64,
}

impl Config {
    /// Reads a configuration file.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let settings = Parser::new(text).settings()?;
        for (name, setting) in &settings {
            judge(name, setting)?;
        }
        let text = |name: &str| -> Result<Option<Vec<u8>>, Error> {
            match settings.get(name).map(|setting| &setting.value) {
                None => Ok(None),
                Some(Value::Atom(text)) => Ok(Some(text.clone())),
                Some(Value::List(_)) => {
                    wrong(&settings[name], format!("{name} is a list, not a single value"))
                }
            }
        };
        let number = |name: &str| -> Result<Option<u64>, Error> {
            let Some(digits) = text(name)? else {
                return Ok(None);
            };
            match c_number(&digits) {
                Some(number) => Ok(Some(number)),
                None => wrong(&settings[name], format!("{name} is not a number")),
            }
        };
        let path = |name: &str| -> Result<Option<PathBuf>, Error> {
            use std::os::unix::ffi::OsStringExt;
            Ok(text(name)?.map(|bytes| std::ffi::OsString::from_vec(bytes).into()))
        };

        let memory_mib = number("memory")?.ok_or_else(|| Error::Config("memory is missing".into()))?;
        let max_memory_mib = number("maxmem")?.unwrap_or(memory_mib);
        let vcpus = number("vcpus")?.unwrap_or(1);
        let max_vcpus = number("maxvcpus")?.unwrap_or(vcpus);
        for (bad, what) in [
            (
                memory_mib == 0 || memory_mib > 1 << 24,
                "memory is no sensible size",
            ),
            (max_memory_mib < memory_mib, "maxmem is less than memory"),
            (max_memory_mib > 1 << 24, "maxmem is no sensible size"),
            (
                vcpus == 0 || max_vcpus < vcpus,
                "maxvcpus is less than vcpus, or there are none",
            ),
            (max_vcpus > 8192, "maxvcpus is more than Xen can do"),
        ] {
            if bad {
                return Err(Error::Config(what.into()));
            }
        }
        Ok(Self {
            kernel: path("kernel")?,
            ramdisk: path("ramdisk")?,
            cmdline: cmdline(text("cmdline")?, text("root")?, text("extra")?),
            memory_mib,
            max_memory_mib,
            max_vcpus,
        })
    }
}

/// As `parse_cmdline()` puts it together.
fn cmdline(cmdline: Option<Vec<u8>>, root: Option<Vec<u8>>, extra: Option<Vec<u8>>) -> Vec<u8> {
    match (cmdline, root, extra) {
        (Some(cmdline), ..) => cmdline,
        (None, Some(root), Some(extra)) => [b"root=", &*root, b" ", &*extra].concat(),
        (None, Some(root), None) => [b"root=", &*root].concat(),
        (None, None, extra) => extra.unwrap_or_default(),
    }
}

/// Settings that this module reads.
const READ: &[&str] = &[
    "kernel", "ramdisk", "cmdline", "root", "extra", "memory", "maxmem", "vcpus", "maxvcpus", "type",
    "builder",
];

/// Settings that leave the memory and registers of a PV guest alone as the domain builder makes them (`xl.cfg(5)`).
const HARMLESS: &[&str] = &[
    "acpi",
    "altp2m",
    "apic",
    "boot",
    "cap",
    "channel",
    "cpu_weight",
    "cpuid",
    "cpus",
    "cpus_soft",
    "device_model_args",
    "device_model_override",
    "device_model_user",
    "device_model_version",
    "disk",
    "dm_restrict",
    "driver_domain",
    "extratime",
    "gfx_passthru",
    "hap",
    "init_seclabel",
    "ioports",
    "irqs",
    "keymap",
    "latency",
    "localtime",
    "max_event_channels",
    "max_grant_frames",
    "max_grant_version",
    "max_maptrack_frames",
    "name",
    "nomigrate",
    "on_crash",
    "on_poweroff",
    "on_reboot",
    "on_soft_reset",
    "on_watchdog",
    "oos",
    "p9",
    "pae",
    "passthrough",
    "period",
    "pool",
    "pvcalls",
    "rtc_timeoffset",
    "seclabel",
    "shadow_memory",
    "slice",
    "timer_mode",
    "tsc_mode",
    "usbctrl",
    "usbdev",
    "uuid",
    "vdispl",
    "vfb",
    "vif",
    "vif2",
    "virtio",
    "vkb",
    "vmtrace_buf_kb",
    "vnc",
    "vncdisplay",
    "vnclisten",
    "vncpasswd",
    "vncunused",
    "vpmu",
    "vsnd",
    "vtpm",
    "xend_suspend_evtchn_compat",
];

/// Whether a setting can be followed.
fn judge(name: &str, setting: &Setting) -> Result<(), Error> {
    let is = |wanted: &[u8]| matches!(&setting.value, Value::Atom(text) if text == wanted);
    let off = is(b"0") || is(b"");
    match name {
        "type" if !is(b"pv") => wrong(setting, "type is not pv: VMCrypt protects PV guests alone".into()),
        "builder" if !is(b"generic") => wrong(setting, "builder is not generic: VMCrypt protects PV guests alone".into()),
        "bootloader" if !off => wrong(
            setting,
            "bootloader picks kernel and command line when the guest is created; name kernel, ramdisk and cmdline instead"
                .into(),
        ),
        // A device that is passed through makes xl give the guest the host's memory map.
        "e820_host" | "pci" if off || setting.value == Value::List(0) => Ok(()),
        "e820_host" | "pci" => wrong(setting, format!("{name} gives the guest the memory map of its host")),
        "vnuma" => wrong(setting, "vnuma spreads the guest's memory in a way that this tool does not know".into()),
        _ if READ.contains(&name) || HARMLESS.contains(&name) => {
            if setting.added && READ.contains(&name) {
                return wrong(setting, format!("{name} += is not supported; write {name} = once"));
            }
            Ok(())
        }
        "bootloader" => Ok(()),
        _ => wrong(
            setting,
            format!("{name}: this tool does not know whether it changes what the guest starts with"),
        ),
    }
}

fn wrong<T>(setting: &Setting, what: String) -> Result<T, Error> {
    Err(Error::Config(format!("line {}: {what}", setting.line)))
}

/// As `strtol` with base 0 reads it, all of it.
fn c_number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.starts_with('+') {
        return None;
    }
    match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Atom(Vec<u8>),
    /// Of so many elements, which do not matter.
    List(usize),
}

struct Setting {
    value: Value,
    added: bool,
    line: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Atom(Vec<u8>),
    Sign(u8),
    Add,
    End,
}

struct Parser<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Parser<'a> {
    const fn new(text: &'a [u8]) -> Self {
        Self { rest: text, line: 1 }
    }

    /// Of several settings of one name the last one holds.
    fn settings(mut self) -> Result<HashMap<String, Setting>, Error> {
        let mut all = HashMap::new();
        while let Some(token) = self.token()? {
            let name = match token {
                Token::Name(name) => name,
                Token::End | Token::Sign(b';') => continue,
                _ => return self.fail("a setting begins with its name"),
            };
            let line = self.line;
            let added = match self.token()? {
                Some(Token::Sign(b'=')) => false,
                Some(Token::Add) => true,
                _ => return self.fail(&format!("{name} is not followed by =")),
            };
            let value = match self.token()? {
                Some(Token::Atom(text)) => Value::Atom(text),
                Some(Token::Sign(b'[')) => Value::List(self.list()?),
                _ => return self.fail(&format!("{name} has no value")),
            };
            match self.token()? {
                None | Some(Token::End | Token::Sign(b';')) => {}
                _ => return self.fail(&format!("there is more after the value of {name}")),
            }
            all.insert(name, Setting { value, added, line });
        }
        Ok(all)
    }

    /// The rest of a list, lists in it included.
    fn list(&mut self) -> Result<usize, Error> {
        let mut elements = 0;
        // Counted, not called: a file may nest them deeper than the stack is.
        let mut inner = 0usize;
        loop {
            match self.token()? {
                Some(Token::Sign(b']')) if inner == 0 => return Ok(elements),
                Some(Token::Sign(b']')) => inner -= 1,
                Some(Token::Sign(b'[')) => {
                    elements += usize::from(inner == 0);
                    inner += 1;
                }
                Some(Token::Atom(_)) => elements += usize::from(inner == 0),
                Some(Token::Sign(b',') | Token::End) => {}
                _ => return self.fail("a list is not closed"),
            }
        }
    }

    fn token(&mut self) -> Result<Option<Token>, Error> {
        while let [b' ' | b'\t' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
        let Some(&first) = self.rest.first() else {
            return Ok(None);
        };
        let take = |parser: &mut Self, length: usize| {
            let (token, rest) = parser.rest.split_at(length);
            parser.rest = rest;
            token
        };
        let run = |more: fn(u8) -> bool| self.rest.iter().take_while(|byte| more(**byte)).count();
        Ok(Some(match first {
            b'#' | b'\n' => {
                let comment = run(|byte| byte != b'\n');
                take(self, comment);
                if !self.rest.is_empty() {
                    take(self, 1);
                    self.line += 1;
                }
                Token::End
            }
            b'a'..=b'z' => {
                let length = run(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'));
                Token::Name(String::from_utf8_lossy(take(self, length)).into_owned())
            }
            b'0'..=b'9' => {
                let length = run(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'x'));
                Token::Atom(take(self, length).to_vec())
            }
            b'"' | b'\'' => Token::Atom(self.string(first)?),
            b',' | b'[' | b']' | b'=' | b';' => {
                take(self, 1);
                Token::Sign(first)
            }
            b'+' if self.rest.starts_with(b"+=") => {
                take(self, 2);
                Token::Add
            }
            _ => return self.fail(&format!("{:?} means nothing here", char::from(first))),
        }))
    }

    fn string(&mut self, quote: u8) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        let mut bytes = self.rest[1..].iter().enumerate();
        while let Some((at, &byte)) = bytes.next() {
            match byte {
                b'\n' => break,
                b'\\' => match bytes.next().map(|(_, escaped)| *escaped) {
                    Some(escaped @ (b'"' | b'\'' | b'\\')) => text.push(escaped),
                    Some(b'n') => text.push(b'\n'),
                    Some(b't') => text.push(b'\t'),
                    _ => return self.fail("this escape in a quoted text is not supported"),
                },
                _ if byte == quote => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(text);
                }
                _ => text.push(byte),
            }
        }
        self.fail("a quoted text is not closed")
    }

    fn fail<T>(&self, what: &str) -> Result<T, Error> {
        Err(Error::Config(format!("line {}: {what}", self.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_usual_configuration() {
        let config = parse(
            "# a guest\nname = \"g\" ; type='pv'\nkernel=\"/boot/vmlinuz\"\nmemory = 0x100\nmaxmem=\"512\"\n\
             disk = [ 'format=raw,vdev=xvda',\n  'b' ]\nvcpus=2\nextra = \"quiet \\\"a\\\"\"\nroot='/dev/xvda'",
        )
        .expect("readable");
        assert_eq!(config.kernel, Some("/boot/vmlinuz".into()));
        assert_eq!(
            (config.memory_mib, config.max_memory_mib, config.max_vcpus),
            (256, 512, 2)
        );
        assert_eq!(config.cmdline, b"root=/dev/xvda quiet \"a\"");
        assert_eq!(config.ramdisk, None);
    }

    #[test]
    fn the_last_setting_holds_and_cmdline_wins() {
        let config = parse("memory=128\nmemory=64\nextra='b'\ncmdline='a'").expect("readable");
        assert_eq!((config.memory_mib, config.cmdline), (64, b"a".to_vec()));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (text, words) in [
            ("memory=128\ntype='pvh'", "line 2: type is not pv"),
            ("memory=128\nbootloader='pygrub'", "bootloader picks"),
            ("memory=128\ne820_host=1", "e820_host gives"),
            ("memory=128\npci=['00:02.0']", "pci gives"),
            ("memory=128\nvnuma=[]", "vnuma"),
            (
                "memory=128\nsomething_new=1",
                "something_new: this tool does not know",
            ),
            ("memory=128\nextra+='x'", "extra += is not supported"),
            ("name='x'", "memory is missing"),
            ("memory=12z8", "more after the value of memory"),
            ("memory=[1]", "memory is a list"),
            ("memory=128\nmaxmem=64", "maxmem is less"),
            ("memory=128\nname='x", "quoted text is not closed"),
            ("memory=128\ndisk=['x'", "list is not closed"),
            ("memory=128\nname='\\x41'", "escape"),
            ("Memory=128", "'M' means nothing here"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(parse("memory=128\npci=[]\ne820_host=0").is_ok());
        assert!(parse("memory=128\npci=[[]]").is_err());
        assert!(parse("memory=128\ndisk=[['a', ['b']], 'c']\nname='x'").is_ok());
    }

    #[test]
    fn lists_nest_as_deep_as_they_like() {
        let (open, close) = ("[".repeat(1 << 20), "]".repeat(1 << 20));
        assert!(parse(&format!("memory=128\ndisk={open}{close}")).is_ok());
        assert!(parse(&format!("memory=128\ndisk={open}")).is_err());
    }
}
