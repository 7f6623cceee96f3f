//! Intel RDT where the host has none; what it says is checked all the same.

use serde_json::{Value, json};

use crate::common::{Container, can_run};

fn has_resctrl() -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let has = table.lines().any(|line| line.contains(" - resctrl "));
    if has {
        println!("SKIP: this host has resctrl mounted");
    }
    has
}

#[test]
fn a_host_without_it_is_told() {
    if !can_run() || has_resctrl() {
        return;
    }
    for wanted in [json!({}), json!({"closID": "gold"}), json!({"l3CacheSchema": "L3:0=f", "enableMonitoring": true})] {
        let container = Container::new("true").set("/linux/intelRdt", wanted);
        let error = container.create().error();
        assert!(error.contains("linux.intelRdt is not supported: no resctrl"), "{error}");
        assert_eq!(container.left_behind(), Vec::<String>::new());
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    for flag in ["--l3-cache-schema", "--mem-bw-schema"] {
        let error = container.call(&["update", flag, "MB:0=20", &container.id]).error();
        assert!(error.contains("linux.intelRdt"), "{error}");
    }
    container.call(&["update", "--l3-cache-schema", "", "--pids-limit", "20", &container.id]).ok();
    let stats: Value = serde_json::from_str(&container.call(&["events", "--stats", &container.id]).ok()).expect("JSON");
    assert_eq!(stats["data"]["intel_rdt"], json!({}));
}

#[test]
fn what_it_says_is_checked_first() {
    if !can_run() {
        return;
    }
    for (wanted, field) in [
        (json!({"closID": "../../etc"}), "closID"),
        (json!({"schemata": ["L3:0=f\nMB:0=10"]}), "schemata"),
        (json!({"memBwSchema": "L3:0=f"}), "memBwSchema"),
    ] {
        let error = Container::new("true").set("/linux/intelRdt", wanted).create().error();
        assert!(error.contains(&format!("linux.intelRdt.{field}")), "{error}");
    }
}
