//! What a container uses, in the form of `runc events`: the members of `Stats` in its package `types`, left out
//! where it leaves them out.

mod block_io;
mod pressure;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::files::read_file;
use super::{Cgroups, Version};
use crate::document::members;

/// cpuacct.stat counts in ticks of `USER_HZ`, which is 100 on every architecture of ours.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

impl Cgroups {
    /// The usage of all resources; what the host does not count is left out, or 0 where runc always has it.
    pub(crate) fn stats(&self) -> Value {
        let v1 = |name: &str| self.0.iter().find(|group| group.has(name)).map(|group| group.folder.clone());
        let unified = self.0.iter().find(|group| group.version == Version::V2).map(|group| group.folder.clone());
        let (cpu, mut memory) = match (v1("memory"), &unified) {
            (None, Some(folder)) => (v2_cpu(folder), v2_memory(folder)),
            (memory, _) => (v1_cpu(v1("cpuacct"), v1("cpu")), memory.map_or(json!({}), |folder| v1_memory(&folder))),
        };
        if let Some(entries) = memory.as_object_mut() {
            entries.retain(|_, value| !value.is_null());
        }
        let blkio = match (v1("blkio"), &unified) {
            (Some(folder), _) => block_io::v1(&folder),
            (None, Some(folder)) => block_io::v2(folder),
            _ => json!({}),
        };
        let hugetlb = v1("hugetlb")
            .map(|folder| (folder, "usage_in_bytes"))
            .or(unified.clone().map(|folder| (folder, "current")));
        json!({
            "cpu": cpu,
            "cpuset": cpuset(v1("cpuset")),
            "memory": memory,
            "pids": v1("pids").or(unified).map_or(json!({}), |folder| pids(&folder)),
            "blkio": blkio,
            "hugetlb": hugetlb.map_or(json!({}), |(folder, usage)| huge_pages(&folder, usage)),
            "intel_rdt": {},
            "network_interfaces": null,
        })
    }
}

/// A number in a file by itself; `max` is the highest.
fn number(folder: &Path, file: &str) -> Option<u64> {
    let text = read_file(&folder.join(file)).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// A file of lines with a name and a number.
fn table(folder: &Path, file: &str) -> Map<String, Value> {
    let text = read_file(&folder.join(file)).unwrap_or_default();
    let entry = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse::<u64>().ok()?.into()))
    };
    members(text.lines().filter_map(entry))
}

