//! Limits as properties of a unit (systemd.resource-control(5)). systemd writes the files of those again when it likes,
//! so they must know of each limit that they have a property for; what they have none for is in the files alone.

use oci_spec::runtime::LinuxDeviceCgroup;

use super::super::Version;
use super::super::apply::Placed;
use super::super::devices::{Access, DevicePolicy, Rule};
use super::super::files::read_file;
use super::wire::Value;
use crate::error::Error;

/// A property, and the version of systemd that brought it.
#[derive(Debug, PartialEq)]
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) value: Value,
    pub(super) since: u32,
}

fn property(name: &'static str, value: Value) -> Property {
    Property { name, value, since: 0 }
}

/// The properties for these settings. A quota is rounded up to what systemd keeps of it, in `settings` too.
pub(super) fn limits(settings: &mut [Placed<'_>]) -> Vec<Property> {
    let mut properties = Vec::new();
    let idle =
        settings.iter().find(|(_, setting)| setting.file == "cpu.idle").map(|(_, setting)| setting.value.clone());
    let period = settings.iter().find(|(_, setting)| setting.file == "cpu.cfs_period_us");
    let period = period.map(|(_, setting)| setting.value.clone());
    for (group, setting) in settings {
        match (group.version, setting.file.as_str()) {
            (Version::V2, "cpu.max") => {
                if let Some(rounded) = quota_and_period(&setting.value, &mut properties) {
                    setting.value = rounded;
                }
            }
            (Version::V1, "cpu.cfs_quota_us") => {
                let present = || read_file(&group.folder.join("cpu.cfs_period_us")).ok();
                let Some(period) = period.clone().or_else(present) else { continue };
                let both = format!("{} {}", setting.value, period.trim());
                if let Some(rounded) = quota_and_period(&both, &mut properties) {
                    rounded.split(' ').next().unwrap_or_default().clone_into(&mut setting.value);
                }
            }
            (Version::V2, "cpu.idle") => {
                // A weight of 0 is idle. Not idle any more is the usual weight, if no other is given.
                let weight = if setting.value == "1" { 0 } else { u64::MAX };
                properties.insert(0, Property { since: 252, ..property("CPUWeight", Value::U64(weight)) });
            }
            (Version::V2, "cpu.weight") if idle.as_deref() == Some("1") => (),
            (_, file) => properties.extend(plain(file, &setting.value)),
        }
    }
    properties
}

/// Settings that are one property each.
fn plain(file: &str, value: &str) -> Option<Property> {
    let (name, since) = match file {
        "memory.max" => ("MemoryMax", 0),
        "memory.high" => ("MemoryHigh", 0),
        "memory.low" => ("MemoryLow", 0),
        "memory.min" => ("MemoryMin", 240),
        "memory.swap.max" => ("MemorySwapMax", 0),
        "memory.zswap.max" => ("MemoryZSwapMax", 253),
        "memory.limit_in_bytes" => ("MemoryLimit", 0),
        "cpu.weight" => ("CPUWeight", 0),
        "cpu.shares" => ("CPUShares", 0),
        "io.weight" => ("IOWeight", 0),
        "blkio.weight" => ("BlockIOWeight", 0),
        "pids.max" => ("TasksMax", 0),
        "cpuset.cpus" => ("AllowedCPUs", 244),
        "cpuset.mems" => ("AllowedMemoryNodes", 244),
        _ => return None,
    };
    let value = match file {
        "cpuset.cpus" | "cpuset.mems" => Value::bytes(&mask(value)?),
        // What is no number is for one device, or the kernel will refuse it.
        _ => match value.strip_prefix("default ").unwrap_or(value) {
            "max" | "-1" => Value::U64(u64::MAX),
            // systemd knows no unit without a process.
            "0" if file == "pids.max" => Value::U64(1),
            number => Value::U64(number.parse().ok()?),
        },
    };
    Some(Property { name, value, since })
}

/// Processor time in a second, and the period: the value of `cpu.max` with both. What is kept by systemd in its files
/// is whole percents: a quota between is rounded up, so that it is not another one after systemd was reloaded.
fn quota_and_period(value: &str, properties: &mut Vec<Property>) -> Option<String> {
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    properties.push(Property { since: 242, ..property("CPUQuotaPeriodUSec", Value::U64(period)) });
    let mut push = |time| properties.push(property("CPUQuotaPerSecUSec", Value::U64(time)));
    if ["max", "-1"].contains(&quota) {
        push(u64::MAX);
        return None;
    }
    let percent = u64::try_from((u128::from(quota.parse::<u64>().ok()?) * 100).div_ceil(period.into())).ok()?;
    push(percent.checked_mul(10_000)?);
    let rounded = u64::try_from(u128::from(percent) * u128::from(period) / 100).ok()?;
    Some(format!("{rounded} {period}"))
}

/// A list of processors or memory nodes, as in `0-2,7`, as bits.
fn mask(list: &str) -> Option<Vec<u8>> {
    // As many as systemd and the kernel know of.
    const MOST: usize = 8192;
    let mut bits = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        bits.resize(bits.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|bit| bits[bit / 8] |= 1 << (bit % 8));
    }
    (!bits.is_empty()).then_some(bits)
}

