//! What the spec's limits are in the files of each cgroup version. OCI runtime specification, "Control groups";
//! Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::devices::DevicePolicy;
use crate::error::Error;

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
}

fn setting(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { controller, file: file.into(), value: value.to_string() }
}

/// Refuses the limits that this runtime does not set, and devices that there cannot be.
pub(crate) fn unsupported(resources: &LinuxResources) -> Result<(), Error> {
    DevicePolicy::new(resources.devices().as_deref().unwrap_or_default())?;
    let refuse = |name: &str| Err(Error::unsupported(format!("linux.resources.{name}"), "not implemented yet"));
    if let Some(io) = resources.block_io() {
        let weights = io.weight().is_some() || io.leaf_weight().is_some() || is_given(io.weight_device().as_ref());
        let throttles = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        if weights || throttles.into_iter().any(|list| is_given(list.as_ref())) {
            return refuse("blockIO");
        }
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|id| id != 0) || is_given(network.priorities().as_ref()))
    {
        return refuse("network");
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return refuse("rdma");
    }
    Ok(())
}

fn is_given<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// The settings for the version 1 controllers.
pub(super) fn v1(resources: &LinuxResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        v1_memory(memory, &mut settings);
    }
    if let Some(cpu) = resources.cpu() {
        v1_cpu(cpu, &mut settings);
        cpuset(cpu, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        settings.push(setting("pids", "pids.max", or_max(pids.limit())));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", page.page_size());
        settings.push(setting("hugetlb", file, page.limit()));
    }
    settings
}

fn v1_memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) {
    let mut push = |file: &str, value: Option<i64>| {
        if let Some(value) = value.filter(|value| *value != 0) {
            settings.push(setting("memory", file, value));
        }
    };
    push("memory.limit_in_bytes", memory.limit());
    push("memory.memsw.limit_in_bytes", memory.swap());
    push("memory.soft_limit_in_bytes", memory.reservation());
    push("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp());
    if let Some(swappiness) = memory.swappiness() {
        settings.push(setting("memory", "memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.push(setting("memory", "memory.oom_control", 1));
    }
}

fn v1_cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    let mut push = |file: &str, value: Option<i64>| {
        if let Some(value) = value {
            settings.push(setting("cpu", file, value));
        }
    };
    let unsigned = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value as i64);
    push("cpu.shares", unsigned(cpu.shares()));
    push("cpu.cfs_period_us", unsigned(cpu.period()));
    push("cpu.cfs_quota_us", cpu.quota().filter(|quota| *quota != 0));
    push("cpu.cfs_burst_us", cpu.burst().map(|burst| burst as i64));
    push("cpu.rt_period_us", unsigned(cpu.realtime_period()));
    push("cpu.rt_runtime_us", cpu.realtime_runtime().filter(|runtime| *runtime != 0));
    push("cpu.idle", cpu.idle());
}

fn cpuset(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            settings.push(setting("cpuset", file, list));
        }
    }
}

/// The settings for the controllers of version 2.
pub(super) fn v2(resources: &LinuxResources) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        v2_memory(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        v2_cpu(cpu, &mut settings)?;
        cpuset(cpu, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        settings.push(setting("pids", "pids.max", or_max(pids.limit())));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        settings.push(setting("hugetlb", format!("hugetlb.{}.max", page.page_size()), page.limit()));
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(Error::invalid(format!("linux.resources.unified[{file:?}]"), "not a controller's file"));
        }
        settings.push(setting("unified", file, value));
    }
    Ok(settings)
}

fn v2_memory(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    if let Some(swap) = given(memory.swap()) {
        // The spec counts memory and swap together, version 2 swap alone.
        let value = match (swap, given(memory.limit())) {
            (-1, _) => "max".to_owned(),
            (swap, Some(limit)) if limit > 0 && swap >= limit => (swap - limit).to_string(),
            _ => {
                return Err(Error::invalid(
                    "linux.resources.memory.swap",
                    "it is memory and swap together: give memory.limit too, and not more than swap",
                ));
            }
        };
        settings.push(setting("memory", "memory.swap.max", value));
    }
    if let Some(limit) = given(memory.limit()) {
        settings.push(setting("memory", "memory.max", or_max(limit)));
    }
    if let Some(reservation) = given(memory.reservation()) {
        settings.push(setting("memory", "memory.low", or_max(reservation)));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::unsupported("linux.resources.memory.disableOOMKiller", "cgroup v2 has no such switch"));
    }
    Ok(())
}

fn v2_cpu(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), Error> {
    if cpu.realtime_period().is_some_and(|us| us != 0) || cpu.realtime_runtime().is_some_and(|us| us != 0) {
        return Err(Error::unsupported("linux.resources.cpu.realtimeRuntime", "cgroup v2 has no such limit"));
    }
    if let Some(idle) = cpu.idle() {
        settings.push(setting("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        // An idle group has a fixed weight.
        if cpu.idle().unwrap_or(0) == 0 {
            settings.push(setting("cpu", "cpu.weight", weight_of_shares(shares)));
        }
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or_else(|| "max".to_owned(), or_max);
        let value = period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
        settings.push(setting("cpu", "cpu.max", value));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(setting("cpu", "cpu.max.burst", burst));
    }
    Ok(())
}

fn or_max(value: i64) -> String {
    if value > 0 { value.to_string() } else { "max".to_owned() }
}

/// Version 1 shares (2 to 262144, usual 1024) as version 2 weight (1 to 10000, usual 100): the curve through
/// (2, 1), (1024, 100) and (262144, 10000) that OCI runtimes agreed on in 2025.
fn weight_of_shares(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The exact values at the three points must not be rounded up by a last bit.
    (10_f64.powf(exponent) - 1e-9).ceil().clamp(1.0, 10_000.0) as u64
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

    const ALL: &str = r#"{"memory":{"limit":1000,"swap":3000,"reservation":500},
        "cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"},"pids":{"limit":32}}"#;

    #[test]
    fn files_of_v1() {
        assert_eq!(
            files(v1(&resources(ALL))),
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
            files(v2(&resources(ALL)).expect("settings")),
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
            files(v2(&resources(none)).expect("settings")),
            ["memory.swap.max=max", "memory.max=max", "cpu.max=max 1000", "pids.max=max"]
        );
    }

    #[test]
    fn weights() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (500_000, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..1024).all(|shares| weight_of_shares(shares) <= weight_of_shares(shares + 1)));
    }

    #[test]
    fn refused() {
        assert!(v2(&resources(r#"{"memory":{"swap":5}}"#)).is_err());
        assert!(v2(&resources(r#"{"unified":{"../x.y":"1"}}"#)).is_err());
        assert!(unsupported(&resources(r#"{"blockIO":{"weight":10}}"#)).is_err());
        assert!(unsupported(&resources(r#"{"blockIO":{}}"#)).is_ok());
    }
}