fn entry(table: &Map<String, Value>, name: &str) -> u64 {
    table.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Numbers, unless there are none.
fn numbers(of: &mut Value, name: &str, numbers: Vec<impl Into<Value>>) {
    if !numbers.is_empty() {
        of[name] = numbers.into_iter().map(Into::into).collect();
    }
}

/// Puts in the pressure on a resource, where the kernel counts it.
fn add_pressure(of: &mut Value, folder: &Path, file: &str) {
    if let Some(pressure) = pressure::read(&folder.join(file)) {
        of["psi"] = pressure;
    }
}

/// Without its controller the processes are counted.
fn pids(folder: &Path) -> Value {
    let listed = || Some(read_file(&folder.join("cgroup.procs")).ok()?.lines().count() as u64);
    dense(&[
        ("current", number(folder, "pids.current").or_else(listed)),
        ("limit", number(folder, "pids.max").filter(|max| *max != u64::MAX)),
    ])
}

/// An object without the entries that are 0 or missing.
fn dense(entries: &[(&str, Option<u64>)]) -> Value {
    let given = entries.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    let given = given.filter(|(_, value)| *value != 0);
    members(given.map(|(name, value)| (name.to_owned(), Value::from(value)))).into()
}

fn v1_cpu(cpuacct: Option<PathBuf>, cpu: Option<PathBuf>) -> Value {
    let mut usage = json!({"kernel": 0, "user": 0});
    if let Some(folder) = cpuacct {
        let ticks = table(&folder, "cpuacct.stat");
        usage["kernel"] = (entry(&ticks, "system") * NANOSECONDS_PER_TICK).into();
        usage["user"] = (entry(&ticks, "user") * NANOSECONDS_PER_TICK).into();
        if let Some(total) = number(&folder, "cpuacct.usage").filter(|total| *total != 0) {
            usage["total"] = total.into();
        }
        let each = read_file(&folder.join("cpuacct.usage_percpu")).unwrap_or_default();
        let each = each.split_whitespace().filter_map(|text| text.parse::<u64>().ok());
        numbers(&mut usage, "percpu", each.collect());
        let all = read_file(&folder.join("cpuacct.usage_all")).unwrap_or_default();
        let column = |at: usize| -> Vec<u64> {
            all.lines().skip(1).filter_map(|line| line.split(' ').nth(at)?.parse().ok()).collect()
        };
        numbers(&mut usage, "percpu_user", column(1));
        numbers(&mut usage, "percpu_kernel", column(2));
    }
    let stat = cpu.map(|folder| table(&folder, "cpu.stat")).unwrap_or_default();
    json!({"usage": usage, "throttling": throttling(&stat, "throttled_time", 1)})
}

fn v2_cpu(folder: &Path) -> Value {
    let stat = table(folder, "cpu.stat");
    let time = |name: &str| entry(&stat, name) * 1000;
    let usage = json!({"total": time("usage_usec"), "kernel": time("system_usec"), "user": time("user_usec")});
    let mut cpu = json!({"usage": usage, "throttling": throttling(&stat, "throttled_usec", 1000)});
    add_pressure(&mut cpu, folder, "cpu.pressure");
    cpu
}

fn throttling(stat: &Map<String, Value>, time: &str, unit: u64) -> Value {
    let number = |name: &str| Some(entry(stat, name));
    dense(&[
        ("periods", number("nr_periods")),
        ("throttledPeriods", number("nr_throttled")),
        ("throttledTime", Some(entry(stat, time) * unit)),
    ])
}

fn cpuset(folder: Option<PathBuf>) -> Value {
    let read = |name: &str| folder.as_deref().and_then(|folder| read_file(&folder.join(format!("cpuset.{name}"))).ok());
    let mut all = json!({});
    for name in ["cpus", "mems"] {
        numbers(&mut all, name, list(read(name).unwrap_or_default().trim()));
    }
    let switches = ["cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page"];
    let more = ["memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level"];
    for name in switches.into_iter().chain(more) {
        let value: i64 = read(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        all[name] = value.into();
    }
    all
}

/// The numbers of a list, as in `0-3,7`.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn usage(limit: Option<u64>, usage: Option<u64>, max: Option<u64>, failed: u64) -> Value {
    let mut all = dense(&[("usage", usage), ("max", max)]);
    all["limit"] = limit.unwrap_or(0).into();
    all["failcnt"] = failed.into();
    all
}

fn v1_memory(folder: &Path) -> Value {
    let of = |name: &str| -> Value {
        let read = |file: &str| number(folder, &format!("memory.{name}{file}"));
        let Some(used) = read("usage_in_bytes") else { return Value::Null };
        usage(read("limit_in_bytes"), Some(used), read("max_usage_in_bytes"), read("failcnt").unwrap_or(0))
    };
    let raw = table(folder, "memory.stat");
    json!({
        "cache": raw.get("cache").filter(|cache| cache.as_u64() != Some(0)),
        "usage": of(""), "swap": of("memsw."), "kernel": of("kmem."), "kernelTCP": of("kmem.tcp."), "raw": raw,
    })
}

fn v2_memory(folder: &Path) -> Value {
    let raw = table(folder, "memory.stat");
    let failed = |file: &str| entry(&table(folder, file), "max");
    let used = number(folder, "memory.current");
    let limit = number(folder, "memory.max");
    // As version 1 counts it: memory and swap together.
    let both = |one: Option<u64>, other: Option<u64>| one.map(|one| one.saturating_add(other.unwrap_or(0)));
    let swap = number(folder, "memory.swap.current");
    let swap_limit = both(limit, number(folder, "memory.swap.max"));
    let mut memory = json!({
        "cache": raw.get("file").filter(|cache| cache.as_u64() != Some(0)),
        "usage": usage(limit, used, number(folder, "memory.peak"), failed("memory.events")),
        "swap": usage(swap_limit, both(used, swap), None, failed("memory.swap.events")),
        "raw": raw,
    });
    add_pressure(&mut memory, folder, "memory.pressure");
    memory
}

/// By size; reservations where the kernel counts them (Linux 5.7), which the limits are set for too.
fn huge_pages(folder: &Path, suffix: &str) -> Value {
    let mut sizes = Map::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugetlb.").and_then(|name| name.strip_suffix(suffix)?.strip_suffix('.'));
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        let read = |file: &str| {
            let reserved = number(folder, &format!("hugetlb.{size}.rsvd.{file}"));
            reserved.or_else(|| number(folder, &format!("hugetlb.{size}.{file}")))
        };
        let mut usage = dense(&[("usage", read(suffix)), ("max", read("max_usage_in_bytes"))]);
        let events = || self::entry(&table(folder, &format!("hugetlb.{size}.events")), "max");
        usage["failcnt"] = read("failcnt").unwrap_or_else(events).into();
        sizes.insert(size.to_owned(), usage);
    }
    sizes.into()
}
