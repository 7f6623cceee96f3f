//! What the spec's limits are in the files of each cgroup version. OCI runtime specification, "Control groups";
//! Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel. Where these leave it open, as runc does.

mod block_io;
mod cpu;
mod memory;

use oci_spec::runtime::{LinuxPids, LinuxResources};

use super::devices::DevicePolicy;
use crate::error::Error;

/// One write to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    /// The property below `linux.resources`.
    pub(crate) field: String,
    pub(crate) file: String,
    pub(crate) value: String,
    /// Whether a host that has no such file does without.
    pub(crate) optional: bool,
}

fn setting(
    controller: &'static str,
    field: impl Into<String>,
    file: impl Into<String>,
    value: impl ToString,
) -> Setting {
    Setting { controller, field: field.into(), file: file.into(), value: value.to_string(), optional: false }
}

/// Reads a file of the group: what is set, or supported, at present.
pub(super) type Present<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Refuses what no host could set, before anything is done.
pub(crate) fn unsupported(resources: &LinuxResources) -> Result<(), Error> {
    DevicePolicy::new(resources.devices().as_deref().unwrap_or_default())?;
    v1(resources).map(drop)
}

/// All that is worked out from limits, for hosts of both versions.
#[cfg(fuzzing)]
pub(crate) fn understand(resources: &LinuxResources) {
    if unsupported(resources).is_err() {
        return;
    }
    if let Ok(policy) = DevicePolicy::new(resources.devices().as_deref().unwrap_or_default()) {
        super::devices::program(&policy);
    }
    for present in [None, Some("max"), Some("100000 5000"), Some("18446744073709551615"), Some("-1")] {
        let _ = v2(resources, &|_| present.map(str::to_owned), &|_| true);
    }
}

/// The settings for the version 1 controllers.
pub(super) fn v1(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        memory::v1(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu::v1(cpu, &mut settings)?;
    }
    if let Some(io) = resources.block_io() {
        block_io::v1(io, &mut settings)?;
    }
    pids(resources, &mut settings);
    huge_pages(resources, "limit_in_bytes", &mut settings)?;
    rdma(resources, &mut settings)?;
    if let Some(network) = resources.network() {
        if let Some(id) = network.class_id().filter(|id| *id != 0) {
            settings.push(setting("net_cls", "network.classID", "net_cls.classid", id));
        }
        for entry in network.priorities().iter().flatten() {
            let name = word("network.priorities", entry.name())?;
            let value = format!("{name} {}", entry.priority());
            settings.push(setting("net_prio", "network.priorities", "net_prio.ifpriomap", value));
        }
    }
    Ok(settings)
}

/// The settings for those controllers of version 2 that are `ours`: the rest is set in version 1.
pub(super) fn v2(
    resources: &LinuxResources,
    present: Present<'_>,
    ours: &dyn Fn(&str) -> bool,
) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory().as_ref().filter(|_| ours("memory")) {
        memory::v2(memory, present, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        if ours("cpu") {
            cpu::v2(cpu, present, &mut settings)?;
        }
        cpu::sets(cpu, &mut settings)?;
    }
    if let Some(io) = resources.block_io().as_ref().filter(|_| ours("blkio")) {
        block_io::v2(io, present, &mut settings)?;
    }
    pids(resources, &mut settings);
    huge_pages(resources, "max", &mut settings)?;
    rdma(resources, &mut settings)?;
    settings.retain(|setting| ours(setting.controller));
    if let Some(network) = resources.network() {
        let field = if ours("net_cls") && network.class_id().is_some_and(|id| id != 0) {
            Some("classID")
        } else if ours("net_prio") && network.priorities().as_ref().is_some_and(|list| !list.is_empty()) {
            Some("priorities")
        } else {
            None
        };
        if let Some(field) = field {
            return Err(Error::unsupported(
                format!("linux.resources.network.{field}"),
                "this host has no net_cls or net_prio hierarchy mounted, and cgroup v2 has no such setting",
            ));
        }
    }
    unified(resources, &mut settings)?;
    Ok(settings)
}

/// A limit of 0 is none given: the spec's own type cannot tell the two apart.
fn pids(resources: &LinuxResources, settings: &mut Vec<Setting>) {
    if let Some(limit) = resources.pids().as_ref().map(LinuxPids::limit).filter(|limit| *limit != 0) {
        settings.push(setting("pids", "pids.limit", "pids.max", or_max(limit)));
    }
}

