//! The stream of `events`: out of memory, the end, and the members of the statistics.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Container, by_systemd, can_run, is_unified, wait_until};

/// `events` with an hour between statistics, which it must not wait for.
fn stream(container: &Container) -> Child {
    let mut command = container.command(&["events", "--interval", "1h", &container.id]);
    command.stdout(Stdio::piped()).spawn().expect("run orlop-runtime")
}

/// A container whose memory is used up when the file /go is there: by a process, or by its first one.
fn hungry(first: bool) -> Container {
    let hog = "/bin/busybox sh -c 'x=0123456789abcdef; while true; do x=$x$x; done'";
    let hog = if first { format!("exec {hog}") } else { format!("{hog}; exec sleep 1000") };
    Container::new(&format!("while ! test -e /go; do sleep 0.05; done; {hog}"))
        .set("/linux/resources/memory", json!({"limit": 16 << 20, "swap": 16 << 20}))
}

/// Starts a container and waits until `events` has begun to listen.
fn listening(container: &Container) -> Child {
    container.run_detached().ok();
    let child = stream(container);
    let sleeps_in = format!("/proc/{}/wchan", child.id());
    wait_until("events to listen", || std::fs::read_to_string(&sleeps_in).is_ok_and(|place| place.contains("poll")));
    child
}

/// All lines of the stream, which must end by itself.
fn lines(child: &mut Child) -> Vec<String> {
    let output = child.stdout.take().expect("stdout");
    let lines = BufReader::new(output).lines().map(|line| line.expect("a line")).collect();
    assert!(child.wait().expect("wait").success());
    lines
}

fn oom(container: &Container) -> String {
    format!(r#"{{"type":"oom","id":"{}"}}"#, container.id)
}

#[test]
fn a_process_is_killed_for_memory() {
    if !can_run() {
        return;
    }
    let container = hungry(false);
    let mut events = listening(&container);
    std::fs::write(container.rootfs().join("go"), "").expect("go");
    let mut reader = BufReader::new(events.stdout.take().expect("stdout"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(line.trim_end(), oom(&container));
    assert_eq!(container.status(), "running", "only the hog died");
    container.call(&["kill", &container.id, "KILL"]).ok();
    // The end comes without statistics, for which there is an hour left.
    let rest: Vec<String> = reader.lines().map(|line| line.expect("a line")).collect();
    assert!(rest.iter().all(|line| *line == oom(&container)), "{rest:?}");
    assert!(events.wait().expect("wait").success());
}

#[test]
fn the_first_process_is_killed_for_memory() {
    if !can_run() {
        return;
    }
    let container = hungry(true);
    let mut events = listening(&container);
    std::fs::write(container.rootfs().join("go"), "").expect("go");
    let lines = lines(&mut events);
    assert!(!lines.is_empty() && lines.iter().all(|line| *line == oom(&container)), "{lines:?}");
}

/// systemd removes a group as soon as it is empty, and who listens may be late.
#[test]
fn who_listens_late_hears_of_a_kill_for_memory() {
    if !can_run() {
        return;
    }
    if !by_systemd() || !is_unified() {
        println!("SKIP: needs ORLOP_TEST_CGROUPS=systemd, and cgroup v2");
        return;
    }
    let container = hungry(true);
    let mut events = listening(&container);
    let group = container.cgroup("memory").expect("a group").path().to_owned();
    let listener = Pid::from_raw(events.id() as i32);
    kill(listener, Signal::SIGSTOP).expect("stop");
    std::fs::write(container.rootfs().join("go"), "").expect("go");
    wait_until("the end", || container.status() == "stopped");
    wait_until("the end of the group", || !group.exists());
    kill(listener, Signal::SIGCONT).expect("continue");
    let lines = lines(&mut events);
    assert!(!lines.is_empty() && lines.iter().all(|line| *line == oom(&container)), "{lines:?}");
}

/// The end of the cgroup is told to who listens in the same way as out of memory is.
#[test]
fn a_container_that_is_deleted_was_not_out_of_memory() {
    if !can_run() {
        return;
    }
    let container = hungry(false);
    let mut events = listening(&container);
    container.call(&["delete", "--force", &container.id]).ok();
    assert_eq!(lines(&mut events), Vec::<String>::new());
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let mut command = container.command(&["events", "--interval", "10ms", &container.id]);
    let mut events = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run orlop-runtime");
    drop(events.stdout.take());
    let output = events.wait_with_output().expect("wait");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && errors.contains("standard output: Broken pipe"), "{output:?}");
}

/// The paths of all members, lists counted as one.
fn members(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                all.insert(format!("{path}/{name}"));
                members(value, &format!("{path}/{name}"), all);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| members(value, path, all)),
        _ => (),
    }
}

#[test]
fn statistics_have_the_members_of_runc() {
    if !can_run() {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        return println!("SKIP: runc is not installed");
    }
    let container = Container::new("cat /bin/busybox >/tmp/copy; sleep 1000")
        .set("/linux/resources", json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}));
    container.run_detached().ok();
    let stats = |ran: String| -> BTreeSet<String> {
        let event: Value = serde_json::from_str(&ran).expect("JSON");
        let mut all = BTreeSet::new();
        members(&event, "", &mut all);
        // Counters are left out at 0, and memory.stat is the kernel's.
        all.retain(|path| !path.starts_with("/data/memory/raw/") && !path.starts_with("/data/blkio/"));
        // There since runc 1.2, where the kernel tells of pressure; and since 1.1.15 of version 2.
        all.retain(|path| !path.contains("/psi") && path != "/data/memory/usage/max");
        all
    };
    let ours = stats(container.call(&["events", "--stats", &container.id]).ok());
    let root = container.folder.path().join("runc");
    let runc = |arguments: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&root).args(arguments).current_dir(container.folder.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let name = format!("{}-runc", container.id);
    let mut other = container.spec.clone();
    other["linux"]["cgroupsPath"] = format!("/{name}").into();
    std::fs::write(container.folder.path().join("config.json"), other.to_string()).expect("config.json");
    assert!(runc(&["run", "--detach", &name]).stdout(Stdio::null()).status().expect("runc").success());
    let output = runc(&["events", "--stats", &name]).output().expect("runc");
    assert!(runc(&["delete", "--force", &name]).status().expect("runc").success());
    let theirs = stats(String::from_utf8(output.stdout).expect("text"));
    // runc takes part in every hierarchy, a container of ours in cpuset only for a limit. Older ones print the
    // limits of what the kernel no longer counts.
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
        let may_differ =
            ["/data/cpuset/", "/data/hugetlb/", "/data/memory/kernel", "/data/memory/cache", "/data/memory/swap"];
        one.difference(other).filter(|path| !may_differ.iter().any(|known| path.starts_with(known))).cloned().collect()
    };
    assert_eq!(only(&theirs, &ours), Vec::<String>::new(), "what runc has and we have not");
    assert_eq!(only(&ours, &theirs), Vec::<String>::new(), "what we have and runc has not");
}
