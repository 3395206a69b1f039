//! The table of hypercall operations against the source that is built: a Xen that has an operation which nobody
//! judged is not built.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use vmcrypt_core::doors::{FAMILIES, Family, HYPERCALLS, Rule, SHADOW_OPS};
use vmcrypt_host::paths;
use walkdir::WalkDir;

use super::{patches_dir, tree};

/// Fail on a source that has other operations than the table.
pub fn check(source: &Path) -> Result<()> {
    let found = findings(source)?;
    ensure!(
        found.is_empty(),
        "Xen's interfaces and vmcrypt-core/src/doors/rows.rs differ. Each operation needs a row that says what is done \
         about it:\n    {}",
        found.join("\n    ")
    );
    Ok(())
}

fn findings(source: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let operations = if family.header.is_empty() {
            keys(source)?
        } else {
            let header = source.join("xen/include/public").join(family.header);
            let text = fs::read_to_string(&header)
                .with_context(|| format!("cannot read {}", paths::short(&header)))?;
            operations(&text, family.prefix)
        };
        found.extend(compare(family, &operations));
    }
    found.extend(options(&fs::read_to_string(
        patches_dir().join("config/vmcrypt.config"),
    )?));
    found.extend(unasked(&hooks()?));
    Ok(found)
}

/// Everything that is done to Xen, in one text.
fn hooks() -> Result<String> {
    let mut text = String::new();
    for name in tree::series()? {
        text += &fs::read_to_string(patches_dir().join(name))?;
    }
    for path in tree::overlay_files()? {
        text += &fs::read_to_string(patches_dir().join("overlay").join(path))?;
    }
    Ok(text)
}

/// Families with denials that no hook asks about.
fn unasked(hooks: &str) -> Vec<String> {
    let hypercalls = FAMILIES.iter().find(|family| family.number == HYPERCALLS);
    let denies = |family: &&Family| {
        let denial = |rule: Rule| matches!(rule, Rule::UntilSealed | Rule::Never | Rule::Host | Rule::Nobody);
        family.doors.iter().any(|door| denial(door.rule))
    };
    let argument = |family: &Family| {
        let hypercall = hypercalls.and_then(|all| all.doors.iter().find(|door| door.number == family.number));
        match hypercall.map(|door| door.name) {
            None if family.number == SHADOW_OPS => "VMCRYPT_SHADOW_OPS,".to_owned(),
            None => "VMCRYPT_DEBUG_KEYS,".to_owned(),
            // Xen's own name for it.
            Some("arch_0") => "__HYPERVISOR_mca,".to_owned(),
            Some(name) => format!("__HYPERVISOR_{name},"),
        }
    };
    FAMILIES
        .iter()
        .filter(denies)
        .filter(|family| !hooks.contains(&argument(family)))
        .map(|family| {
            format!(
                "rows deny operations of {}, and no hook asks about them",
                family.name
            )
        })
        .collect()
}

/// What begins like an operation and is none: what an operation is given, or what one of its own can do.
#[rustfmt::skip] // a table
const NO_OPERATIONS: &[(&str, &[&str])] = &[
    ("XEN_DOMCTL_", &["vmtrace_enable", "vmtrace_disable", "vmtrace_reset_and_enable", "vmtrace_output_position", "vmtrace_get_option", "vmtrace_set_option"]),
    ("XEN_SYSCTL_", &["cpu_featureset_", "cpu_policy_", "pm_op_"]),
    ("XENMEM_", &["paging_op_", "access_op_", "sharing_op_", "resource_"]),
    ("GNTTABOP_", &["error_msgs"]),
    ("HVMOP_", &["altp2m_"]),
    ("XEN_DMOP_", &["no_gfns"]),
];
/// Families whose operations are written in capitals; elsewhere capitals mean a parameter.
const CAPITALS: &[&str] = &["MMU_", "MMUEXT_", "XEN_DOMCTL_SHADOW_OP_"];

