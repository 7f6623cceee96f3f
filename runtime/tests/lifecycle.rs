//! The life of a container, through the command line.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Container, can_run, children_of, wait_until};
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
    assert!(message(json!(["/etc"])).contains(r#"exec: "/etc": permission denied: it is a directory"#));
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
        assert_eq!(group.read("pids.max"), "77");
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
        assert!(!inside.contains(group.path().to_str().expect("path")), "the cgroup namespace hides the path");
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

/// As with runc: beside whoever calls, so that the limits of the caller hold for the container too.
#[test]
fn without_a_cgroups_path_the_groups_are_the_callers_own() {
    if !can_run() {
        return;
    }
    let groups = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
        let pairs = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        pairs.map(|(names, path)| (names.to_owned(), PathBuf::from(path))).collect::<BTreeMap<_, _>>()
    };
    let own = groups("self");
    for relative in [None, Some("some/where")] {
        if common::by_systemd() && relative.is_some() {
            continue;
        }
        let container = Container::new("sleep 1000").set("/linux/cgroupsPath", json!(relative.unwrap_or_default()));
        container.create().ok();
        let groups = groups(&container.state()["pid"].to_string());
        let joined: Vec<_> = groups.iter().filter(|(names, path)| own[*names] != **path).collect();
        assert!(!joined.is_empty());
        for (names, path) in &joined {
            if common::by_systemd() {
                assert_eq!(**path, Path::new("/system.slice").join(format!("orlop-{}.scope", container.id)), "{names}");
                continue;
            }
            let own = &own[*names];
            let parent = if names.is_empty() { own.parent().unwrap_or(own) } else { own };
            assert_eq!(**path, parent.join(relative.unwrap_or(&container.id)), "{names}");
        }
        container.call(&["delete", "--force", &container.id]).ok();
        let mounts = std::fs::read_dir("/sys/fs/cgroup").expect("hierarchies").flatten().map(|entry| entry.path());
        for mount in mounts.chain(["/sys/fs/cgroup".into()]) {
            for (_, path) in &joined {
                let folder = mount.join(path.strip_prefix("/").expect("absolute"));
                assert!(!folder.exists(), "{}", folder.display());
            }
        }
    }
}

/// The folder that holds containers of one parent goes with the last of them, whoever made it.
#[test]
fn the_parent_cgroup_is_made_again_when_it_went() {
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

/// Whose processes are in a cgroup is not known from its path: what is refused for being somebody else's must
/// not be cleaned up.
#[test]
fn a_cgroup_of_somebody_else_survives() {
    if !can_run() {
        return;
    }
    let first = Container::new("sleep 1000");
    first.create().ok();
    first.start().ok();
    let survives = || {
        assert_eq!(first.status(), "running");
        assert_eq!(first.exec("true").code, Some(0));
    };
    let own = &first.spec["linux"]["cgroupsPath"];
    for path in [own, &json!("/orlop")] {
        if common::by_systemd() && path != own {
            continue;
        }
        let second = Container::new("true").set("/linux/cgroupsPath", path.clone());
        let error = second.run().error();
        assert!(error.contains("give each container its own linux.cgroupsPath"), "{error}");
        assert!(!second.root().join(&second.id).exists());
        survives();
    }
    // A create that was cut off between its record and its cgroups.
    let cut_off = Container::new("true");
    let record = std::fs::read(first.root().join(&first.id).join("state.json")).expect("record");
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("record");
    record["pid"] = json!(0);
    std::fs::create_dir_all(cut_off.root().join(&cut_off.id)).expect("folder");
    std::fs::write(cut_off.root().join(&cut_off.id).join("state.json"), record.to_string()).expect("record");
    cut_off.call(&["kill", "--all", &cut_off.id, "KILL"]).error();
    cut_off.call(&["delete", "--force", &cut_off.id]).ok();
    survives();
}

#[test]
fn an_empty_cgroup_that_was_left_is_taken_over() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.create().ok();
    let group = container.cgroup("pids").expect("cgroup");
    container.call(&["delete", "--force", &container.id]).ok();
    std::fs::create_dir_all(group.path()).expect("cgroup");
    container.run_detached().ok();
    assert_eq!(container.status(), "running");
}

/// A program can stop whatever is set up in its process namespace; who waits for that must not wait for ever.
#[test]
fn a_process_that_is_stopped_during_its_setup_is_given_up() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec 2>/dev/null; while :; do kill -STOP -1; done");
    container.create().ok();
    container.start().ok();
    // Whether the stop comes in time is a matter of chance; too late, it is the program that is stopped.
    let stopped = |error: &str| error.contains("SIGSTOP");
    let errors = container.folder.path().join("errors");
    wait_until("a stopped exec", || {
        // To files: a program that is stopped would hold pipes open.
        let file = || std::fs::File::create(&errors).expect("errors");
        let mut exec = container.command(&["exec", "--detach", &container.id, "true"]);
        exec.stdout(file()).stderr(file()).status().expect("exec");
        stopped(&std::fs::read_to_string(&errors).expect("errors"))
    });

    let namespace = format!("/proc/{}/ns/pid", container.state()["pid"]);
    let namespaces = json!([{"type": "mount"}, {"type": "uts"}, {"type": "pid", "path": namespace}]);
    let second = Container::new("true").set("/linux/namespaces", namespaces);
    wait_until("a stopped create", || {
        let ran = second.create();
        if ran.code == Some(0) {
            second.call(&["delete", "--force", &second.id]).ok();
        }
        stopped(&ran.stderr)
    });
    assert_eq!(second.left_behind(), Vec::<String>::new());
}

