//! The life of a container of an ordinary user.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use serde_json::json;

use super::common::wait_until;
use super::user::{ID, NAME, User, can_run, give};

#[test]
fn from_create_to_delete() {
    if !can_run() {
        return;
    }
    let user = User::new("echo started; sleep 1000 & exec sleep 1000");
    user.create().ok();
    let state = user.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["owner"], NAME);
    let folder = std::fs::metadata(user.record()).expect("record");
    assert_eq!((folder.uid(), folder.gid(), folder.mode() & 0o7777), (ID, ID, 0o700));
    let root = std::fs::metadata(user.record().parent().expect("parent")).expect("root");
    assert_eq!(root.permissions().mode() & 0o7777, 0o1700, "without the sticky bit it may be cleaned up");
    // A process can come before the container's own.
    assert_eq!(user.exec("cat /proc/1/comm").ok().lines().count(), 1);

    user.call(&["start", user.id()]).ok();
    wait_until("output", || user.output() == "started\n");
    assert_eq!(user.exec("id -u; id -g; cat /proc/self/setgroups; exit 7").code, Some(7));
    assert_eq!(user.exec("id -u; cat /proc/self/setgroups").ok(), "0\ndeny\n");
    let map = user.exec("cat /proc/self/uid_map /proc/self/gid_map").ok();
    let expected = format!("0 {ID} 1 0 {ID} 1");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    let first = state["pid"].as_u64().expect("pid");
    assert_eq!(std::fs::metadata(format!("/proc/{first}")).expect("process").uid(), ID);

    let pids: Vec<u64> = serde_json::from_str(&user.call(&["ps", "-f", "json", user.id()]).ok()).expect("pids");
    assert!(pids.contains(&first) && pids.len() == 2, "{pids:?}");
    let table = user.call(&["ps", user.id()]).ok();
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(user.call(&["list"]).ok().contains(user.id()));
    let detached = user.command(&["exec", "--detach", user.id(), "sleep", "1000"]).status().expect("exec");
    assert!(detached.success());
    assert!(user.call(&["delete", user.id()]).error().contains("it is running"));
    user.call(&["kill", user.id(), "KILL"]).ok();
    wait_until("death", || user.status() == "stopped");
    user.call(&["delete", user.id()]).ok();
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn all_processes_are_signalled_without_a_cgroup() {
    if !can_run() {
        return;
    }
    let script = "trap 'echo one; exit' TERM; \
                  sh -c 'trap \"echo two; exit\" TERM; echo ready; while :; do sleep 0.01; done' & while :; do wait; done";
    let user = User::new(script).by_cgroupfs();
    user.run_detached();
    wait_until("processes", || user.output() == "ready\n");
    let pids = user.call(&["ps", "-f", "json", user.id()]).ok();
    assert!(serde_json::from_str::<Vec<u32>>(&pids).expect("pids").len() >= 2, "{pids}");
    user.call(&["kill", "--all", user.id(), "TERM"]).ok();
    wait_until("end", || user.status() == "stopped");
    let output = user.output();
    assert!(output.contains("one\n"), "{output}");
    assert!(user.call(&["kill", user.id(), "TERM"]).error().contains("container not running"));
}

/// Without a process namespace either, what is started while the others are killed is found by its parent alone.
#[test]
fn a_family_that_grows_is_killed_whole() {
    if !can_run() {
        return;
    }
    for round in 0..3 {
        let script = "grow() { while :; do sleep 0.003; sh -c 'sleep 1000; :' & done; }; grow & grow & grow";
        let mut user = User::new(script);
        let namespaces = user.container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "pid");
        user.container.spec["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/proc");
        user.run_detached();
        let first = user.state()["pid"].as_i64().expect("pid") as i32;
        let root = std::fs::metadata(format!("/proc/{first}/ns/user")).expect("namespace").ino();
        let count = || {
            let all = std::fs::read_dir("/proc").expect("/proc").flatten();
            all.filter(|entry| std::fs::metadata(entry.path().join("ns/user")).is_ok_and(|meta| meta.ino() == root))
                .count()
        };
        wait_until("growth", || count() > 20);
        user.call(&["delete", "--force", user.id()]).ok();
        wait_until(&format!("the end of all in round {round}"), || count() == 0);
    }
}

