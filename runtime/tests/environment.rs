//! What a program finds in its container.

mod common;

use common::{Container, can_run, wait_until};
use serde_json::json;

#[track_caller]
fn output(container: &Container) -> String {
    container.run().ok()
}

#[test]
fn masked_and_read_only_paths() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/keys; ls /proc/acpi; stat -c '%t:%T' /proc/keys; (echo 1 > /proc/sys/kernel/shmmax) 2>&1";
    let container = Container::new(script);
    let ran = container.run();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    // /proc/keys is the null device: empty, and character 1:3.
    assert_eq!(lines.first(), Some(&"1:3"), "{}", ran.stdout);
    assert!(ran.stdout.contains("Read-only file system"), "{}", ran.stdout);
}

#[test]
fn read_only_root() {
    if !can_run() {
        return;
    }
    let container = Container::new("(touch /x) 2>&1; touch /dev/shm/x && echo fine").set("/root/readonly", json!(true));
    assert_eq!(output(&container), "touch: /x: Read-only file system\nfine\n");
}

#[test]
fn credentials() {
    if !can_run() {
        return;
    }
    let script =
        "id; grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status; umask; echo $HOME; pwd";
    let container = Container::new(script)
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o77}))
        .set("/process/cwd", json!("/made/for/it"));
    let text = output(&container);
    assert!(text.contains("uid=1000") && text.contains("gid=1001") && text.contains("groups=5,6"), "{text}");
    assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
    // Changing the user empties what is in effect; what may come back by file capabilities is bounded.
    assert!(text.contains("CapBnd:\t00000000000000e1"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    assert!(text.ends_with("0077\n/home/web\n/made/for/it\n"), "{text}");
}

#[test]
fn root_has_the_capabilities_of_the_spec() {
    if !can_run() {
        return;
    }
    let text = output(&Container::new("grep Cap /proc/self/status"));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(text.contains(&format!("{set}:\t00000000000000e1")), "{text}");
    }
    let ambient = json!(["CAP_CHOWN"]);
    let sets = json!({"bounding": ambient, "effective": ambient, "permitted": ambient, "inheritable": ambient, "ambient": ambient});
    let container = Container::new("grep Cap /proc/self/status")
        .set("/process/capabilities", sets)
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert!(output(&container).contains("CapEff:\t0000000000000001"));
}

#[test]
fn rlimits_and_oom_score() {
    if !can_run() {
        return;
    }
    let container = Container::new("ulimit -n; ulimit -H -n; cat /proc/self/oom_score_adj")
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
        .set("/process/oomScoreAdj", json!(321));
    assert_eq!(output(&container), "100\n200\n321\n");
    let twice =
        json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]);
    assert!(Container::new("true").set("/process/rlimits", twice).run().error().contains("RLIMIT_NOFILE"));
}

#[test]
fn seccomp() {
    if !can_run() {
        return;
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    });
    for no_new_privs in [true, false] {
        let container = Container::new("(mkdir /x) 2>&1; grep '^Seccomp:' /proc/self/status")
            .set("/linux/seccomp", profile.clone())
            .set("/process/noNewPrivileges", json!(no_new_privs));
        let text = output(&container);
        assert!(text.contains("No space left on device"), "{text}");
        assert!(text.contains("Seccomp:\t2"), "{text}");
    }
    let container = Container::new("sleep 1000").set("/linux/seccomp", profile);
    container.create().ok();
    container.start().ok();
    assert!(container.exec("mkdir /x").error().contains("No space left on device"));
}

