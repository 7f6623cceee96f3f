//! Block I/O: by device and kind of operation.

use std::path::Path;

use serde_json::{Map, Value};

use super::{add_pressure, dense};
use crate::cgroups::files::read_file;
use crate::document::members;

/// The lists that runc prints, and how their files end.
const LISTS: [(&str, &str); 8] = [
    ("sectorsRecursive", "sectors_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
];

/// Who counts, and how many of the lists: a scheduler all of them when it is built for that, else the last two.
/// The first that has counted something is taken.
const COUNTERS: [(&str, usize); 4] = [("bfq.", 8), ("bfq.", 2), ("", 8), ("throttle.", 2)];

pub(super) fn v1(folder: &Path) -> Value {
    let read = |file: &str| {
        let text = read_file(&folder.join(format!("blkio.{file}"))).unwrap_or_default();
        text.lines().filter_map(line).collect::<Vec<_>>()
    };
    let mut all = Map::new();
    for (counter, count) in COUNTERS {
        for (name, file) in &LISTS[LISTS.len() - count..] {
            match read(&format!("{counter}{file}")) {
                list if list.is_empty() => break,
                list => all.insert((*name).to_owned(), list.into()),
            };
        }
        if !all.is_empty() {
            return all.into();
        }
    }
    // Kernels before 5.4 have these without what is below the group.
    lists(read("throttle.io_service_bytes"), read("throttle.io_serviced"))
}

/// `MAJOR:MINOR [OPERATION] NUMBER`; a line of totals has no device.
fn line(line: &str) -> Option<Value> {
    let words: Vec<&str> = line.split(' ').collect();
    let (device, operation, number) = match words[..] {
        [device, number] => (device, "", number),
        [device, operation, number] => (device, operation, number),
        _ => return None,
    };
    let (major, minor) = device.split_once(':')?;
    Some(entry(major.parse().ok()?, minor.parse().ok()?, operation, number.parse().ok()?))
}

fn entry(major: u64, minor: u64, operation: &str, value: u64) -> Value {
    let mut entry = dense(&[("major", Some(major)), ("minor", Some(minor)), ("value", Some(value))]);
    if !operation.is_empty() {
        entry["op"] = operation.into();
    }
    entry
}

fn lists(bytes: Vec<Value>, operations: Vec<Value>) -> Value {
    let lists = [("ioServiceBytesRecursive", bytes), ("ioServicedRecursive", operations)];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    members(given.map(|(name, list)| (name.to_owned(), list.into()))).into()
}

pub(super) fn v2(folder: &Path) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in read_file(&folder.join("io.stat")).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                _ => continue,
            };
            list.push(entry(major, minor, operation, value.parse().unwrap_or(0)));
        }
    }
    let mut all = lists(bytes, operations);
    add_pressure(&mut all, folder, "io.pressure");
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines() {
        assert_eq!(line("8:0 Read 4096"), Some(json!({"major": 8, "op": "Read", "value": 4096})));
        assert_eq!(line("8:16 77"), Some(json!({"major": 8, "minor": 16, "value": 77})));
        assert_eq!(line("Total 0"), None);
        assert_eq!(line("8:0 Read x"), None);
    }

    #[test]
    fn the_first_counter_that_counted_is_taken() {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("file");
        write("blkio.bfq.io_serviced_recursive", "Total 0\n");
        write("blkio.throttle.io_serviced_recursive", "8:0 Read 3\nTotal 3\n");
        write("blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\nTotal 4096\n");
        let all = v1(folder.path());
        assert_eq!(all["ioServicedRecursive"][0]["value"], 3);
        assert_eq!(all["ioServiceBytesRecursive"][0]["value"], 4096);
        write("blkio.bfq.io_serviced_recursive", "8:0 Read 9\n");
        assert_eq!(v1(folder.path())["ioServicedRecursive"][0]["value"], 9);
    }
}