#[test]
fn what_a_killed_runtime_or_container_leaves_can_be_deleted() {
    if !can_run() {
        return;
    }
    let user = User::new("exec sleep 1000");
    let mark = user.folder().join("run/mark");
    let script = format!("echo $PPID > {}; exec sleep 1000", mark.display());
    let hook = json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sh", "-c", script]}]});
    let user = user.set("/hooks", hook);
    let mut create = user.create_command(&[]).spawn().expect("create");
    wait_until("the hook", || std::fs::read_to_string(&mark).is_ok_and(|text| text.ends_with('\n')));
    assert_eq!(std::fs::metadata(&mark).expect("mark").uid(), ID, "hooks run as the user");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", create.id())).expect("children");
    create.kill().expect("kill");
    create.wait().expect("wait");
    assert_eq!(user.status(), "creating");
    user.call(&["delete", "--force", user.id()]).ok();
    assert_eq!(user.left_behind(), Vec::<String>::new());
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // The hook is not the container's: nobody but its parent could have ended it.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }

    let user = User::new("exec sleep 1000");
    user.run_detached();
    let pid = user.state()["pid"].as_i64().expect("pid") as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
    wait_until("death", || user.status() == "stopped");
    user.call(&["delete", user.id()]).ok();
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn a_terminal() {
    if !can_run() {
        return;
    }
    let user = User::new("tty; stat -c %u:%a $(tty) /dev/console; echo done").set("/process/terminal", json!(true));
    let path = user.folder().join("run/console.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    give(&path, ID);
    let created = user.create_command(&["--console-socket", path.to_str().expect("path")]).output();
    super::common::Ran::from(created.expect("create")).ok();
    let (connection, _) = listener.accept().expect("connection");
    let mut master = receive(&connection);
    user.call(&["start", user.id()]).ok();
    let mut text = String::new();
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text += &String::from_utf8_lossy(&buffer[..length]);
    }
    // The group 5 that the configuration wants for terminals is not mapped.
    assert_eq!(text, "/dev/pts/0\r\n0:620\r\n0:620\r\ndone\r\n");

    let user = User::new("exec sleep 1000");
    user.run_detached();
    let listener = {
        std::fs::remove_file(user.folder().join("run/console.sock")).ok();
        UnixListener::bind(user.folder().join("run/console.sock")).expect("bind")
    };
    let path = user.folder().join("run/console.sock");
    give(&path, ID);
    let path = path.to_str().expect("path");
    user.call(&["exec", "-d", "-t", "--console-socket", path, user.id(), "tty"]).ok();
    let (connection, _) = listener.accept().expect("connection");
    let mut text = String::new();
    let _ = receive(&connection).read_to_string(&mut text);
    assert_eq!(text, "/dev/pts/0\r\n");
}

/// The descriptor that comes over a console socket.
fn receive(connection: &std::os::unix::net::UnixStream) -> std::fs::File {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::{AsRawFd, FromRawFd, RawFd};
    let mut name = [0; 64];
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut space), flags).expect("message");
    let fds = message.cmsgs().expect("control").find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.into_iter().next(),
        _ => None,
    });
    #[allow(unsafe_code)]
    // SAFETY: the descriptor just arrived and is nobody else's.
    unsafe {
        std::fs::File::from_raw_fd(fds.expect("descriptor"))
    }
}

#[test]
fn a_filter_without_no_new_privs_and_a_time_namespace() {
    if !can_run() {
        return;
    }
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    });
    let user =
        User::new("grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mkdir /tmp/x || cat /proc/self/timens_offsets")
            .set("/linux/seccomp", seccomp)
            .set("/process/noNewPrivileges", json!(false))
            .set("/linux/timeOffsets", json!({"boottime": {"secs": 1000}, "monotonic": {"secs": 7, "nanosecs": 5}}));
    let mut user = user;
    user.container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "time"}));
    let output = user.run().ok();
    let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, "NoNewPrivs: 0 Seccomp: 2 monotonic 7 5 boottime 1000 0");
}

