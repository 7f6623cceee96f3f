//! Changes of the device list of a container that runs.

use serde_json::{Value, json};

use crate::common::{Container, can_run, wait_until};

/// A container that notes when it cannot open /dev/null, which every list allows.
fn opener() -> Container {
    let script = "echo begun >/begun; while ! test -e /stop; do true </dev/null || echo denied >>/denied; done; echo over >/over";
    Container::new(script)
}

fn devices(rules: &Value) -> String {
    json!({"devices": rules}).to_string()
}

fn update(container: &Container, rules: &Value) -> crate::common::Ran {
    let file = container.folder.path().join("limits.json");
    std::fs::write(&file, devices(rules)).expect("limits.json");
    container.call(&["update", "--resources", file.to_str().expect("path"), &container.id])
}

fn list(container: &Container) -> Option<Vec<String>> {
    let group = container.cgroup("devices")?;
    Some(group.has("devices.list").then(|| group.read("devices.list"))?.lines().map(str::to_owned).collect())
}

fn deny_all_but(rules: &[Value]) -> Value {
    [&[json!({"allow": false})], rules].concat().into()
}

#[test]
fn what_stays_allowed_is_allowed_throughout() {
    if !can_run() {
        return;
    }
    let container = opener();
    container.run_detached().ok();
    wait_until("the program", || container.rootfs().join("begun").exists());
    // A long list comes before /dev/null: written anew, it would leave that out for long.
    let block =
        |minor: u32, access: &str| json!({"allow": true, "type": "b", "major": 8, "minor": minor, "access": access});
    for round in 0..8 {
        let access = if round % 2 == 0 { "rw" } else { "r" };
        let rules: Vec<Value> = (0..250).map(|minor| block(minor, if minor < 3 { access } else { "r" })).collect();
        update(&container, &deny_all_but(&rules)).ok();
        if let Some(list) = list(&container) {
            assert!(list.iter().any(|line| *line == format!("b 8:0 {access}")), "{list:?}");
        }
    }
    update(&container, &deny_all_but(&[])).ok();
    assert!(list(&container).is_none_or(|list| !list.iter().any(|line| line.starts_with("b 8:"))));
    std::fs::write(container.rootfs().join("stop"), "").expect("stop");
    wait_until("the end", || container.rootfs().join("over").exists());
    assert!(!container.rootfs().join("denied").exists(), "/dev/null was denied for a moment");
}

#[test]
fn between_a_list_and_everything() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let before = list(&container);
    let everything = json!([{"allow": true, "access": "rwm"}]);
    update(&container, &everything).ok();
    assert!(list(&container).is_none_or(|list| list == ["a *:* rwm"]));
    update(&container, &deny_all_but(&[])).ok();
    assert_eq!(list(&container), before);
}

#[test]
fn a_hole_in_a_wildcard_is_refused_where_the_kernel_would_ignore_it() {
    if !can_run() {
        return;
    }
    let rules = deny_all_but(&[
        json!({"allow": true, "type": "b", "major": 8, "access": "rw"}),
        json!({"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"}),
    ]);
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let Some(before) = list(&container) else { return println!("SKIP: there is no devices controller of version 1") };
    let error = update(&container, &rules).error();
    assert!(error.contains("linux.resources.devices") && error.contains("b 8:1 w"), "{error}");
    assert_eq!(list(&container), Some(before));
    let container = Container::new("true").set("/linux/resources/devices", rules);
    assert!(container.create().error().contains("linux.resources.devices"));
    assert_eq!(container.left_behind(), Vec::<String>::new());
}
