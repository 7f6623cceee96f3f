//! Verbs that ask about containers, in the form that runc gives.

mod common;

use common::{Container, can_run, has_apparmor, wait_until};
use serde_json::{Value, json};

#[test]
fn events_show_what_a_container_uses() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000")
        .set("/linux/resources", json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}));
    assert!(container.call(&["events", "--stats", &container.id]).error().contains("does not exist"));
    container.run_detached().ok();
    let event = || -> Value {
        serde_json::from_str(&container.call(&["events", "--stats", &container.id]).ok()).expect("JSON")
    };
    // The kernel adds up such counts every other second.
    wait_until("page faults", || event()["data"]["memory"]["raw"]["pgfault"].as_u64() > Some(0));
    let event = event();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(container.id)));
    let data = &event["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(data["pids"], json!({"current": 1, "limit": 50}));
    assert!(data["memory"]["usage"]["usage"].as_u64() > Some(0), "{data}");
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(0), "{data}");
    for part in ["throttling", "usage"] {
        assert!(data["cpu"][part].is_object(), "{data}");
    }
    assert!(container.call(&["events", "--interval", "0s", &container.id]).error().contains("duration"));
}

#[test]
fn the_stream_of_events_ends_with_the_container() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let mut command = container.command(&["events", "--interval", "10ms", &container.id]);
    let mut stream = command.stdout(std::process::Stdio::piped()).spawn().expect("run orlop-runtime");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream.stdout.take().expect("stdout")));
    for _ in 0..2 {
        let line = lines.next().expect("a line").expect("a line");
        assert!(line.starts_with("{\"data\":") || line.starts_with("{\"type\":"), "{line}");
    }
    container.call(&["kill", &container.id, "KILL"]).ok();
    drop(lines.map(|line| line.expect("a line")).collect::<Vec<_>>());
    assert!(stream.wait().expect("wait").success());
}

#[test]
fn the_columns_of_list() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let table = container.call(&["list"]).ok();
    let heading: Vec<&str> = table.lines().next().expect("heading").split_whitespace().collect();
    assert_eq!(heading, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row: Vec<&str> = table.lines().nth(1).expect("row").split_whitespace().collect();
    assert_eq!(
        (row[0], row[2], row[3], row[5]),
        (container.id.as_str(), "running", container.folder.path().to_str().expect("path"), "root")
    );
    assert_eq!(container.call(&["list", "-q"]).ok(), format!("{}\n", container.id));
    let all: Value = serde_json::from_str(&container.call(&["list", "-f", "json"]).ok()).expect("JSON");
    assert_eq!(all[0]["id"], json!(container.id));
}

#[test]
fn exec_refuses_labels_that_the_host_has_not() {
    if !can_run() {
        return;
    }
    if has_apparmor() {
        return println!("SKIP: this host has AppArmor");
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let error = container.call(&["exec", "--apparmor", "box", &container.id, "true"]).error();
    assert!(error.contains("process.apparmorProfile"), "{error}");
}

#[test]
fn exec_makes_an_inheritable_capability_ambient() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000").set("/process/capabilities/inheritable", json!(["CAP_KILL"]));
    container.run_detached().ok();
    let sets = |caps: &[&str]| {
        let all = [&["exec", "-u", "1000"], caps, &[&container.id, "grep", "^Cap", "/proc/self/status"]].concat();
        container.call(&all).ok()
    };
    assert!(sets(&[]).contains("CapAmb:\t0000000000000000"));
    let given = sets(&["-c", "CAP_KILL", "-c", "CAP_SYS_TIME"]);
    assert!(given.contains("CapAmb:\t0000000000000020"), "{given}");
}

#[test]
fn spec_writes_a_configuration_for_root_and_for_others() {
    for arguments in [&["spec"][..], &["spec", "--rootless"]] {
        let folder = tempfile::tempdir().unwrap();
        let program = env!("CARGO_BIN_EXE_orlop-runtime");
        let made = std::process::Command::new(program).args(arguments).current_dir(&folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let config = std::fs::read(folder.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let own = config["linux"]["namespaces"].as_array().unwrap();
        let user = own.iter().any(|namespace| namespace["type"] == "user");
        assert_eq!(user, arguments.contains(&"--rootless"), "{config}");
    }
}
