//! The limits on processors.

use oci_spec::runtime::LinuxCpu;

use super::{Present, Setting, or_max, setting};
use crate::error::Error;

pub(super) fn v1(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut push = |field: &str, file: &str, value: Option<String>| {
        settings.extend(value.map(|value| setting("cpu", format!("cpu.{field}"), file, value)));
    };
    let unsigned = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let signed = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    push("realtimePeriod", "cpu.rt_period_us", unsigned(cpu.realtime_period()));
    push("realtimeRuntime", "cpu.rt_runtime_us", signed(cpu.realtime_runtime()));
    push("shares", "cpu.shares", unsigned(cpu.shares()));
    push("period", "cpu.cfs_period_us", unsigned(cpu.period()));
    push("quota", "cpu.cfs_quota_us", signed(cpu.quota()));
    push("idle", "cpu.idle", cpu.idle().map(|idle| idle.to_string()));
    if let Some(burst) = cpu.burst() {
        // Since Linux 5.14; before, there is nothing to burst into.
        settings.push(Setting { optional: true, ..setting("cpu", "cpu.burst", "cpu.cfs_burst_us", burst) });
    }
    sets(cpu, settings)
}

/// Which processors and memory nodes: the same files in both versions.
pub(super) fn sets(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), Error> {
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            // Version 2 takes what begins with it as an empty list, which is no limit.
            if list.contains('\0') {
                return Err(Error::invalid(format!("linux.resources.cpu.{name}"), "it has a NUL byte"));
            }
            settings.push(setting("cpuset", format!("cpu.{name}"), format!("cpuset.{name}"), list));
        }
    }
    Ok(())
}

pub(super) fn v2(cpu: &LinuxCpu, present: Present<'_>, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let realtime = [
        ("realtimePeriod", cpu.realtime_period().is_some_and(|us| us != 0)),
        ("realtimeRuntime", cpu.realtime_runtime().is_some_and(|us| us != 0)),
    ];
    if let Some((field, _)) = realtime.iter().find(|(_, given)| *given) {
        return Err(Error::unsupported(format!("linux.resources.cpu.{field}"), "cgroup v2 has no such limit"));
    }
    if let Some(idle) = cpu.idle() {
        settings.push(setting("cpu", "cpu.idle", "cpu.idle", idle));
    }
    // An idle group has a fixed weight.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle().unwrap_or(0) == 0) {
        settings.push(setting("cpu", "cpu.shares", "cpu.weight", weight_of_shares(shares)));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        // Both are in one file: what is not given stays.
        let before = present("cpu.max").unwrap_or_default();
        let (old_quota, old_period) = before.split_once(' ').unwrap_or(("max", "100000"));
        let quota = quota.map_or_else(|| old_quota.to_owned(), or_max);
        let period = period.map_or_else(|| old_period.to_owned(), |period| period.to_string());
        let field = if cpu.quota().is_some() { "cpu.quota" } else { "cpu.period" };
        settings.push(setting("cpu", field, "cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(setting("cpu", "cpu.burst", "cpu.max.burst", burst));
    }
    Ok(())
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

    #[test]
    fn weights() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (500_000, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((2..1024).all(|shares| weight_of_shares(shares) <= weight_of_shares(shares + 1)));
    }
}