#[test]
fn descriptors_of_the_caller_do_not_leak() {
    if !can_run() {
        return;
    }
    let container = Container::new("ls /proc/self/fd");
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path").to_owned();
    let program = env!("CARGO_BIN_EXE_orlop-runtime");
    let root = container.root();
    let call = |more: &str| {
        let line = format!(
            "exec 7</ ; exec 3</etc ; {program} --root {} run {more} -b {bundle} {}",
            root.display(),
            container.id
        );
        let output = std::process::Command::new("/bin/busybox").args(["sh", "-c", &line]).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(call(""), "0\n1\n2\n3\n", "3 is the folder that ls reads");
    assert_eq!(call("--preserve-fds 1"), "0\n1\n2\n3\n4\n");
}

#[test]
fn a_working_directory_outside_is_refused() {
    if !can_run() {
        return;
    }
    for number in 3..16 {
        let container = Container::new("pwd; ls").set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let ran = container.run();
        assert_ne!(ran.code, Some(0), "{number}: {}", ran.stdout);
    }
}

#[test]
fn mounts() {
    if !can_run() {
        return;
    }
    let container = Container::new(
        "grep -E ' (/data|/ro|/file|/small) ' /proc/self/mountinfo; cat /data/a /file; (touch /ro/x) 2>&1; ls -ld /small",
    );
    let host = container.folder.path().join("host");
    std::fs::create_dir(&host).expect("folder");
    std::fs::write(host.join("a"), "A\n").expect("file");
    let file = host.join("a");
    let container = container
        .add_mount(json!({"destination": "/data", "source": host, "options": ["rbind", "rprivate", "rw"]}))
        .add_mount(json!({"destination": "/ro", "source": "host", "options": ["bind", "ro", "nosuid", "rslave"]}))
        .add_mount(json!({"destination": "/file", "source": file, "options": ["bind", "ro"]}))
        .add_mount(json!({"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=16k", "mode=1777", "noatime", "ro"]}));
    let text = output(&container);
    let line = |path: &str| text.lines().find(|line| line.contains(&format!(" {path} "))).expect(path).to_owned();
    assert!(line("/ro").contains(" ro,nosuid"), "{text}");
    assert!(line("/data").contains(" rw,"), "{text}");
    assert!(line("/small").contains("ro,noatime") && line("/small").contains("size=16k"), "{text}");
    assert!(text.contains("A\nA\n") && text.contains("Read-only file system"), "{text}");
    assert!(text.contains("drwxrwxrwt"), "{text}");
}

#[test]
fn links_in_the_image_stay_inside() {
    if !can_run() {
        return;
    }
    let outside = common::folder();
    let container = Container::new("true");
    std::os::unix::fs::symlink(outside.path(), container.rootfs().join("escape")).expect("link");
    let container =
        container.add_mount(json!({"destination": "/escape/made", "type": "tmpfs", "source": "tmpfs", "options": []}));
    container.run();
    assert_eq!(std::fs::read_dir(outside.path()).expect("folder").count(), 0, "a folder was made on the host");

    for folder in ["proc", "sys", "dev"] {
        let container = Container::new("true");
        std::fs::remove_dir(container.rootfs().join(folder)).expect("folder");
        std::os::unix::fs::symlink(outside.path(), container.rootfs().join(folder)).expect("link");
        let ran = container.run();
        assert_eq!(std::fs::read_dir(outside.path()).expect("folder").count(), 0, "{folder}: on the host");
        assert_ne!(ran.code, Some(0), "{folder} is a link and was accepted");
    }
}

#[test]
fn namespaces_by_path() {
    if !can_run() {
        return;
    }
    let first = Container::new("sleep 1000").set("/hostname", json!("shared"));
    first.create().ok();
    first.start().ok();
    let pid = first.state()["pid"].as_i64().expect("pid");
    let path = |name: &str| format!("/proc/{pid}/ns/{name}");
    let namespaces = json!([
        {"type": "mount"}, {"type": "cgroup"},
        {"type": "uts", "path": path("uts")}, {"type": "network", "path": path("net")},
        {"type": "ipc", "path": path("ipc")}, {"type": "pid", "path": path("pid")}
    ]);
    let script = "hostname; for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; cat /proc/1/comm";
    let mut second = Container::new(script).set("/linux/namespaces", namespaces);
    second.spec.as_object_mut().expect("spec").remove("hostname");
    let text = output(&second);
    let lines: Vec<&str> = text.lines().collect();
    let link = |name: &str| std::fs::read_link(path(name)).expect("link").to_string_lossy().into_owned();
    assert_eq!(lines[0], "shared");
    for (at, name) in ["net", "ipc", "uts", "pid"].into_iter().enumerate() {
        assert_eq!(lines[at + 1], link(name));
    }
    assert_ne!(lines[5], link("mnt"));
    assert_eq!(lines[6], "sleep");
}

#[test]
fn user_and_time_namespaces() {
    if !can_run() {
        return;
    }
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "time"}]);
    let container = Container::new("cat /proc/self/timens_offsets")
        .set("/linux/namespaces", namespaces)
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}}));
    let text = output(&container);
    assert!(text.contains("1000000"), "{text}");
    let own = std::fs::read_link("/proc/self/ns/time").expect("link");
    assert_eq!(own, std::fs::read_link("/proc/self/ns/time_for_children").expect("link"));

    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "user"}]);
    let container = Container::new("id -u; cat /proc/self/uid_map")
        .set("/linux/namespaces", namespaces)
        .set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 65536}]))
        .set("/linux/gidMappings", json!([{"containerID": 0, "hostID": 0, "size": 65536}]));
    let text = output(&container);
    assert!(text.starts_with("0\n") && text.contains("65536"), "{text}");
}

