//! Capabilities that nobody knows are left out, and told of.

use serde_json::{Value, json};

use crate::common::{Container, can_run};

/// The messages of a log in JSON.
fn logged(log: &std::path::Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(log).expect("log");
    let line = |line: &str| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let member = |name: &str| entry[name].as_str().expect("text").to_owned();
        (member("level"), member("msg"))
    };
    text.lines().map(line).collect()
}

#[test]
fn unknown_ones_of_a_configuration() {
    if !can_run() {
        return;
    }
    let container = Container::new("grep CapEff /proc/self/status");
    let sets = json!({"effective": ["CAP_TEST", "CAP_KILL"], "permitted": ["CAP_KILL", "CAP_OTHER"], "bounding": ["CAP_TEST", "CAP_KILL"]});
    let container = container.set("/process/capabilities", sets);
    container.write_config();
    let log = container.folder.path().join("log");
    let bundle = container.folder.path().to_str().expect("path");
    let arguments = ["--log", log.to_str().expect("path"), "--log-format", "json", "run", "--bundle", bundle];
    let ran = container.call(&[&arguments[..], &[&container.id]].concat());
    // That is the container's.
    assert_eq!(ran.stderr, "");
    let ran = ran.ok();
    assert_eq!(ran, "CapEff:\t0000000000000020\n");
    let [(level, message)] = &logged(&log)[..] else { panic!("one message: {:?}", logged(&log)) };
    assert_eq!(level, "warning");
    assert!(message.contains("unknown") && message.contains("CAP_OTHER CAP_TEST"), "{message}");
}

#[test]
fn unknown_ones_of_exec() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let show = ["grep", "CapEff", "/proc/self/status"];
    let ran =
        container.call(&[&["exec", "--cap", "CAP_TEST", "--cap", "CAP_SYS_TIME", &container.id], &show[..]].concat());
    assert!(ran.stderr.contains("warning") && ran.stderr.contains("CAP_TEST"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("CAP_SYS_TIME"), "{}", ran.stderr);
    assert_eq!(ran.ok(), "CapEff:\t00000000020000e1\n");

    let process = container.folder.path().join("process.json");
    let sets = json!({"effective": ["CAP_TEST", "CAP_KILL"], "permitted": ["CAP_KILL"], "bounding": ["CAP_KILL"]});
    let json =
        json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": show, "env": ["PATH=/bin"], "capabilities": sets});
    std::fs::write(&process, json.to_string()).expect("process.json");
    let ran = container.call(&["exec", "--process", process.to_str().expect("path"), &container.id]);
    assert!(ran.stderr.contains("warning") && ran.stderr.contains("CAP_TEST"), "{}", ran.stderr);
    assert_eq!(ran.ok(), "CapEff:\t0000000000000020\n");

    std::fs::write(&process, json.to_string().replace("\"CAP_TEST\"", "7")).expect("process.json");
    let error = container.call(&["exec", "--process", process.to_str().expect("path"), &container.id]).error();
    assert!(error.contains("process.json"), "{error}");
}