/// The device list. systemd knows lists of what is allowed only: what such a list cannot say it is not told, and our
/// own program or file is then the only one that decides.
pub(super) fn devices(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Property>, Error> {
    let policy = DevicePolicy::new(rules)?;
    let allowed: Option<Vec<Vec<Value>>> =
        if policy.default_allow { None } else { policy.rules.iter().map(device).collect() };
    let list = |entries| property("DeviceAllow", Value::Array("(ss)".to_owned(), entries));
    let strictness = |policy: &str| property("DevicePolicy", Value::str(policy));
    // The empty list takes away what was allowed before.
    Ok(match allowed {
        Some(allowed) => vec![list(Vec::new()), strictness("strict"), list(allowed.concat())],
        None => vec![list(Vec::new()), strictness("auto")],
    })
}

/// The entries for a rule: for each kind of device a path or a group, and what is allowed.
fn device(rule: &Rule) -> Option<Vec<Value>> {
    let access: String = [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')]
        .into_iter()
        .filter_map(|(bit, letter)| (!rule.access.common(bit).is_none()).then_some(letter))
        .collect();
    if !rule.allow {
        return None;
    }
    let entry = |kind: &char| {
        let kind = if *kind == 'b' { "block" } else { "char" };
        let path = match (rule.major, rule.minor) {
            (None, None) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            (None, Some(_)) => return None,
        };
        Some(Value::Struct(vec![Value::Str(path), Value::Str(access.clone())]))
    };
    rule.kinds().iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::limits::Setting;
    use super::super::super::{Group, Version};
    use super::*;

    fn told(version: Version, files: &[(&str, &str)]) -> (Vec<(&'static str, Value)>, Vec<String>) {
        let nowhere = std::path::PathBuf::from("/nowhere");
        let group =
            Group { version, controllers: Vec::new(), mount: nowhere.clone(), folder: nowhere.clone(), top: nowhere };
        let setting = |(file, value): &(&str, &str)| Setting {
            controller: "",
            field: String::new(),
            file: (*file).to_owned(),
            value: (*value).to_owned(),
            optional: false,
        };
        let mut settings: Vec<_> = files.iter().map(|file| (&group, setting(file))).collect();
        let properties = limits(&mut settings).into_iter().map(|property| (property.name, property.value)).collect();
        (properties, settings.into_iter().map(|(_, setting)| setting.value).collect())
    }

    #[test]
    fn of_version_2() {
        let one = |file: &str, value: &str| told(Version::V2, &[(file, value)]).0;
        assert_eq!(one("memory.max", "1000"), [("MemoryMax", Value::U64(1000))]);
        assert_eq!(one("memory.swap.max", "max"), [("MemorySwapMax", Value::U64(u64::MAX))]);
        assert_eq!(one("pids.max", "0"), [("TasksMax", Value::U64(1))]);
        assert_eq!(one("io.weight", "8:0 100"), []);
        assert_eq!(one("hugetlb.2MB.max", "0"), []);
        assert_eq!(one("cpuset.cpus", "0-2,9"), [("AllowedCPUs", Value::bytes(&[7, 2]))]);
        assert_eq!(one("cpuset.cpus", "2-1"), []);
        assert_eq!(one("cpuset.cpus", "9999999999"), []);
        assert_eq!(one("cpu.idle", "1"), [("CPUWeight", Value::U64(0))]);
        let (both, _) = told(Version::V2, &[("cpu.weight", "50"), ("cpu.idle", "0")]);
        assert_eq!(both.last(), Some(&("CPUWeight", Value::U64(50))), "the last one counts");
    }

    #[test]
    fn a_quota_of_whole_percents() {
        let cpu = |version, files: &[(&str, &str)]| {
            let (properties, values) = told(version, files);
            (properties.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), values)
        };
        let numbers = |all: &[u64]| all.iter().copied().map(Value::U64).collect::<Vec<_>>();
        assert_eq!(
            cpu(Version::V2, &[("cpu.max", "20500 100000")]),
            (numbers(&[100_000, 210_000]), vec!["21000 100000".into()])
        );
        assert_eq!(cpu(Version::V2, &[("cpu.max", "max 5000")]), (numbers(&[5000, u64::MAX]), vec!["max 5000".into()]));
        let files = [("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "20000")];
        assert_eq!(cpu(Version::V1, &files), (numbers(&[50_000, 400_000]), vec!["50000".into(), "20000".into()]));
        let (_, huge) = cpu(Version::V2, &[("cpu.max", "18446744073709551615 1")]);
        assert_eq!(huge, ["18446744073709551615 1"]);
    }

    #[test]
    fn device_lists() {
        let told = |rules: &str| -> Vec<(&'static str, Value)> {
            let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).expect("test data");
            devices(&rules).expect("devices").into_iter().map(|property| (property.name, property.value)).collect()
        };
        let usual = told(r#"[{"allow":false},{"allow":true,"type":"b","major":8,"access":"r"}]"#);
        assert_eq!(usual[1], ("DevicePolicy", Value::str("strict")));
        let Value::Array(_, entries) = &usual[2].1 else { panic!("{usual:?}") };
        let entry = |path: &str, access: &str| Value::Struct(vec![Value::str(path), Value::str(access)]);
        for wanted in
            [entry("block-8", "r"), entry("char-*", "m"), entry("/dev/char/1:3", "rwm"), entry("char-136", "rwm")]
        {
            assert!(entries.contains(&wanted), "{wanted:?}: {entries:?}");
        }
        for rules in [
            r#"[{"allow":true}]"#,
            r#"[{"allow":false},{"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#,
            r#"[{"allow":false},{"allow":true,"type":"c","minor":3,"access":"w"}]"#,
        ] {
            let told = told(rules);
            assert!(told.len() == 2 || rules.contains(r#""major":1"#), "{rules}: {told:?}");
        }
    }
}