#[test]
fn sysctls() {
    if !can_run() {
        return;
    }
    let container = Container::new("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start")
        .set("/linux/sysctl", json!({"kernel.shmmni": "123", "net.ipv4.ip_unprivileged_port_start": "80"}));
    assert_eq!(output(&container), "123\n80\n");
    let host = Container::new("true").set("/linux/sysctl", json!({"kernel.core_pattern": "x"}));
    assert!(host.run().error().contains("kernel.core_pattern"));
}

#[test]
fn devices() {
    if !can_run() {
        return;
    }
    let script = "for d in null zero full random urandom tty fuse; do stat -c '%n %F %t:%T %a' /dev/$d; done; \
                  readlink /dev/fd; readlink /dev/ptmx; head -c 3 /dev/zero | wc -c; \
                  mknod /tmp/mem c 1 1 && (cat /tmp/mem > /dev/null) 2>&1";
    let more = json!(["CAP_MKNOD", "CAP_SYS_RAWIO"]);
    let container = Container::new(script)
        .set(
            "/linux/devices",
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640}]),
        )
        .set("/process/capabilities", json!({"bounding": more, "effective": more, "permitted": more}));
    let text = container.run().stdout;
    assert!(text.contains("/dev/null character special file 1:3 666"), "{text}");
    assert!(text.contains("/dev/fuse character special file a:e5 640"), "{text}");
    assert!(text.contains("/proc/self/fd\npts/ptmx\n3\n"), "{text}");
    assert!(text.contains("/tmp/mem") && text.contains("Operation not permitted"), "the device list holds: {text}");
}

#[test]
fn limits() {
    if !can_run() {
        return;
    }
    let resources = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 67_108_864},
        "cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0"},
        "pids": {"limit": 50}
    });
    let container = Container::new("sleep 1000").set("/linux/resources", resources);
    container.create().ok();
    let group = |controller: &str| container.cgroup(controller).expect("cgroup");
    group("memory").is(("memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"));
    assert_eq!(group("pids").read("pids.max"), "50");
    assert_eq!(group("cpuset").read("cpuset.cpus"), "0");
    group("cpu").is(("cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 50000"));
    container.start().ok();
    let pid = container.state()["pid"].to_string();
    for controller in ["memory", "pids", "cpuset", "cpu"] {
        let procs = group(controller).read("cgroup.procs");
        assert!(procs.lines().any(|line| line == pid), "{controller}: {procs}");
    }
}

/// Whether the tree of version 2 limits huge pages; says why not.
fn has_huge_pages() -> bool {
    let list = common::unified().map(|mount| std::fs::read_to_string(mount.join("cgroup.controllers")).expect("list"));
    let has = list.is_some_and(|list| list.split_whitespace().any(|controller| controller == "hugetlb"));
    if !has {
        println!("SKIP: no cgroup2 with the hugetlb controller");
    }
    has
}

/// On a hybrid host a controller may live in the version 2 tree alone; the process is cloned into it.
#[test]
fn limits_in_both_versions() {
    if !can_run() {
        return;
    }
    if !has_huge_pages() {
        return;
    }
    let resources =
        json!({"devices": [], "pids": {"limit": 9}, "hugepageLimits": [{"pageSize": "2MB", "limit": 2_097_152}]});
    let container = Container::new("exec sleep 1000").set("/linux/resources", resources);
    container.create().ok();
    let group = container.cgroup("hugetlb").expect("cgroup");
    assert_eq!(group.read("hugetlb.2MB.max"), "2097152");
    assert_eq!(group.read("cgroup.procs"), container.state()["pid"].to_string());
    container.start().ok();
    assert!(container.exec("cat /proc/self/cgroup").ok().contains("0::/\n"));
}

#[test]
fn memory_limit_kills() {
    if !can_run() {
        return;
    }
    let resources = json!({"devices": [{"allow": false}], "memory": {"limit": 16_777_216}});
    let script = "x=$(head -c 100000000 /dev/zero | busybox tr '\\0' x); echo survived";
    let container = Container::new(script).set("/linux/resources", resources);
    let ran = container.run();
    assert!(!ran.stdout.contains("survived"), "{}", ran.stdout);
    assert_ne!(ran.code, Some(0));
}