#[test]
fn an_exec_that_dies_in_its_setup_is_not_started() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec 2>/dev/null; while :; do kill -KILL -1; done");
    container.create().ok();
    container.start().ok();
    // How far it comes is a matter of chance.
    wait_until("a death in time", || container.exec("true").stderr.contains("was killed"));
}

#[test]
fn pause_is_for_what_lives_and_sigkill_for_what_is_paused() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.create().ok();
    container.call(&["pause", &container.id]).ok();
    assert_eq!(container.status(), "paused");
    assert!(container.start().error().contains("it is paused"), "frozen, it could not answer");
    container.call(&["resume", &container.id]).ok();
    assert_eq!(container.status(), "created");
    container.start().ok();
    container.call(&["pause", &container.id]).ok();
    container.call(&["kill", &container.id, "KILL"]).ok();
    wait_until("death", || container.status() == "stopped");
    assert!(container.call(&["resume", &container.id]).error().contains("container not running"));
}

/// The limit on memory and swap together must not vanish when memory grows past it.
#[test]
fn more_memory_is_not_more_swap() {
    const MIB: u64 = 1 << 20;
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000")
        .set("/linux/resources", json!({"devices": [], "memory": {"limit": 64 * MIB, "swap": 80 * MIB}}));
    container.create().ok();
    let group = container.cgroup("memory").expect("cgroup");
    if !["memory.memsw.limit_in_bytes", "memory.swap.max"].into_iter().any(|file| group.has(file)) {
        return println!("SKIP: the kernel does not count swap");
    }
    let update = |limits: serde_json::Value| {
        let file = container.folder.path().join("limits.json");
        std::fs::write(&file, json!({"memory": limits}).to_string()).expect("limits");
        container.call(&["update", "-r", file.to_str().expect("path"), &container.id])
    };
    let read = |file: &str| group.read(file).parse::<u64>().expect("number") / MIB;
    // Memory, and memory and swap together.
    let limits = || {
        if group.is_unified() {
            (read("memory.max"), read("memory.max") + read("memory.swap.max"))
        } else {
            (read("memory.limit_in_bytes"), read("memory.memsw.limit_in_bytes"))
        }
    };
    assert_eq!(limits(), (64, 80));
    update(json!({"limit": 128 * MIB})).ok();
    assert_eq!(limits(), (128, 144));
    update(json!({"limit": 256 * MIB, "swap": 300 * MIB})).ok();
    assert_eq!(limits(), (256, 300));
    update(json!({"limit": 400 * MIB, "swap": 350 * MIB})).error();
    assert_eq!(limits(), (256, 300), "all or nothing");
    update(json!({"limit": 100 * MIB, "swap": 100 * MIB})).ok();
    assert_eq!(limits(), (100, 100));
}