/// Operations that a header defines, by their names; the number of one that cannot be read is the text that stands
/// there.
fn operations(header: &str, prefix: &str) -> BTreeMap<String, Result<u32, String>> {
    let no_operation = |name: &str| {
        let sub = NO_OPERATIONS.iter().filter(|(of, _)| *of == prefix);
        let small = name.starts_with(|first: char| first.is_ascii_lowercase());
        sub.flat_map(|(_, begin)| *begin)
            .any(|begin| name.starts_with(begin))
            || !small && !CAPITALS.contains(&prefix)
    };
    let mut operations = BTreeMap::new();
    for line in header.lines() {
        let Some((name, value)) = define(line, prefix) else {
            continue;
        };
        // Another name of an operation that has one.
        let alias = value.strip_prefix(prefix).is_some_and(|other| !other.is_empty());
        if name.is_empty() || no_operation(name) || alias {
            continue;
        }
        operations.insert(name.to_owned(), number(value).ok_or_else(|| value.to_owned()));
    }
    operations
}

/// Name behind the prefix and value of a `#define`.
fn define<'a>(line: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start();
    let rest = rest.strip_prefix("define")?.trim_start().strip_prefix(prefix)?;
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    let (name, value) = rest.split_at(end);
    let value = value.split("/*").next().unwrap_or_default().trim();
    Some((name, value))
}

fn number(value: &str) -> Option<u32> {
    let value = value.trim_start_matches('(').trim_end_matches(')').trim();
    let value = value.trim_end_matches(['u', 'U', 'l', 'L']);
    match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

/// What a header and the rows of a family do not agree on.
fn compare(family: &Family, operations: &BTreeMap<String, Result<u32, String>>) -> Vec<String> {
    let where_ = if family.header.is_empty() {
        "the source"
    } else {
        family.header
    };
    let mut found = Vec::new();
    for (name, number) in operations {
        let full = format!("{}{name}", family.prefix);
        let row = family.doors.iter().find(|door| door.name == name);
        match (row, number) {
            (_, Err(value)) => found.push(format!(
                "{where_} defines {full} as `{value}`, which is no number"
            )),
            (None, Ok(number)) => found.push(format!(
                "{where_} defines {full} ({number}), which has no row: it would be denied"
            )),
            (Some(door), Ok(number)) if door.number != *number => {
                found.push(format!("{full} is {number} in {where_} and {} here", door.number));
            }
            _ => {}
        }
    }
    let missing = family
        .doors
        .iter()
        .filter(|door| !operations.contains_key(door.name));
    found.extend(missing.map(|door| {
        format!(
            "{}{} ({}) has a row, and {where_} does not define it",
            family.prefix, door.name, door.number
        )
    }));
    found
}

/// Debug keys that the source registers. Files that are not compiled count, too.
fn keys(source: &Path) -> Result<BTreeMap<String, Result<u32, String>>> {
    let mut keys = BTreeMap::new();
    for part in ["common", "arch/x86", "drivers"] {
        for entry in WalkDir::new(source.join("xen").join(part)) {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "c") {
                let text = fs::read(entry.path())?;
                keys.extend(keys_of(&String::from_utf8_lossy(&text)));
            }
        }
    }
    Ok(keys)
}

fn keys_of(text: &str) -> Vec<(String, Result<u32, String>)> {
    let calls = ["register_keyhandler(", "register_irq_keyhandler(", "KEYHANDLER("];
    let calls = calls.iter().flat_map(|call| text.match_indices(call));
    let arguments = calls.map(|(at, call)| text[at + call.len()..].trim_start());
    let key = |argument: &str| {
        let mut letters = argument.strip_prefix('\'')?.chars();
        let (key, end) = (letters.next()?, letters.next()?);
        (end == '\'' && key.is_ascii()).then_some(key)
    };
    let named = |argument: &str| match key(argument) {
        Some(key) => Some((key.to_string(), Ok(u32::from(key)))),
        // The functions' and macros' own definitions.
        None if argument.starts_with("unsigned char key") || argument.starts_with("k,") => None,
        None => {
            let text = argument.split(',').next().unwrap_or_default();
            Some((text.to_owned(), Err(text.to_owned())))
        }
    };
    arguments.filter_map(named).collect()
}

