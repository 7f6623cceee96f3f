//! More than the own id: mapped by newuidmap and newgidmap.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::json;

use super::common::wait_until;
use super::user::{ID, NAME, RANGE, User, can_run};

fn can_map() -> bool {
    let there = ["newuidmap", "newgidmap"].iter().all(|tool| Command::new(tool).output().is_ok());
    if !there {
        println!("SKIP: newuidmap and newgidmap are missing; install uidmap");
    }
    there && can_run()
}

#[test]
fn a_range_of_ids() {
    if !can_map() {
        return;
    }
    let script = "id; cat /proc/self/setgroups; cat /proc/self/uid_map; touch /tmp/new; exec sleep 1000";
    let user = User::with_range(script)
        .set("/process/user", json!({"uid": 33, "gid": 44, "additionalGids": [5, 66]}))
        .set("/hooks", json!({}));
    std::fs::set_permissions(user.container.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("chmod");
    user.create().ok();
    // Also the first process of another user can be joined before it runs its program.
    assert_eq!(user.exec("id -u").ok(), "33\n");
    user.call(&["start", user.id()]).ok();
    wait_until("output", || user.output().ends_with("65536\n"));
    let words = user.output().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, format!("uid=33 gid=44 groups=5,66 allow 0 {ID} 1 1 {RANGE} 65536"));
    wait_until("file", || user.container.rootfs().join("tmp/new").exists());
    let new = std::fs::metadata(user.container.rootfs().join("tmp/new")).expect("file");
    assert_eq!((new.uid(), new.gid()), (RANGE + 32, RANGE + 43));
    let id = user.call(&["exec", "-u", "7:8", "-g", "9", user.id(), "id"]).ok();
    assert_eq!(id, "uid=7 gid=8 groups=5,9,66\n");
    let state = user.state();
    let pid = state["pid"].as_u64().expect("pid");
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/stat")).map(|meta| meta.uid()).ok(), Some(RANGE + 32));
    // Its owner on the host has another number: it is the user's by being in a user namespace of theirs.
    user.call(&["kill", user.id(), "KILL"]).ok();
    wait_until("death", || user.status() == "stopped");
    user.call(&["delete", user.id()]).ok();
    std::fs::remove_file(user.container.rootfs().join("tmp/new")).expect("remove");
}

#[test]
fn a_terminal_of_the_group_that_is_wanted() {
    if !can_map() {
        return;
    }
    // Group 5 is mapped here.
    let output = User::with_range("grep devpts /proc/self/mountinfo").run().ok();
    // The kernel names it as the host's or as the container's.
    let group = |id: u32| output.contains(&format!(",gid={id},"));
    assert!(group(5) || group(RANGE + 4), "{output}");
}

#[test]
fn why_not() {
    if !can_map() {
        return;
    }
    let user = User::with_range("true");
    user.grant("subuid", &format!("{NAME}:{RANGE}:1000\nother:{RANGE}:65536\n"));
    let error = user.run().error();
    let line = format!("add a line {NAME}:{RANGE}:65536");
    for word in ["linux.uidMappings[1]", "/etc/subuid", "newuidmap: uid range", &line] {
        assert!(error.contains(word), "{word}: {error}");
    }
    user.grant("subuid", &format!("{NAME}:{RANGE}:65536\n"));
    user.grant("subgid", "");
    let error = user.run().error();
    assert!(error.contains("linux.gidMappings[1]") && error.contains("/etc/subgid"), "{error}");
    assert_eq!(user.left_behind(), Vec::<String>::new());

    let mut user = User::with_range("true");
    user.tools = "/nowhere".to_owned();
    let error = user.run().error();
    for word in ["map linux.uidMappings by newuidmap", "not found in PATH", "uidmap", &format!("\"hostID\": {ID}")] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!(user.left_behind(), Vec::<String>::new());
}
