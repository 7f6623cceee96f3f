//! Inheritable capabilities that nobody asked for (CVE-2022-27650, CVE-2022-29162).

use serde_json::json;

use crate::common::{Container, can_run};

const LOOK: &str = "grep -E '^Cap(Inh|Amb):' /proc/self/status";
const NONE: &str = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";

#[test]
fn nothing_is_inheritable_that_was_not_asked_for() {
    if !can_run() {
        return;
    }
    for uid in [0, 1000] {
        let user = json!({"uid": uid, "gid": uid});
        assert_eq!(Container::new(LOOK).set("/process/user", user.clone()).run().ok(), NONE, "run as {uid}");
        let container = Container::new("exec sleep 1000").set("/process/user", user);
        container.run_detached().ok();
        for flags in [&[][..], &["--cap", "CAP_NET_RAW"], &["--user", "0"], &["--user", "1000", "--cap", "CAP_NET_RAW"]]
        {
            let call = [&["exec"], flags, &[container.id.as_str(), "sh", "-c", LOOK]].concat();
            assert_eq!(container.call(&call).ok(), NONE, "{call:?} beside {uid}");
        }
        let process = container.folder.path().join("process.json");
        let mut wanted = container.spec["process"].clone();
        wanted["args"] = json!(["sh", "-c", LOOK]);
        std::fs::write(&process, wanted.to_string()).expect("file");
        let ran = container.call(&["exec", "-p", process.to_str().expect("path"), &container.id]);
        assert_eq!(ran.ok(), NONE, "process.json beside {uid}");
    }
}

/// What the caller of the runtime has of them is not handed on either.
#[test]
fn what_the_caller_inherits_ends_at_the_container() {
    if !can_run() {
        return;
    }
    let container = Container::new(LOOK);
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let mut run = std::process::Command::new("setpriv");
    run.args(["--inh-caps", "+net_raw,+chown", "--ambient-caps", "+net_raw", "--"]);
    run.arg(crate::common::program()).arg("--root").arg(container.root()).args(["run", "-b", bundle, &container.id]);
    match run.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => println!("SKIP: setpriv is missing (util-linux)"),
        output => assert_eq!(String::from_utf8_lossy(&output.expect("setpriv").stdout), NONE),
    }
}

#[test]
fn the_example_configuration_makes_nothing_inheritable() {
    let folder = tempfile::tempdir().expect("folder");
    let container = Container::new("");
    container.call(&["spec", "--bundle", folder.path().to_str().expect("path")]).ok();
    let config = std::fs::read_to_string(folder.path().join("config.json")).expect("config.json");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    for set in ["inheritable", "ambient"] {
        assert!(config["process"]["capabilities"][set].as_array().is_none_or(Vec::is_empty), "{set}");
    }
}