#[test]
fn a_program_of_the_user_is_run_from_a_sealed_copy() {
    if !can_run() {
        return;
    }
    let script = |user: &User| {
        let file = user.folder().join("run/exe");
        let script = format!("readlink /proc/$PPID/exe > {}", file.display());
        (file, json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sh", "-c", script]}]}))
    };
    // Root's program is out of the container's reach.
    let user = User::new("true");
    let (file, hooks) = script(&user);
    let user = user.set("/hooks", hooks);
    user.run().ok();
    assert!(std::fs::read_to_string(file).expect("exe").ends_with("/orlop-runtime\n"));
    let user = User::new("true").own_program();
    let (file, hooks) = script(&user);
    let user = user.set("/hooks", hooks);
    user.run().ok();
    assert!(std::fs::read_to_string(file).expect("exe").starts_with("/memfd:orlop-runtime"));
}

#[test]
fn scores_and_limits_that_an_ordinary_user_may_set() {
    if !can_run() {
        return;
    }
    let user = User::new("cat /proc/self/oom_score_adj; ulimit -n; exec sleep 1000")
        .set("/process/oomScoreAdj", json!(300))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]));
    user.run_detached();
    wait_until("output", || user.output() == "300\n100\n");
    let process = json!({"args": ["cat", "/proc/self/oom_score_adj"], "cwd": "/", "env": ["PATH=/bin"],
                         "user": {"uid": 0, "gid": 0}, "oomScoreAdj": 500});
    let path = user.folder().join("process.json");
    std::fs::write(&path, process.to_string()).expect("process");
    assert_eq!(user.call(&["exec", "-p", path.to_str().expect("path"), user.id()]).ok(), "500\n");
}

#[test]
fn a_container_joins_another() {
    if !can_run() {
        return;
    }
    let first = User::new("exec sleep 1000");
    first.run_detached();
    let pid = first.state()["pid"].as_u64().expect("pid");
    let mut second =
        User::new("for name in user pid net ipc uts; do readlink /proc/self/ns/$name; done; exec sleep 1000");
    let files = [("user", "user"), ("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    for one in second.container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        if let Some((_, file)) = files.iter().find(|(kind, _)| one["type"] == *kind) {
            one["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
    }
    let linux = second.container.spec["linux"].as_object_mut().expect("linux");
    linux.remove("uidMappings");
    linux.remove("gidMappings");
    second.container.spec["hostname"] = json!("");
    second.run_detached();
    wait_until("output", || second.output().lines().count() == 5);
    let namespace = |(_, file): &(&str, &str)| std::fs::read_link(format!("/proc/{pid}/ns/{file}")).expect("namespace");
    let expected: Vec<String> = files.iter().map(|one| namespace(one).display().to_string()).collect();
    assert_eq!(second.output().lines().collect::<Vec<_>>(), expected);
    // It is known by its process only, having neither a cgroup nor a process namespace of its own.
    assert_eq!(second.exec("id -u").ok(), "0\n");
    let pids: Vec<u64> = serde_json::from_str(&second.call(&["ps", "-f", "json", second.id()]).ok()).expect("pids");
    assert_eq!(pids, [second.state()["pid"].as_u64().expect("pid")]);
    second.call(&["kill", second.id(), "KILL"]).ok();
    wait_until("death", || second.status() == "stopped");
    assert_eq!(first.status(), "running");
}

#[test]
fn nobody_is_root() {
    if !can_run() {
        return;
    }
    let ids = json!([{"containerID": 1000, "hostID": ID, "size": 1}]);
    let user = User::new("id; stat -c %u /dev /dev/shm /tmp; touch /tmp/x; exec sleep 1000")
        .set("/linux/uidMappings", ids.clone())
        .set("/linux/gidMappings", ids)
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    user.run_detached();
    wait_until("output", || user.output().lines().count() == 4);
    assert_eq!(user.output(), "uid=1000(web) gid=1000\n1000\n1000\n1000\n");
    assert_eq!(user.exec("id -u").ok(), "1000\n");
    wait_until("file", || user.container.rootfs().join("tmp/x").exists());
    assert_eq!(std::fs::metadata(user.container.rootfs().join("tmp/x")).expect("file").uid(), ID);
}
