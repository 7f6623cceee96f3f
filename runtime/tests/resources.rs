//! Limits: set by create, changed by update, found in the kernel's files.

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Container, Group, Ran, can_run, is_unified};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

fn limited(resources: Value) -> Container {
    Container::new("sleep 1000").set("/linux/resources", resources)
}

/// The container's group of a controller.
fn group(container: &Container, controller: &str) -> Option<Group> {
    let group = container.cgroup(controller);
    if group.is_none() {
        println!("SKIP: no {controller} controller");
    }
    group
}

fn update_from_stdin(container: &Container, limits: &str) -> Ran {
    let mut child = container
        .command(&["update", "-r", "-", &container.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run orlop-runtime");
    child.stdin.take().expect("stdin").write_all(limits.as_bytes()).expect("write limits");
    Ran::from(child.wait_with_output().expect("wait"))
}

#[test]
fn memory_as_runc_sets_it() {
    if !can_run() {
        return;
    }
    // The kernel's own knobs are obsolete: they are ignored.
    let mut memory = json!({"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB, "swappiness": 20,
        "kernel": MIB, "kernelTCP": MIB, "useHierarchy": true, "checkBeforeUpdate": true});
    if is_unified() {
        let error = limited(json!({"memory": {"disableOOMKiller": true}})).create().error();
        assert!(error.contains("linux.resources.memory.disableOOMKiller"), "{error}");
    } else {
        memory["disableOOMKiller"] = json!(true);
    }
    let container = limited(json!({"memory": memory}));
    container.run_detached().ok();
    let Some(group) = group(&container, "memory") else { return };
    let is = |v1: (&str, i64), v2: (&str, i64)| {
        group.is((v1.0, &(v1.1 * MIB).to_string()), (v2.0, &(v2.1 * MIB).to_string()));
    };
    is(("memory.limit_in_bytes", 64), ("memory.max", 64));
    // Version 2 counts swap alone.
    is(("memory.memsw.limit_in_bytes", 96), ("memory.swap.max", 32));
    is(("memory.soft_limit_in_bytes", 32), ("memory.low", 32));
    let unlimited = |file: &str| group.read(file).parse::<i64>().expect("number") > 1 << 60;
    if !group.is_unified() {
        assert_eq!(group.read("memory.swappiness"), "20");
        assert!(group.read("memory.oom_control").contains("oom_kill_disable 1"));
        assert!(unlimited("memory.kmem.tcp.limit_in_bytes"), "kernelTCP is ignored");
    }
    container.call(&["update", "--memory", "80M", "--memory-reservation", "0.5g", &container.id]).ok();
    is(("memory.limit_in_bytes", 80), ("memory.max", 80));
    // Memory and swap together stay what they are.
    is(("memory.memsw.limit_in_bytes", 96), ("memory.swap.max", 16));
    is(("memory.soft_limit_in_bytes", 512), ("memory.low", 512));
    container.call(&["update", "--memory", "-1", &container.id]).ok();
    // No limit on memory is none on swap.
    if group.is_unified() {
        assert_eq!([group.read("memory.max"), group.read("memory.swap.max")], ["max", "max"]);
    } else {
        assert!(unlimited("memory.memsw.limit_in_bytes"));
    }
    let error = container.call(&["update", "--memory", "4x", &container.id]).error();
    assert!(error.contains(r#"invalid value for memory: "4x""#), "{error}");
    let warned = container.call(&["update", "--kernel-memory", "64M", &container.id]);
    assert!(warned.stderr.contains("ignored"), "{}", warned.stderr);
    warned.ok();
}

#[test]
fn processors_from_flags_and_stdin() {
    if !can_run() {
        return;
    }
    let container = limited(json!({"cpu": {"shares": 512, "quota": 50000, "period": 100_000, "burst": 10000}}));
    container.run_detached().ok();
    let Some(group) = group(&container, "cpu") else { return };
    // Shares and their weight, quota, period, burst.
    let are = |shares: &str, weight: &str, quota: &str, period: &str, burst: &str| {
        let max = format!("{} {period}", if quota == "-1" { "max" } else { quota });
        group.is(("cpu.shares", shares), ("cpu.weight", weight));
        group.is(("cpu.cfs_quota_us", quota), ("cpu.max", &max));
        group.is(("cpu.cfs_period_us", period), ("cpu.max", &max));
        group.is(("cpu.cfs_burst_us", burst), ("cpu.max.burst", burst));
    };
    are("512", "59", "50000", "100000", "10000");
    container.call(&["update", "--cpu-quota", "20000", &container.id]).ok();
    are("512", "59", "20000", "100000", "10000");
    // In this order the kernel refuses the burst at first: it is more than the quota that is still set.
    container.call(&["update", "--cpu-burst", "40000", "--cpu-quota", "60000", &container.id]).ok();
    are("512", "59", "60000", "100000", "40000");
    update_from_stdin(&container, r#"{"cpu":{"shares":2048,"period":50000,"burst":0,"quota":-1}}"#).ok();
    are("2048", "174", "-1", "50000", "0");
    container.call(&["update", "--cpu-idle", "1", &container.id]).ok();
    assert_eq!(group.read("cpu.idle"), "1");
    container.call(&["update", "--cpu-idle", "0", &container.id]).ok();
    let least = container.call(&["update", "--cpu-share", "1", &container.id]);
    if group.is_unified() {
        least.ok();
        assert_eq!(group.read("cpu.weight"), "1");
    } else {
        let error = least.error();
        let told = ["linux.resources.cpu.shares", "the minimum allowed cpu-shares is 2"];
        assert!(told.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = container.call(&["update", "--cpu-period", "1", &container.id]).error();
    assert!(error.contains("linux.resources.cpu.period"), "{error}");
    assert!(update_from_stdin(&container, "").error().contains("it is empty"));
    assert!(update_from_stdin(&container, r#"{"cpu":{"shares":"many"}}"#).error().contains("linux.resources"));
}

/// A container is not in the hierarchies of version 1 where nothing of it is limited; an update takes it there.
#[test]
fn an_update_joins_the_hierarchies_it_needs() {
    if !can_run() {
        return;
    }
    let cpuset = PathBuf::from("/sys/fs/cgroup/cpuset");
    if !is_unified() && !cpuset.is_dir() {
        return println!("SKIP: no cpuset controller");
    }
    let mut container = Container::new("sleep 1000 & sleep 1000");
    // Where nobody else's container is: beside one that is there, it would be too.
    let parent = format!("orlop-test-joins-{}", std::process::id());
    if !common::by_systemd() {
        let path = json!(format!("/{parent}/{}", container.id));
        container = container.set("/linux/cgroupsPath", path);
    }
    container.run_detached().ok();
    let apart = !is_unified() && !common::by_systemd();
    assert!(!apart || !cpuset.join(&parent).exists(), "nothing is limited there");
    let pids = || container.call(&["ps", "-f", "json", &container.id]).ok();
    common::wait_until("the second process", || pids().matches(',').count() == 1);
    container.call(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", &container.id]).ok();
    let group = container.cgroup("cpuset").expect("cgroup");
    assert_eq!([group.read("cpuset.cpus"), group.read("cpuset.mems")], ["0", "0"]);
    assert_eq!(group.read("cgroup.procs").lines().count(), 2, "all processes are in it");
    assert!(container.exec("cat /proc/self/status").ok().contains("Cpus_allowed_list:\t0\n"), "so is what exec starts");
    let refused = container.call(&["update", "--cpuset-cpus", "4095", &container.id]);
    // Version 2 takes processors that are not there, and uses those that are.
    if !group.is_unified() {
        let error = refused.error();
        assert!(error.contains("linux.resources.cpu.cpus"), "{error}");
    }
    container.call(&["delete", "--force", &container.id]).ok();
    assert!(!group.path().exists() && (!apart || !cpuset.join(&parent).exists()), "it goes with the container");
}

#[test]
fn block_devices_are_throttled() {
    if !can_run() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let Ok(disk) = std::fs::metadata("/dev/vda") else { return println!("SKIP: no /dev/vda") };
    let (major, minor) = (nix::sys::stat::major(disk.rdev()), nix::sys::stat::minor(disk.rdev()));
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let container =
        limited(json!({"blockIO": {"throttleReadBpsDevice": rate(1 << 20), "throttleWriteBpsDevice": rate(2 << 20),
        "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200)}}));
    container.run_detached().ok();
    let Some(group) = group(&container, if is_unified() { "io" } else { "blkio" }) else { return };
    let are = |rbps: &str, wbps: &str, riops: &str, wiops: &str| {
        if group.is_unified() {
            let line = format!("{major}:{minor} rbps={rbps} wbps={wbps} riops={riops} wiops={wiops}");
            return assert_eq!(group.read("io.max"), line);
        }
        for (name, rate) in [("read_bps", rbps), ("write_bps", wbps), ("read_iops", riops), ("write_iops", wiops)] {
            let line = if rate == "max" { String::new() } else { format!("{major}:{minor} {rate}") };
            assert_eq!(group.read(&format!("blkio.throttle.{name}_device")), line);
        }
    };
    are("1048576", "2097152", "100", "200");
    let limits = json!({"blockIO": {"throttleReadBpsDevice": rate(0), "throttleWriteIOPSDevice": rate(300)}});
    update_from_stdin(&container, &limits.to_string()).ok();
    // 0 lifts the limit.
    are("max", "2097152", "100", "300");
    if !["blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight"].into_iter().any(|file| group.has(file)) {
        let error = container.call(&["update", "--blkio-weight", "100", &container.id]).error();
        assert!(error.contains("linux.resources.blockIO.weight"), "{error}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    for (resources, field) in [
        (json!({"blockIO": {"weight": 5}}), "linux.resources.blockIO.weight"),
        (json!({"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}), "linux.resources.hugepageLimits.pageSize"),
        (json!({"rdma": {"a\nb": {"hcaHandles": 1}}}), "linux.resources.rdma"),
        (json!({"memory": {"swappiness": 101}}), "linux.resources.memory.swappiness"),
        (json!({"unified": {"../x.y": "1"}}), "linux.resources.unified"),
        (json!({"unified": {"cgroup.procs": "1"}}), "linux.resources.unified"),
    ] {
        let container = limited(resources);
        let error = container.create().error();
        assert!(error.contains(field), "{field}: {error}");
        assert_eq!(container.left_behind(), Vec::<String>::new());
    }
    let missing = |name: &str| !PathBuf::from("/sys/fs/cgroup").join(name).is_dir();
    if missing("net_cls") && missing("net_prio") {
        for (resources, field) in [
            (json!({"network": {"classID": 7}}), "linux.resources.network.classID"),
            (json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}), "linux.resources.network.priorities"),
        ] {
            let error = limited(resources).create().error();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
    if !is_unified() {
        let container = limited(json!({"cpu": {"shares": 1}}));
        let error = container.create().error();
        assert!(error.contains("linux.resources.cpu.shares"), "{error}");
        assert_eq!(container.left_behind(), Vec::<String>::new());
    }
}

/// In the tree of version 2, which may be beside a version 1 that has no such controller.
#[test]
fn huge_pages_are_limited_with_their_reservations() {
    if !can_run() {
        return;
    }
    let list = common::unified().map(|mount| std::fs::read_to_string(mount.join("cgroup.controllers")).expect("list"));
    if !list.is_some_and(|list| list.split_whitespace().any(|controller| controller == "hugetlb")) {
        return println!("SKIP: no cgroup2 with the hugetlb controller");
    }
    let container = limited(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}));
    container.run_detached().ok();
    let group = container.cgroup("hugetlb").expect("cgroup");
    assert_eq!(group.read("hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(group.read("hugetlb.2MB.rsvd.max"), (4 << 20).to_string());
    update_from_stdin(&container, r#"{"unified":{"hugetlb.2MB.max":"2097152"}}"#).ok();
    assert_eq!(group.read("hugetlb.2MB.max"), (2 << 20).to_string());
}

/// In a user namespace nobody may raise a hard limit: it is done from outside, for those that are made there and
/// those that join.
#[test]
fn hard_limits_are_raised_in_a_user_namespace() {
    if !can_run() {
        return;
    }
    let limited = |command: &mut Command| {
        let mut shell = Command::new("/bin/busybox");
        shell.args(["sh", "-c", r#"ulimit -n 200 && exec "$@""#, "sh"]).arg(command.get_program());
        Ran::from(shell.args(command.get_args()).stdin(Stdio::null()).output().expect("sh"))
    };
    let may_raise = limited(Command::new("/bin/busybox").args(["sh", "-c", "ulimit -n 300"])).code == Some(0);
    let limits = |soft: u64, hard: u64| json!([{ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard }]);
    let (lower, higher) = (limits(90, 100), limits(250, 300));
    let ids = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    let script = "ulimit -Sn; ulimit -Hn";
    let mut new = Container::new(&format!("{script}; exec sleep 1000 >/dev/null 2>&1"));
    for kind in ["uidMappings", "gidMappings"] {
        new = new.set(&format!("/linux/{kind}"), ids.clone());
    }
    new.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
    let mut joined = Container::new(script);
    for (limits, found) in [(lower, "90\n100\n"), (higher, "250\n300\n")] {
        let allowed = found.starts_with('9') || may_raise;
        if !allowed {
            println!("SKIP: raising hard limits needs CAP_SYS_RESOURCE on the host");
        }
        new = new.set("/process/rlimits", limits.clone());
        new.write_config();
        let bundle = new.folder.path().to_str().expect("path").to_owned();
        let run = limited(&mut new.command(&["run", "-d", "-b", &bundle, &new.id]));
        if !allowed {
            assert!(run.error().contains("process.rlimits: raising a hard limit needs CAP_SYS_RESOURCE"));
            continue;
        }
        assert_eq!(run.ok(), found);
        let exec = new.command(&["exec", &new.id, "sh", "-c", script]);
        assert_eq!(limited(&mut { exec }).ok(), found, "exec");
        let user = format!("/proc/{}/ns/user", new.state()["pid"]);
        let namespaces = joined.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "user");
        namespaces.push(json!({ "type": "user", "path": user }));
        joined = joined.set("/process/rlimits", limits);
        joined.write_config();
        let bundle = joined.folder.path().to_str().expect("path").to_owned();
        assert_eq!(limited(&mut joined.command(&["run", "-b", &bundle, &joined.id])).ok(), found, "joined");
        new.call(&["delete", "--force", &new.id]).ok();
    }
}
