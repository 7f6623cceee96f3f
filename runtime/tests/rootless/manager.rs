//! Cgroups from the user's own systemd, which has those that are delegated to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

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

/// Neither the container's unit stays nor, when the caller has one of its own, that.
#[test]
fn a_create_that_is_killed_leaves_no_unit() {
    if !can() {
        return;
    }
    let transient =
        |user: &User| Path::new("/run/user").join(format!("{ID}/systemd/transient/orlop-{}.scope", user.id()));
    let moments: [&dyn Fn(&User) -> bool; 4] = [
        &|user| user.record().join("state.json").exists(),
        &|user| transient(user).exists(),
        &|user| scope(user).join("cgroup.procs").exists(),
        &|user| user.record().join("config.json").exists(),
    ];
    for (number, come) in moments.into_iter().enumerate() {
        let mut user = User::new("sleep 1000");
        if number % 2 == 1 {
            user.cgroup = None;
        }
        let mut create = user.create_command(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("create");
        wait_until("the moment", || come(&user));
        create.kill().expect("kill");
        create.wait().expect("wait");
        user.call(&["delete", "--force", user.id()]).ok();
        assert_eq!(user.left_behind(), Vec::<String>::new());
        wait_until("the unit is forgotten", || !transient(&user).exists());
        wait_until("no caller has a unit", || callers_scopes().is_empty());
    }
}

/// As after su, or by cron: the user's systemd is not where it is looked for.
#[test]
fn without_a_way_to_the_manager() {
    if !can() {
        return;
    }
    let user = User::new("sleep 1000");
    std::fs::remove_file(user.folder().join("run/systemd")).expect("link");
    let error = user.create().error();
    assert!(error.contains("connect to systemd at"), "{error}");
    user.call(&["delete", "--force", user.id()]).ok();
    assert!(!user.record().exists(), "{error}");
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

/// The units that callers have got. Another test's may be among them for a moment.
fn callers_scopes() -> Vec<String> {
    let slices = [manager_group(), manager_group().join("app.slice"), manager_group().join("user.slice")];
    let entries = slices.iter().filter_map(|slice| std::fs::read_dir(slice).ok()).flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("orlop-runtime-")).collect()
}
