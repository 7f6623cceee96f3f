//! Cgroup files as messages: cpu, memory, swap, pids, pressure, on v1 and v2.

use std::fs;
use std::path::Path;

use orlop_proto::v1;

use super::Rate;
use crate::cgroups::Cgroups;

/// v1 writes "no limit" as the largest multiple of a page.
const NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

fn wrapped(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of a line `key value`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(super) fn cpu(cgroups: &Cgroups, cgroup: &Path, rate: &Rate, at: i64) -> Option<v1::CpuUsage> {
    let (usage, psi) = if let Some((folder, false)) = cgroups.folder("cpuacct", cgroup) {
        (number(&folder.join("cpuacct.usage"))?, None)
    } else {
        let (folder, _) = cgroups.folder("cpu", cgroup)?;
        let text = fs::read_to_string(folder.join("cpu.stat")).ok()?;
        (keyed(&text, "usage_usec")?.saturating_mul(1000), pressure(&folder.join("cpu.pressure")))
    };
    Some(v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: Some(wrapped(usage)),
        usage_nano_cores: rate.next(at, usage).map(wrapped),
        psi,
    })
}

pub(super) fn memory(cgroups: &Cgroups, cgroup: &Path, at: i64) -> Option<v1::MemoryUsage> {
    let (folder, v2) = cgroups.folder("memory", cgroup)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let (usage, limit, prefix, rss) = if v2 {
        (number(&folder.join("memory.current"))?, number(&folder.join("memory.max")), "", "anon")
    } else {
        let limit = number(&folder.join("memory.limit_in_bytes")).filter(|limit| *limit < NO_LIMIT);
        (number(&folder.join("memory.usage_in_bytes"))?, limit, "total_", "total_rss")
    };
    let value = |key: &str| keyed(&stat, &format!("{prefix}{key}"));
    let working_set = usage.saturating_sub(value("inactive_file").unwrap_or(0));
    Some(v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: Some(wrapped(working_set)),
        available_bytes: limit.map(|limit| wrapped(limit.saturating_sub(working_set))),
        usage_bytes: Some(wrapped(usage)),
        rss_bytes: keyed(&stat, rss).map(wrapped),
        page_faults: value("pgfault").map(wrapped),
        major_page_faults: value("pgmajfault").map(wrapped),
        psi: if v2 { pressure(&folder.join("memory.pressure")) } else { None },
    })
}

pub(super) fn swap(cgroups: &Cgroups, cgroup: &Path, at: i64) -> Option<v1::SwapUsage> {
    let (folder, v2) = cgroups.folder("memory", cgroup)?;
    let (usage, limit) = if v2 {
        (number(&folder.join("memory.swap.current"))?, number(&folder.join("memory.swap.max")))
    } else {
        let memory = number(&folder.join("memory.usage_in_bytes"))?;
        let both = number(&folder.join("memory.memsw.usage_in_bytes"))?;
        (both.saturating_sub(memory), None)
    };
    Some(v1::SwapUsage {
        timestamp: at,
        swap_available_bytes: limit.map(|limit| wrapped(limit.saturating_sub(usage))),
        swap_usage_bytes: Some(wrapped(usage)),
    })
}

pub(super) fn io(cgroups: &Cgroups, cgroup: &Path, at: i64) -> Option<v1::IoUsage> {
    let (folder, v2) = cgroups.folder("io", cgroup)?;
    let psi = v2.then(|| pressure(&folder.join("io.pressure"))).flatten()?;
    Some(v1::IoUsage { timestamp: at, psi: Some(psi) })
}

pub(super) fn processes(cgroups: &Cgroups, cgroup: &Path, at: i64) -> Option<v1::ProcessUsage> {
    let (folder, _) = cgroups.folder("pids", cgroup)?;
    let count = number(&folder.join("pids.current"))?;
    Some(v1::ProcessUsage { timestamp: at, process_count: Some(wrapped(count)) })
}

/// The interfaces of a process's network namespace (proc_pid_net(5)), its loopback left out.
pub(super) fn network(pid: i32, at: i64) -> Option<v1::NetworkUsage> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let mut interfaces: Vec<_> = text.lines().skip(2).filter_map(interface).filter(|each| each.name != "lo").collect();
    let default =
        interfaces.iter().position(|interface| interface.name == "eth0").map(|place| interfaces.remove(place));
    Some(v1::NetworkUsage { timestamp: at, default_interface: default, interfaces })
}

/// `name: bytes packets errs … (8 fields received) bytes packets errs … (sent)`.
fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let counter = |place: usize| counters.get(place).copied().map(wrapped);
    Some(v1::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: counter(0),
        rx_errors: counter(2),
        tx_bytes: counter(8),
        tx_errors: counter(10),
    })
}

fn pressure(path: &Path) -> Option<v1::PsiStats> {
    let text = fs::read_to_string(path).ok()?;
    let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).map(pressure_line);
    Some(v1::PsiStats { full: line("full "), some: line("some ") })
}

/// `avg10=0.00 avg60=0.00 avg300=0.00 total=0`, the total in microseconds.
fn pressure_line(line: &str) -> v1::PsiData {
    let value = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let average = |key: &str| value(key).and_then(|text| text.parse().ok()).unwrap_or_default();
    v1::PsiData {
        total: value("total").and_then(|text| text.parse().ok()).unwrap_or_default(),
        avg10: average("avg10"),
        avg60: average("avg60"),
        avg300: average("avg300"),
    }
}

#[cfg(test)]
mod tests {
    use super::{interface, keyed, pressure_line};

    #[test]
    fn lines_are_read() {
        assert_eq!(keyed("rss 5\ntotal_rss 7\n", "total_rss"), Some(7));
        assert_eq!(keyed("rss_huge 5\n", "rss"), None);
        let line = "  eth0: 10 1 2 0 0 0 0 0 20 2 3 0 0 0 0 0";
        let eth0 = interface(line).unwrap();
        let values = [eth0.rx_bytes, eth0.rx_errors, eth0.tx_bytes, eth0.tx_errors].map(|value| value.unwrap().value);
        assert_eq!((eth0.name.as_str(), values), ("eth0", [10, 2, 20, 3]));
        let psi = pressure_line("avg10=1.50 avg60=0.00 avg300=0.25 total=77");
        assert_eq!((psi.total, psi.avg10, psi.avg300), (77, 1.5, 0.25));
    }
}
