//! What a container uses, in the form of `runc events`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::files::read_file;
use super::{Cgroups, Version};

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
        let pids = v1("pids").or(unified.clone()).map_or(json!({}), |folder| {
            dense(&[
                ("current", number(&folder, "pids.current")),
                ("limit", number(&folder, "pids.max").filter(|max| *max != u64::MAX)),
            ])
        });
        let blkio = match (v1("blkio"), &unified) {
            (Some(folder), _) => v1_block_io(&folder),
            (None, Some(folder)) => v2_block_io(folder),
            _ => json!({}),
        };
        let hugetlb = v1("hugetlb")
            .map(|folder| (folder, "usage_in_bytes"))
            .or(unified.clone().map(|folder| (folder, "current")));
        json!({
            "cpu": cpu,
            "cpuset": cpuset(v1("cpuset")),
            "memory": memory,
            "pids": pids,
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
    text.lines().filter_map(entry).collect()
}

fn entry(table: &Map<String, Value>, name: &str) -> u64 {
    table.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// An object without the entries that are 0 or missing.
fn dense(entries: &[(&str, Option<u64>)]) -> Value {
    let given = entries.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    given
        .filter(|(_, value)| *value != 0)
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn v1_cpu(cpuacct: Option<PathBuf>, cpu: Option<PathBuf>) -> Value {
    let mut usage = json!({"kernel": 0, "user": 0});
    if let Some(folder) = cpuacct {
        let ticks = table(&folder, "cpuacct.stat");
        usage["kernel"] = (entry(&ticks, "system") * NANOSECONDS_PER_TICK).into();
        usage["user"] = (entry(&ticks, "user") * NANOSECONDS_PER_TICK).into();
        usage["total"] = number(&folder, "cpuacct.usage").into();
        let each = read_file(&folder.join("cpuacct.usage_percpu")).unwrap_or_default();
        usage["percpu"] = each.split_whitespace().filter_map(|text| text.parse::<u64>().ok()).collect();
        let all = read_file(&folder.join("cpuacct.usage_all")).unwrap_or_default();
        let column = |at: usize| -> Value {
            all.lines().skip(1).filter_map(|line| line.split(' ').nth(at)?.parse::<u64>().ok()).collect()
        };
        usage["percpu_user"] = column(1);
        usage["percpu_kernel"] = column(2);
    }
    let stat = cpu.map(|folder| table(&folder, "cpu.stat")).unwrap_or_default();
    json!({"usage": usage, "throttling": throttling(&stat, "throttled_time", 1)})
}

fn v2_cpu(folder: &Path) -> Value {
    let stat = table(folder, "cpu.stat");
    let time = |name: &str| entry(&stat, name) * 1000;
    let usage = json!({"total": time("usage_usec"), "kernel": time("system_usec"), "user": time("user_usec")});
    json!({"usage": usage, "throttling": throttling(&stat, "throttled_usec", 1000)})
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
    let mut all = Map::new();
    for name in ["cpus", "mems"] {
        if let Some(text) = read(name) {
            all.insert(name.to_owned(), list(text.trim()).into());
        }
    }
    let switches = ["cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page"];
    let more = ["memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level"];
    for name in switches.into_iter().chain(more) {
        let value: i64 = read(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        all.insert(name.to_owned(), value.into());
    }
    all.into()
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
    let both = |one: Option<u64>, other: Option<u64>| Some(one?.saturating_add(other?));
    let swap = number(folder, "memory.swap.current");
    let swap_limit = both(number(folder, "memory.swap.max"), limit);
    json!({
        "cache": raw.get("file").filter(|cache| cache.as_u64() != Some(0)),
        "usage": usage(limit, used, number(folder, "memory.peak"), failed("memory.events")),
        "swap": usage(swap_limit, both(used, swap), None, failed("memory.swap.events")),
        "raw": raw,
    })
}

fn v1_block_io(folder: &Path) -> Value {
    let read = |name: &str| {
        let text = ["bfq", "throttle"].iter().find_map(|by| read_file(&folder.join(format!("blkio.{by}.{name}"))).ok());
        let line = |line: &str| -> Option<Value> {
            let mut words = line.split(' ');
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = (words.next()?, words.next()?.parse::<u64>().ok()?);
            Some(block_entry(major.parse().ok()?, minor.parse().ok()?, op, value))
        };
        text.unwrap_or_default().lines().filter_map(line).collect::<Vec<_>>()
    };
    block_lists(read("io_service_bytes_recursive"), read("io_serviced_recursive"))
}

fn block_entry(major: u64, minor: u64, op: &str, value: u64) -> Value {
    let mut entry = dense(&[("major", Some(major)), ("minor", Some(minor)), ("value", Some(value))]);
    entry["op"] = op.into();
    entry
}

fn block_lists(bytes: Vec<Value>, operations: Vec<Value>) -> Value {
    let lists = [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", operations)];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    given.map(|(name, list)| (name.to_owned(), list.into())).collect::<Map<_, _>>().into()
}

fn v2_block_io(folder: &Path) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in read_file(&folder.join("io.stat")).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue,
            };
            list.push(block_entry(major, minor, op, value.parse().unwrap_or(0)));
        }
    }
    block_lists(bytes, operations)
}

fn huge_pages(folder: &Path, suffix: &str) -> Value {
    let mut sizes = Map::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugetlb.").and_then(|name| name.strip_suffix(suffix)?.strip_suffix('.'));
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        let read = |file: &str| number(folder, &format!("hugetlb.{size}.{file}"));
        let mut usage = dense(&[("usage", number(folder, &name)), ("max", read("max_usage_in_bytes"))]);
        let failed =
            read("failcnt").unwrap_or_else(|| self::entry(&table(folder, &format!("hugetlb.{size}.events")), "max"));
        usage["failcnt"] = failed.into();
        sizes.insert(size.to_owned(), usage);
    }
    sizes.into()
}
