//! The life of a container, through the command line.

mod common;

use common::{Container, can_run, wait_until};
use serde_json::json;

#[test]
fn create_start_state_kill_delete() {
    if !can_run() {
        return;
    }
    let container = Container::new("echo started; exec sleep 1000");
    container.create().ok();
    let state = container.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["ociVersion"], "1.3.0");
    assert_eq!(state["id"], container.id.as_str());
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 1));
    assert_eq!(container.output(), "");
    assert!(container.create().error().contains("already exists"));

    container.start().ok();
    assert_eq!(container.status(), "running");
    wait_until("output", || container.output() == "started\n");
    assert!(container.start().error().contains("it is running"));
    assert!(container.call(&["delete", &container.id]).error().contains("it is running"));
    let pids = container.call(&["ps", "--format", "json", &container.id]).ok();
    assert_eq!(pids.trim(), format!("[{}]", state["pid"]));

    container.call(&["kill", &container.id, "KILL"]).ok();
    wait_until("death", || container.status() == "stopped");
    assert_eq!(container.state()["pid"], 0);
    assert!(container.call(&["kill", &container.id, "TERM"]).error().contains("container not running"));
    container.call(&["delete", &container.id]).ok();
    assert!(container.call(&["state", &container.id]).error().contains("does not exist"));
    assert!(container.call(&["delete", &container.id]).error().contains("does not exist"));
    container.call(&["delete", "--force", &container.id]).ok();
}

#[test]
fn a_created_container_can_be_deleted() {
    if !can_run() {
        return;
    }
    let container = Container::new("true");
    container.create().ok();
    container.call(&["delete", &container.id]).ok();
    assert_eq!(container.left_behind(), Vec::<String>::new());
}

#[test]
fn exit_codes() {
    if !can_run() {
        return;
    }
    assert_eq!(Container::new("exit 7").run().code, Some(7));
    assert_eq!(Container::new("true").run().code, Some(0));
    // In its own process namespace the first process can only be killed from outside.
    let container =
        Container::new("kill -KILL $$").set("/linux/namespaces", json!([{"type": "mount"}, {"type": "uts"}]));
    assert_eq!(container.run().code, Some(128 + 9));
}