/// Options that rows take to be off and that the shipped configuration does not switch off.
fn options(config: &str) -> Vec<String> {
    let doors = FAMILIES.iter().flat_map(|family| family.doors);
    let mut found: Vec<_> = doors
        .filter_map(|door| match door.rule {
            Rule::Absent(option) if !option.is_empty() => Some(option),
            _ => None,
        })
        .filter(|option| {
            let off = format!("# {option} is not set");
            !config.lines().any(|line| line == off)
        })
        .map(|option| format!("rows take {option} to be off, and config/vmcrypt.config does not say so"))
        .collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "/* #define XENPF_gone 16 */\n\
        #define XENPF_INTERFACE_VERSION 0x03000000\n\
        #define XENPF_settime32           17 /* why */\n\
        # define XENPF_get_symbol (0x3f)\n\
        #define XENPF_settime XENPF_settime32\n\
        #define XENPF_EFI_GET_TIME 1\n";

    fn family() -> Family {
        let mut family = *FAMILIES.iter().find(|family| family.prefix == "XENPF_").unwrap();
        let rows = family.doors.iter().filter(|door| [17, 63].contains(&door.number));
        family.doors = rows.copied().collect::<Vec<_>>().leak();
        family
    }

    fn judged(header: &str) -> Vec<String> {
        compare(&family(), &operations(header, "XENPF_"))
    }

    #[test]
    fn a_header_that_agrees_passes() {
        assert_eq!(judged(HEADER), Vec::<String>::new());
    }

    #[test]
    fn an_operation_more_is_found() {
        for line in [
            "#define XENPF_peek 67\n",
            "#define XENPF_peek \t (0x43U)\n",
            "#  define XENPF_peek 67",
        ] {
            let found = judged(&format!("{HEADER}{line}"));
            assert_eq!(
                found,
                ["platform.h defines XENPF_peek (67), which has no row: it would be denied"]
            );
        }
        let found = judged(&format!("{HEADER}#define XENPF_peek (XENPF_LAST + 1)\n"));
        assert_eq!(
            found,
            ["platform.h defines XENPF_peek as `(XENPF_LAST + 1)`, which is no number"]
        );
    }

    #[test]
    fn an_operation_that_is_missing_or_has_another_number_is_found() {
        let found = judged(&HEADER.replace("get_symbol", "get_place"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            found[1],
            "XENPF_get_symbol (63) has a row, and platform.h does not define it"
        );
        let found = judged(&HEADER.replace("  17", "  18"));
        assert_eq!(found, ["XENPF_settime32 is 18 in platform.h and 17 here"]);
    }

    #[test]
    fn a_family_that_is_not_asked_about_is_found() {
        let hooks = hooks().unwrap();
        assert!(unasked(&hooks).is_empty());
        let without = hooks.replace("__HYPERVISOR_hypfs_op", "");
        assert_eq!(
            unasked(&without),
            ["rows deny operations of hypfs op, and no hook asks about them"]
        );
    }

    #[test]
    fn keys_are_read_from_calls() {
        let text = "void __init register_keyhandler(unsigned char key, f)\n#define KEYHANDLER(k, f, desc, diag) \\\n\
                    register_keyhandler('T', trace,\n  \"x\", 0);\nIRQ_KEYHANDLER('*', all, \"\", 0),\nregister_irq_keyhandler(KEY, f)";
        let found: Vec<_> = keys_of(text)
            .into_iter()
            .map(|(name, number)| (name, number.ok()))
            .collect();
        assert_eq!(
            found,
            [
                ("T".to_owned(), Some(84)),
                ("KEY".to_owned(), None),
                ("*".to_owned(), Some(42))
            ]
        );
    }

    #[test]
    fn options_must_be_off() {
        let config = fs::read_to_string(patches_dir().join("config/vmcrypt.config")).unwrap();
        assert!(options(&config).is_empty());
        let found = options(&config.replace("# CONFIG_KEXEC is not set\n", ""));
        assert_eq!(
            found,
            ["rows take CONFIG_KEXEC to be off, and config/vmcrypt.config does not say so"]
        );
    }
}