#[test]
fn exec_takes_over_what_its_flags_do_not_change() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000")
        .set("/process/user", json!({"uid": 0, "gid": 7}))
        .set("/process/env", json!(["COLOR=red", "PATH=/nowhere", "PATH=/bin"]));
    container.create().ok();
    container.start().ok();
    let ran = container.call(&["exec", "-u", "1000", &container.id, "id"]).ok();
    assert!(ran.contains("uid=1000") && ran.contains("gid=7"), "{ran}");
    let ran = container.call(&["exec", "-e", "COLOR=blue", &container.id, "env"]).ok();
    let count = |what: &str| ran.lines().filter(|line| line.starts_with(what)).count();
    assert_eq!((count("COLOR="), count("COLOR=blue"), count("PATH="), count("PATH=/bin")), (1, 1, 1, 1), "{ran}");
}

#[test]
fn a_hook_need_not_read_its_input() {
    if !can_run() {
        return;
    }
    let big = json!({"big": "x".repeat(200_000)});
    let namespaces = json!([{"type": "mount"}, {"type": "uts"}]);
    let hooks = json!({
        "createContainer": [{"path": "/bin/busybox", "args": ["true"]}],
        "startContainer": [{"path": "/bin/busybox", "args": ["true"]}],
        "poststart": [{"path": "/bin/busybox", "args": ["sh", "-c", "test $(wc -c) -gt 200000"]}]
    });
    let container = Container::new("true")
        .set("/annotations", big.clone())
        .set("/linux/namespaces", namespaces)
        .set("/hooks", hooks);
    container.run().ok();
    // What it does not read does not keep its timeout from beginning.
    let hooks = json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sleep", "1000"], "timeout": 1}]});
    let container = Container::new("true").set("/annotations", big).set("/hooks", hooks);
    assert!(container.create().error().contains("not done within 1 s"));
}

#[test]
fn poststop_hooks_of_a_create_that_failed_and_of_a_delete_that_was_killed() {
    if !can_run() {
        return;
    }
    let container = Container::new("true").set("/hooks", json!({}));
    let log = container.folder.path().join("log");
    let hook = |script: String| json!([{"path": "/bin/busybox", "args": ["sh", "-c", script]}]);
    let container = container
        .set("/hooks/createRuntime", hook("exit 3".to_owned()))
        .set("/hooks/poststop", hook(format!("cat >> {}", log.display())));
    assert!(container.create().error().contains("createRuntime"));
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(&log).expect("log")).expect("state");
    assert_eq!((&state["status"], &state["id"]), (&json!("stopped"), &json!(container.id)));

    // The hook holds the first delete; the next finds nothing but it to be done again.
    let gate = container.folder.path().join("gate");
    let script = format!("echo once >> {}; while ! test -e {}; do :; done", log.display(), gate.display());
    let container = container.set("/hooks", json!({"poststop": hook(script)}));
    std::fs::write(&log, "").expect("log");
    container.run_detached().ok();
    wait_until("end", || container.status() == "stopped");
    let mut delete = container.command(&["delete", &container.id]).spawn().expect("delete");
    wait_until("the hook", || std::fs::read_to_string(&log).expect("log") == "once\n");
    assert!(container.call(&["state", &container.id]).error().contains("does not exist"));
    assert_eq!(container.call(&["list", "--quiet"]).ok(), "");
    delete.kill().expect("kill");
    delete.wait().expect("wait");
    std::fs::write(gate, "").expect("gate");
    container.call(&["delete", &container.id]).ok();
    assert_eq!(std::fs::read_to_string(&log).expect("log"), "once\nonce\n");
    assert!(!container.root().join(&container.id).exists());
}
