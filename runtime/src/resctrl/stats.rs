//! What a class of service has and uses, as `runc events` shows it below `intel_rdt`.

use std::path::Path;

use serde_json::{Map, Value};

use super::Resctrl;
use crate::document::members;

fn text(folder: &Path, file: &str) -> Option<String> {
    Some(std::fs::read_to_string(folder.join(file)).ok()?.trim().to_owned())
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    text(folder, file)?.parse().ok()
}

impl Resctrl {
    /// All that the host tells; what it does not is left out.
    pub(crate) fn stats(&self) -> Value {
        let mut all = Map::new();
        let info = self.root.join("info");
        let in_root = text(&self.root, "schemata").unwrap_or_default();
        let in_group = text(&self.group, "schemata").unwrap_or_default();
        for (resource, key, files) in [
            ("L3", "l3_cache", &["cbm_mask", "min_cbm_bits", "num_closids"][..]),
            ("MB", "mem_bw", &["bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"]),
        ] {
            let folder = info.join(resource);
            if !folder.exists() {
                continue;
            }
            all.insert(format!("{key}_info"), properties(&folder, files));
            for (suffix, schemata) in [("_schema_root", &in_root), ("_schema", &in_group)] {
                if let Some(line) = last_with(schemata, resource) {
                    all.insert(format!("{key}{suffix}"), line.into());
                }
            }
        }
        if !in_group.is_empty() {
            all.insert("schemata".to_owned(), in_group.lines().collect());
        }
        let features = text(&info, "L3_MON/mon_features").unwrap_or_default();
        let data = self.monitor.as_ref().unwrap_or(&self.group).join("mon_data");
        counters(&features, &data, &mut all);
        all.into()
    }
}

fn properties(folder: &Path, files: &[&str]) -> Value {
    let value = |file: &str| -> Option<Value> {
        match file {
            "cbm_mask" => text(folder, file).map(Value::from),
            _ => number(folder, file).filter(|value| *value != 0).map(Value::from),
        }
    };
    members(files.iter().filter_map(|file| Some(((*file).to_owned(), value(file)?)))).into()
}

fn last_with<'a>(schemata: &'a str, resource: &str) -> Option<&'a str> {
    schemata.lines().map(str::trim).rfind(|line| line.contains(resource))
}

/// What is counted in each domain of the cache.
fn counters(features: &str, data: &Path, all: &mut Map<String, Value>) {
    let has = |feature: &str| features.lines().any(|line| line == feature);
    let mut domains: Vec<_> =
        std::fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    domains.sort_unstable();
    let of = |files: &[&str]| -> Value {
        let one = |domain: &std::path::PathBuf| -> Value {
            members(files.iter().map(|file| ((*file).to_owned(), number(domain, file).unwrap_or(0).into()))).into()
        };
        domains.iter().map(one).collect()
    };
    if has("mbm_total_bytes") || has("mbm_local_bytes") {
        all.insert("mbm_stats".to_owned(), of(&["mbm_total_bytes", "mbm_local_bytes"]));
    }
    if has("llc_occupancy") {
        all.insert("cmt_stats".to_owned(), of(&["llc_occupancy"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_resource() {
        let schemata = "    MB:0=100;1=100\n    L3:0=fff;1=fff\n";
        assert_eq!(last_with(schemata, "L3"), Some("L3:0=fff;1=fff"));
        assert_eq!(last_with(schemata, "MB"), Some("MB:0=100;1=100"));
        assert_eq!(last_with(schemata, "L2"), None);
    }
}