fn huge_pages(resources: &LinuxResources, suffix: &str, settings: &mut Vec<Setting>) -> Result<(), Error> {
    for entry in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = (entry.page_size(), entry.limit());
        let number = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        if !number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())) {
            let reason = format!("{size:?} is not a page size, as in 2MB");
            return Err(Error::invalid("linux.resources.hugepageLimits.pageSize", reason));
        }
        if limit < 0 {
            return Err(Error::invalid("linux.resources.hugepageLimits.limit", format!("{limit} is negative")));
        }
        let push = |kind: &str| setting("hugetlb", "hugepageLimits", format!("hugetlb.{size}.{kind}{suffix}"), limit);
        settings.push(push(""));
        // Reservations are counted since Linux 5.7; without their limit they go past the other one.
        settings.push(Setting { optional: true, ..push("rsvd.") });
    }
    Ok(())
}

fn rdma(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_unstable_by_key(|(name, _)| name.as_str());
    for (name, limits) in devices {
        let mut value = word("rdma", name)?.to_owned();
        for (key, limit) in [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())] {
            if let Some(limit) = limit {
                value = format!("{value} {key}={limit}");
            }
        }
        settings.push(setting("rdma", format!("rdma[{name:?}]"), "rdma.max", value));
    }
    Ok(())
}

/// A name that goes into a line of several words.
fn word<'a>(field: &str, name: &'a str) -> Result<&'a str, Error> {
    if name.is_empty() || name.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err(Error::invalid(
            format!("linux.resources.{field}"),
            format!("{name:?} is not the name of a device"),
        ));
    }
    Ok(name)
}

/// Settings of version 2 as they are, each line of a value written by itself.
fn unified(resources: &LinuxResources, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort_unstable();
    for (file, value) in files {
        let core = file.starts_with("cgroup.") && !file.starts_with("cgroup.max.");
        if file.contains(['/', '\0']) || !file.contains('.') || core {
            return Err(Error::invalid(format!("linux.resources.unified[{file:?}]"), "not a controller's file"));
        }
        for line in value.lines().filter(|line| !line.trim().is_empty()) {
            settings.push(setting("unified", format!("unified[{file:?}]"), file, line));
        }
    }
    Ok(())
}