#[test]
fn programs_that_cannot_be_executed() {
    if !can_run() {
        return;
    }
    let message = |args: serde_json::Value| Container::new("").set("/process/args", args).run().error();
    assert!(message(json!(["nope"])).contains(r#"exec: "nope": executable file not found in $PATH"#));
    assert!(message(json!(["/nope"])).contains(r#"exec: "/nope": stat /nope: no such file or directory"#));
    assert!(message(json!(["/etc/passwd"])).contains(r#"exec: "/etc/passwd": permission denied"#));
    assert!(message(json!(["/etc"])).contains(r#"exec: "/etc": is a directory"#));

    // With create and start it is start that fails.
    let container = Container::new("").set("/process/args", json!(["nope"]));
    container.create().ok();
    assert!(container.start().error().contains("executable file not found in $PATH"));
    wait_until("end", || container.status() == "stopped");
}

#[test]
fn json_log() {
    if !can_run() {
        return;
    }
    let container = Container::new("").set("/process/args", json!(["nope"]));
    container.write_config();
    let log = container.folder.path().join("log.json");
    let (bundle, log_path) = (container.folder.path().to_str().expect("path"), log.to_str().expect("path"));
    container.call(&["--log", log_path, "--log-format", "json", "run", "-b", bundle, &container.id]).error();
    let text = std::fs::read_to_string(log).expect("log");
    let record: serde_json::Value = serde_json::from_str(text.lines().next().expect("line")).expect("json");
    assert_eq!(record["level"], "error");
    assert_eq!(record["msg"], r#"exec: "nope": executable file not found in $PATH"#);
    assert!(record["time"].as_str().is_some_and(|time| time.ends_with('Z')));
}

#[test]
fn a_failing_create_leaves_nothing() {
    if !can_run() {
        return;
    }
    let container = Container::new("true")
        .add_mount(json!({"destination": "/x", "source": "/no/such/source", "options": ["bind"]}));
    let message = container.create().error();
    assert!(message.contains("/no/such/source"), "{message}");
    assert_eq!(container.left_behind(), Vec::<String>::new());
    let container = Container::new("true").set("/linux/intelRdt", json!({}));
    assert!(container.create().error().contains("linux.intelRdt is not supported"));
    assert!(!container.root().exists(), "it is refused before anything is made");
}

#[test]
fn a_runtime_killed_during_create_can_be_cleaned_up() {
    if !can_run() {
        return;
    }
    // The hook holds create where everything is half made.
    let container = Container::new("true").set("/hooks", json!({}));
    let mark = container.folder.path().join("mark");
    let script = format!("touch {}; exec sleep 1000", mark.display());
    let container =
        container.set("/hooks/createRuntime", json!([{"path": "/bin/busybox", "args": ["sh", "-c", script]}]));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let mut create = container.command(&["create", "-b", bundle, &container.id]).spawn().expect("create");
    wait_until("the hook", || mark.exists());
    let hook = children_of(create.id());
    create.kill().expect("kill");
    create.wait().expect("wait");
    assert_eq!(container.status(), "creating");
    container.call(&["delete", "--force", &container.id]).ok();
    assert_eq!(container.left_behind(), Vec::<String>::new());
    for pid in hook {
        // The hook is not the container's: nobody but its parent could have ended it.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

fn children_of(pid: u32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn without_a_pid_namespace_all_processes_are_killed() {
    if !can_run() {
        return;
    }
    let namespaces = json!([{"type": "mount"}, {"type": "uts"}]);
    let container = Container::new("sleep 1000 & sleep 1000 & wait").set("/linux/namespaces", namespaces);
    container.create().ok();
    container.start().ok();
    let count = || {
        let pids = container.call(&["ps", "-f", "json", &container.id]).ok();
        serde_json::from_str::<Vec<i32>>(&pids).expect("pids").len()
    };
    wait_until("three processes", || count() == 3);
    container.call(&["kill", &container.id, "KILL"]).ok();
    wait_until("no process", || count() == 0);
    container.call(&["delete", &container.id]).ok();
}

#[test]
fn pause_update_resume() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.create().ok();
    container.start().ok();
    container.call(&["pause", &container.id]).ok();
    assert_eq!(container.status(), "paused");
    assert!(container.exec("true").error().contains("it is paused"));
    container.call(&["resume", &container.id]).ok();
    assert_eq!(container.status(), "running");
    let limits = container.folder.path().join("limits.json");
    std::fs::write(&limits, r#"{"pids":{"limit":77}}"#).expect("limits");
    container.call(&["update", "-r", limits.to_str().expect("path"), &container.id]).ok();
    if let Some(group) = container.cgroup("pids") {
        assert_eq!(std::fs::read_to_string(group.join("pids.max")).expect("pids.max").trim(), "77");
    }
    container.call(&["pause", &container.id]).ok();
    // A frozen container can be removed too.
    container.call(&["delete", "--force", &container.id]).ok();
}

#[test]
fn exec_in_a_container() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    assert!(container.exec("true").error().contains("does not exist"));
    container.create().ok();
    container.start().ok();
    assert_eq!(container.exec("exit 9").code, Some(9));
    assert_eq!(container.exec("hostname").ok(), "box\n");
    assert_eq!(container.exec("readlink /proc/1/exe").ok(), "/bin/busybox\n");
    let missing = container.call(&["exec", &container.id, "nope"]);
    assert_eq!(missing.code, Some(255));
    assert!(missing.stderr.contains(r#"exec: "nope": executable file not found in $PATH"#));
    let user = container.call(&["exec", "-u", "1000:50", "-g", "7", &container.id, "id"]).ok();
    assert!(user.contains("uid=1000") && user.contains("gid=50") && user.contains("groups=7"), "{user}");
    let env =
        container.call(&["exec", "-e", "COLOR=red", "--cwd", "/tmp", &container.id, "sh", "-c", "echo $COLOR $PWD"]);
    assert_eq!(env.ok(), "red /tmp\n");
    if let Some(group) = container.cgroup("pids") {
        let inside = container.exec("cat /proc/self/cgroup").ok();
        assert!(!inside.contains(group.to_str().expect("path")), "the cgroup namespace hides the path");
    }
    assert_eq!(container.exec("grep -c . /proc/self/cgroup >/dev/null; ls /proc/self/fd").ok(), "0\n1\n2\n3\n");
}

#[test]
fn hooks_of_all_kinds() {
    if !can_run() {
        return;
    }
    let container = Container::new("echo program >> /trace");
    let trace = container.rootfs().join("trace");
    let hook = |name: &str, path: &str| {
        let script = format!("read state; echo {name} $state >> {path}");
        json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "timeout": 20}])
    };
    let outside = trace.to_str().expect("path").to_owned();
    let hooks = json!({
        "prestart": hook("prestart", &outside),
        "createRuntime": hook("createRuntime", &outside),
        "createContainer": hook("createContainer", &outside),
        "startContainer": hook("startContainer", "/trace"),
        "poststart": hook("poststart", &outside),
        "poststop": hook("poststop", &outside),
    });
    let container = container.set("/hooks", hooks);
    container.create().ok();
    container.start().ok();
    wait_until("end", || container.status() == "stopped");
    container.call(&["delete", &container.id]).ok();
    let text = std::fs::read_to_string(&trace).expect("trace");
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    // The program and poststart race.
    names.retain(|name| *name != "program");
    assert_eq!(names, ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]);
    let status = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        let state: serde_json::Value = serde_json::from_str(&line[name.len()..]).expect("state");
        state["status"].as_str().expect("status").to_owned()
    };
    assert_eq!(status("createRuntime"), "creating");
    assert_eq!(status("startContainer"), "created");
    assert_eq!(status("poststart"), "running");
    assert_eq!(status("poststop"), "stopped");
}

#[test]
fn a_failing_hook_fails_create() {
    if !can_run() {
        return;
    }
    let hooks = json!({"createContainer": [{"path": "/bin/busybox", "args": ["false"]}]});
    let container = Container::new("true").set("/hooks", hooks);
    assert!(container.create().error().contains("run createContainer hook"));
    assert_eq!(container.left_behind(), Vec::<String>::new());
    let hooks = json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sleep", "1000"], "timeout": 1}]});
    let container = Container::new("true").set("/hooks", hooks);
    assert!(container.create().error().contains("not done within 1 s"));
}

/// The folder that holds containers without a cgroupsPath goes with the last of them, whoever made it.
#[test]
fn the_default_parent_cgroup_is_made_again_when_it_went() {
    if !can_run() {
        return;
    }
    let workers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..5 {
                    let container = Container::new("true");
                    container.run().ok();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("containers");
    }
}
