//! Pressure stall information: for how long processes waited for a resource.
//! Documentation/accounting/psi.rst of the kernel.

use std::path::Path;

use serde_json::{Map, Value};

use crate::cgroups::files::read_file;

/// The pressure in a file such as `cpu.pressure`; `None` when the kernel does not count it.
pub(super) fn read(path: &Path) -> Option<Value> {
    parse(&read_file(path).ok()?)
}

/// Averages are percentages, totals microseconds. A line that is missing has none of them.
fn parse(text: &str) -> Option<Value> {
    let mut all = Map::new();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        if kind == "some" || kind == "full" {
            let pairs = rest.split(' ').filter_map(|pair| pair.split_once('='));
            let value = |key: &str, text: &str| -> Option<Value> {
                if key == "total" {
                    Some(text.parse::<u64>().ok()?.into())
                } else {
                    Some(text.parse::<f64>().ok()?.into())
                }
            };
            let mut entries = Map::new();
            for (key, text) in pairs {
                entries.insert(key.to_owned(), value(key, text)?);
            }
            // As runc has it, without a member when all of it is 0.
            if entries.values().any(|value| value.as_f64() != Some(0.0)) {
                all.insert(kind.to_owned(), entries.into());
            }
        }
    }
    Some(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text =
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let parsed = parse(text).expect("pressure");
        assert_eq!(
            parsed,
            serde_json::json!({
                "some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 12345},
                "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 7},
            })
        );
        let idle = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
        assert_eq!(idle, Some(serde_json::json!({})));
        assert_eq!(parse("some avg10=x\n"), None);
    }
}