fn or_max(value: i64) -> String {
    if value > 0 { value.to_string() } else { "max".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn resources(json: &str) -> LinuxResources {
        let spec = format!(r#"{{"ociVersion":"1.3.0","linux":{{"resources":{json}}}}}"#);
        let spec: Spec = serde_json::from_str(&spec).expect("test data");
        spec.linux().clone().and_then(|linux| linux.resources().clone()).expect("test data")
    }

    fn files(settings: Vec<Setting>) -> Vec<String> {
        settings.into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }

    /// On a host that has version 2 only, and nothing set.
    fn all_v2(json: &str) -> Result<Vec<Setting>, Error> {
        v2(&resources(json), &|_| None, &|_| true)
    }

    const ALL: &str = r#"{"memory":{"limit":1000,"swap":3000,"reservation":500},
        "cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"},"pids":{"limit":32}}"#;

    #[test]
    fn files_of_v1() {
        assert_eq!(
            files(v1(&resources(ALL)).expect("settings")),
            [
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=3000",
                "memory.soft_limit_in_bytes=500",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
                "pids.max=32"
            ]
        );
    }

    #[test]
    fn files_of_v2() {
        assert_eq!(
            files(all_v2(ALL).expect("settings")),
            [
                "memory.swap.max=2000",
                "memory.max=1000",
                "memory.low=500",
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpuset.cpus=0-1",
                "pids.max=32"
            ]
        );
    }

    #[test]
    fn no_limit() {
        let none = r#"{"memory":{"limit":-1,"swap":-1},"cpu":{"quota":-1,"period":1000},"pids":{"limit":-1}}"#;
        assert_eq!(
            files(all_v2(none).expect("settings")),
            ["memory.swap.max=max", "memory.max=max", "cpu.max=max 1000", "pids.max=max"]
        );
    }

    const DEVICES: &str = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
        "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]},
        "hugepageLimits":[{"pageSize":"2MB","limit":0}],
        "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":7}}}"#;

    #[test]
    fn devices_of_v1() {
        assert_eq!(
            files(v1(&resources(DEVICES)).expect("settings")),
            [
                "blkio.weight=500",
                "blkio.weight_device=8:0 10",
                "blkio.throttle.read_bps_device=8:0 1000",
                "blkio.throttle.write_iops_device=8:16 0",
                "hugetlb.2MB.limit_in_bytes=0",
                "hugetlb.2MB.rsvd.limit_in_bytes=0",
                "rdma.max=mlx4_0 hca_object=7",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=10000"
            ]
        );
    }

    #[test]
    fn devices_of_v2() {
        let common = [
            "io.max=8:0 rbps=1000",
            "io.max=8:16 wiops=max",
            "hugetlb.2MB.max=0",
            "hugetlb.2MB.rsvd.max=0",
            "rdma.max=mlx4_0 hca_object=7",
            "rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
        ];
        let cfq = files(all_v2(DEVICES).expect("settings"));
        assert_eq!(cfq[..2], ["io.weight=4950", "io.weight=8:0 1"]);
        assert_eq!(cfq[2..], common);
        let bfq = |file: &str| (file == "io.bfq.weight").then(|| "default 100".to_owned());
        let bfq = files(v2(&resources(DEVICES), &bfq, &|_| true).expect("settings"));
        assert_eq!(bfq[..2], ["io.bfq.weight=500", "io.bfq.weight=8:0 10"]);
    }

    /// What an update does not give is what is set already, as if both had been given at once.
    #[test]
    fn updates_of_v2_are_merged() {
        let before = |file: &str| match file {
            "memory.max" => Some("1000".to_owned()),
            "memory.swap.max" => Some("500".to_owned()),
            "cpu.max" => Some("max 50000".to_owned()),
            _ => None,
        };
        let update = |json: &str| files(v2(&resources(json), &before, &|_| true).expect("settings"));
        assert_eq!(update(r#"{"memory":{"swap":1700}}"#), ["memory.swap.max=700"]);
        assert_eq!(update(r#"{"memory":{"limit":1200}}"#), ["memory.swap.max=300", "memory.max=1200"]);
        assert_eq!(update(r#"{"memory":{"limit":2000}}"#), ["memory.max=2000"], "as much swap as before");
        assert_eq!(update(r#"{"memory":{"limit":-1}}"#), ["memory.swap.max=max", "memory.max=max"]);
        assert_eq!(update(r#"{"cpu":{"quota":2000}}"#), ["cpu.max=2000 50000"]);
        assert_eq!(update(r#"{"cpu":{"period":9000}}"#), ["cpu.max=max 9000"]);
    }

    #[test]
    fn refused() {
        assert!(all_v2(r#"{"memory":{"swap":5}}"#).is_err());
        assert!(all_v2(r#"{"unified":{"../x.y":"1"}}"#).is_err());
        for (json, field) in [
            (r#"{"blockIO":{"weight":9}}"#, "blockIO.weight"),
            (r#"{"blockIO":{"weightDevice":[{"major":8,"minor":-1,"weight":10}]}}"#, "blockIO.weightDevice"),
            (r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":0}]}"#, "hugepageLimits.pageSize"),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#, "hugepageLimits.limit"),
            (r#"{"rdma":{"a b":{"hcaHandles":1}}}"#, "rdma"),
            (r#"{"network":{"priorities":[{"name":"e\n","priority":1}]}}"#, "network.priorities"),
            (r#"{"memory":{"swappiness":101}}"#, "memory.swappiness"),
        ] {
            let error = unsupported(&resources(json)).expect_err(json).to_string();
            assert!(error.contains(&format!("linux.resources.{field}:")), "{error}");
        }
        for (json, field) in [
            (r#"{"blockIO":{"leafWeight":10}}"#, "blockIO.leafWeight"),
            (r#"{"network":{"classID":1}}"#, "network.classID"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
            (r#"{"cpu":{"realtimePeriod":1}}"#, "cpu.realtimePeriod"),
        ] {
            let error = all_v2(json).expect_err(json).to_string();
            assert!(error.contains(&format!("linux.resources.{field} ")), "{error}");
        }
        assert!(unsupported(&resources(r#"{"blockIO":{}}"#)).is_ok());
    }
}
