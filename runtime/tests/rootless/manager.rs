//! Cgroups from the user's own systemd, which has those that are delegated to it.

use std::path::PathBuf;

use serde_json::json;

use super::common::wait_until;
use super::user::{ID, User, can_run, has_manager, manager_group};

fn can() -> bool {
    if !can_run() {
        return false;
    }
    if !has_manager() {
        println!("SKIP: needs ORLOP_TEST_CGROUPS=systemd, and a user {ID} who may have a systemd");
    }
    has_manager()
}

/// The folder of the container's scope, in the slice that a scope has by default.
fn scope(user: &User) -> PathBuf {
    manager_group().join(format!("user.slice/orlop-{}.scope", user.id()))
}

fn read(user: &User, file: &str) -> String {
    std::fs::read_to_string(scope(user).join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

#[test]
fn limits_are_set_and_changed() {
    if !can() {
        return;
    }
    let limits =
        json!({"pids": {"limit": 50}, "memory": {"limit": 64 << 20}, "cpu": {"quota": 20000, "period": 100_000}});
    let user = User::new("cat /proc/self/cgroup; sleep 1000 & exec sleep 1000").set("/linux/resources", limits);
    user.run_detached();
    wait_until("output", || user.output() == "0::/\n");
    let are = || ["pids.max", "memory.max", "cpu.max"].map(|file| read(&user, file));
    assert_eq!(are(), ["50", "67108864", "20000 100000"]);
    user.call(&["update", "--pids-limit", "60", user.id()]).ok();
    assert_eq!(read(&user, "pids.max"), "60");
    let pids = || user.call(&["ps", "-f", "json", user.id()]).ok();
    wait_until("two processes", || serde_json::from_str::<Vec<u32>>(&pids()).expect("pids").len() == 2);
    user.call(&["pause", user.id()]).ok();
    assert_eq!(user.status(), "paused");
    user.call(&["resume", user.id()]).ok();
    assert_eq!(user.exec("cat /proc/self/cgroup").ok(), "0::/\n");
    let stats = user.call(&["events", "--stats", user.id()]).ok();
    assert!(stats.contains("\"limit\":60"), "{stats}");
    user.call(&["kill", "--all", user.id(), "KILL"]).ok();
    wait_until("death", || user.status() == "stopped");
    user.call(&["delete", user.id()]).ok();
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

/// As in a session of sshd's: its group is not below the one that the user's systemd has.
#[test]
fn a_caller_outside_of_the_delegated_group() {
    if !can() {
        return;
    }
    let mut user = User::new("cat /proc/self/cgroup; exec sleep 1000");
    user.cgroup = None;
    user.run_detached();
    wait_until("output", || user.output() == "0::/\n");
    let pid = user.state()["pid"].to_string();
    wait_until("nobody else", || read(&user, "cgroup.procs") == pid);
    assert_eq!(user.exec("cat /proc/self/cgroup").ok(), "0::/\n");
    user.call(&["delete", "--force", user.id()]).ok();
    assert_eq!(user.left_behind(), Vec::<String>::new());
}