#[test]
fn terminal_through_a_console_socket() {
    use std::io::{IoSliceMut, Read};
    use std::os::fd::{AsRawFd, FromRawFd};
    if !can_run() {
        return;
    }
    let container = Container::new("tty; test -c /dev/console && echo console; exit 3")
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 33, "width": 99}));
    container.write_config();
    let socket = container.folder.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    let bundle = container.folder.path().to_str().expect("path");
    let args = ["create", "-b", bundle, "--console-socket", socket.to_str().expect("path"), &container.id];
    let status = container.command(&args).stdout(std::process::Stdio::null()).status().expect("create");
    assert!(status.success());
    let (stream, _) = listener.accept().expect("accept");
    let mut bytes = [0; 128];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = nix::sys::socket::recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        nix::sys::socket::MsgFlags::empty(),
    )
    .expect("message");
    let fd = message.cmsgs().expect("control").find_map(|control| match control {
        nix::sys::socket::ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fd.expect("descriptor");
    #[allow(unsafe_code)]
    // SAFETY: the descriptor just arrived and is nobody else's.
    let mut master = unsafe { std::fs::File::from_raw_fd(fd) };
    container.start().ok();
    let mut text = Vec::new();
    // The read ends with EIO when the program has ended.
    let _ = master.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\nconsole\r\n");
    wait_until("end", || container.status() == "stopped");
}

#[test]
fn the_runtime_is_not_writable_from_inside() {
    if !can_run() {
        return;
    }
    // An entry point that is the runtime itself, and a look at what it runs from.
    let container = Container::new("").set("/process/args", json!(["/proc/self/exe", "--version"]));
    let ran = container.run();
    assert!(ran.stdout.contains("orlop-runtime"), "the attack starts: {}{}", ran.stdout, ran.stderr);
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_orlop-runtime")).expect("program");
    // A process of the runtime that waits in the container, open to others there.
    let victim = Container::new("").set("/process/args", json!(["/proc/self/exe", "update", "-r", "/fifo", "x"]));
    nix::unistd::mkfifo(&victim.rootfs().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    victim.create().ok();
    victim.start().ok();
    let attack = "exec 5</proc/1/exe; (: > /proc/1/exe) 2>&1; (: >> /proc/self/fd/5) 2>&1";
    let ran = victim.exec(attack);
    assert!(ran.stdout.contains("Read-only file system"), "{}{}", ran.stdout, ran.stderr);
    drop(victim);
    assert_eq!(std::fs::read(env!("CARGO_BIN_EXE_orlop-runtime")).expect("program"), bytes);
}

/// What stands at /dev/null in the container says nothing about what its standard input is.
#[test]
fn devices_of_the_host_keep_their_owner() {
    use std::os::unix::fs::MetadataExt;
    if !can_run() {
        return;
    }
    // In /dev, since other places may not allow devices. Not the real one: if this fails, all would notice.
    let folder = tempfile::tempdir_in("/dev").expect("folder");
    let null = folder.path().join("null");
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRUSR);
    nix::sys::stat::mknod(&null, kind, mode, nix::sys::stat::makedev(1, 3)).expect("device");
    let container = Container::new("id -u").set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let file = container.folder.path().join("file");
    std::fs::write(&file, "").expect("file");
    let container = container.add_mount(json!({"destination": "/dev/null", "source": file, "options": ["bind"]}));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path");
    let mut run = container.command(&["run", "-b", bundle, &container.id]);
    let output = run.stdin(std::fs::File::open(&null).expect("device")).output().expect("run");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(&null).expect("device").uid(), 0);
}

#[test]
fn a_seccomp_profile_need_not_allow_what_only_the_runtime_calls() {
    if !can_run() {
        return;
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["close_range"], "action": "SCMP_ACT_KILL_PROCESS"}]
    });
    for no_new_privs in [true, false] {
        let container = Container::new("ls /proc/self/fd")
            .set("/linux/seccomp", profile.clone())
            .set("/process/noNewPrivileges", json!(no_new_privs));
        assert_eq!(output(&container), "0\n1\n2\n3\n");
    }
}

/// As docker in docker and systemd do: the first process goes into a group below the container's, whose
/// controllers are then for the groups below alone. No process can be put into the container's own any more.
#[test]
fn exec_in_a_container_that_manages_cgroups_of_version_2() {
    if !can_run() {
        return;
    }
    if !has_huge_pages() {
        return;
    }
    let resources = json!({"devices": [], "hugepageLimits": [{"pageSize": "2MB", "limit": 2_097_152}]});
    let container = Container::new("exec sleep 1000").set("/linux/resources", resources);
    container.create().ok();
    container.start().ok();
    let group = container.cgroup("hugetlb").expect("cgroup");
    assert!(container.exec("cat /proc/self/cgroup").ok().contains("0::/\n"));
    let path = |name: &str| group.path().join(name);
    std::fs::create_dir(path("init")).expect("group");
    std::fs::write(path("init/cgroup.procs"), container.state()["pid"].to_string()).expect("move");
    std::fs::write(path("cgroup.subtree_control"), "+hugetlb").expect("controllers");
    assert!(container.exec("cat /proc/self/cgroup").ok().contains("0::/init\n"));
}
