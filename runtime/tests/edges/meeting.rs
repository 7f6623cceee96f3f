//! Commands that meet.

use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::common::{Container, can_run};

/// An exec that has read the container's record, and an update that takes the container to another hierarchy
/// before the new process is there to be taken along.
#[test]
fn exec_and_an_update_that_joins_a_hierarchy() {
    if !can_run() {
        return;
    }
    let base = PathBuf::from("/sys/fs/cgroup/cpuset");
    if !base.is_dir() {
        return println!("SKIP: no cpuset hierarchy of cgroup v1");
    }
    let parent = base.join(format!("orlop-test-meets-{}", std::process::id()));
    let path = format!("/orlop-test-meets-{}/box", std::process::id());
    let container = Container::new("sleep 1000").set("/linux/cgroupsPath", json!(path));
    container.run_detached().ok();
    assert!(!parent.exists(), "nothing is limited there");
    let process = container.folder.path().join("process.json");
    let args = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": ["sleep", "1000"]});
    std::fs::write(&process, args.to_string()).expect("process.json");
    // Between the record and the new process, exec reads the configuration: it waits for that here.
    let config = container.root().join(&container.id).join("config.json");
    let text = std::fs::read(&config).expect("config.json");
    std::fs::remove_file(&config).expect("remove");
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
    let number = container.folder.path().join("pid");
    let flags = ["exec", "--detach", "--pid-file", number.to_str().expect("path"), "--process"];
    let all = [&flags[..], &[process.to_str().expect("path"), &container.id]].concat();
    let mut exec = container.command(&all).spawn().expect("exec");
    let mut writer = std::fs::OpenOptions::new().write(true).open(&config).expect("exec reads the configuration");
    container.call(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", &container.id]).ok();
    std::fs::remove_file(&config).expect("remove");
    std::fs::write(&config, &text).expect("config.json");
    writer.write_all(&text).expect("write");
    drop(writer);
    assert!(exec.wait().expect("exec").success());
    let pid = std::fs::read_to_string(number).expect("pid");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    assert!(groups.contains(&format!("cpuset:{path}\n")), "{groups}");
}
