//! Limits: set by create, changed by update, found in the kernel's files.

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use common::{Container, Ran, can_run};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

fn limited(resources: Value) -> Container {
    Container::new("sleep 1000").set("/linux/resources", resources)
}

/// The container's group of a controller in its own hierarchy of version 1.
fn v1(container: &Container, controller: &str) -> Option<PathBuf> {
    if !PathBuf::from("/sys/fs/cgroup").join(controller).is_dir() {
        println!("SKIP: no {controller} hierarchy of cgroup v1");
        return None;
    }
    container.cgroup(controller)
}

#[track_caller]
fn read(group: &std::path::Path, file: &str) -> String {
    std::fs::read_to_string(group.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
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
    let memory = json!({"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB, "swappiness": 20, "kernel": MIB,
        "kernelTCP": MIB, "useHierarchy": true, "disableOOMKiller": true, "checkBeforeUpdate": true});
    let container = limited(json!({"memory": memory}));
    container.run_detached().ok();
    let Some(group) = v1(&container, "memory") else { return };
    let number = |file: &str| read(&group, file).parse::<i64>().expect("number");
    assert_eq!(number("memory.limit_in_bytes"), 64 * MIB);
    assert_eq!(number("memory.memsw.limit_in_bytes"), 96 * MIB);
    assert_eq!(number("memory.soft_limit_in_bytes"), 32 * MIB);
    assert_eq!(number("memory.swappiness"), 20);
    assert!(read(&group, "memory.oom_control").contains("oom_kill_disable 1"));
    assert!(number("memory.kmem.tcp.limit_in_bytes") > 1 << 60, "kernelTCP is ignored");
    container.call(&["update", "--memory", "80M", "--memory-reservation", "0.5g", &container.id]).ok();
    assert_eq!(number("memory.limit_in_bytes"), 80 * MIB);
    assert_eq!(number("memory.memsw.limit_in_bytes"), 96 * MIB, "what is not given stays");
    assert_eq!(number("memory.soft_limit_in_bytes"), 512 * MIB);
    container.call(&["update", "--memory", "-1", &container.id]).ok();
    assert!(number("memory.memsw.limit_in_bytes") > 1 << 60, "no limit on memory is none on swap");
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
    let Some(group) = v1(&container, "cpu") else { return };
    let all =
        || ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"].map(|file| read(&group, file));
    assert_eq!(all(), ["512", "50000", "100000", "10000"]);
    container.call(&["update", "--cpu-quota", "20000", &container.id]).ok();
    assert_eq!(all(), ["512", "20000", "100000", "10000"]);
    // In this order the kernel refuses the burst at first: it is more than the quota that is still set.
    container.call(&["update", "--cpu-burst", "40000", "--cpu-quota", "60000", &container.id]).ok();
    assert_eq!(all(), ["512", "60000", "100000", "40000"]);
    update_from_stdin(&container, r#"{"cpu":{"shares":2048,"period":50000,"burst":0,"quota":-1}}"#).ok();
    assert_eq!(all(), ["2048", "-1", "50000", "0"]);
    container.call(&["update", "--cpu-idle", "1", &container.id]).ok();
    assert_eq!(read(&group, "cpu.idle"), "1");
    container.call(&["update", "--cpu-idle", "0", &container.id]).ok();
    let error = container.call(&["update", "--cpu-share", "1", &container.id]).error();
    assert!(
        error.contains("linux.resources.cpu.shares") && error.contains("the minimum allowed cpu-shares is 2"),
        "{error}"
    );
    let error = container.call(&["update", "--cpu-period", "1", &container.id]).error();
    assert!(error.contains("linux.resources.cpu.period"), "{error}");
    assert!(update_from_stdin(&container, "").error().contains("it is empty"));
    assert!(update_from_stdin(&container, r#"{"cpu":{"shares":"many"}}"#).error().contains("linux.resources"));
}

/// A container is not in the hierarchies where nothing of it is limited; an update takes it there.
#[test]
fn an_update_joins_the_hierarchies_it_needs() {
    if !can_run() {
        return;
    }
    // Where nobody else's container is: beside one that is there, it would be too.
    let parent = PathBuf::from(format!("/sys/fs/cgroup/cpuset/orlop-test-joins-{}", std::process::id()));
    let group = parent.join("box");
    let path = group.strip_prefix("/sys/fs/cgroup/cpuset").expect("below");
    let container =
        Container::new("sleep 1000 & sleep 1000").set("/linux/cgroupsPath", json!(PathBuf::from("/").join(path)));
    container.run_detached().ok();
    if !PathBuf::from("/sys/fs/cgroup/cpuset").is_dir() {
        return println!("SKIP: no cpuset hierarchy of cgroup v1");
    }
    assert!(!parent.exists(), "nothing is limited there");
    let pids = || container.call(&["ps", "-f", "json", &container.id]).ok();
    common::wait_until("the second process", || pids().matches(',').count() == 1);
    container.call(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", &container.id]).ok();
    assert_eq!([read(&group, "cpuset.cpus"), read(&group, "cpuset.mems")], ["0", "0"]);
    assert_eq!(read(&group, "cgroup.procs").lines().count(), 2, "all processes are in it");
    assert!(container.exec("cat /proc/self/status").ok().contains("Cpus_allowed_list:\t0\n"), "so is what exec starts");
    let error = container.call(&["update", "--cpuset-cpus", "4095", &container.id]).error();
    assert!(error.contains("linux.resources.cpu.cpus"), "{error}");
    container.call(&["delete", "--force", &container.id]).ok();
    assert!(!parent.exists(), "it goes with the container");
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
    let Some(group) = v1(&container, "blkio") else { return };
    let file = |name: &str| read(&group, &format!("blkio.throttle.{name}_device"));
    let line = |rate: u64| format!("{major}:{minor} {rate}");
    assert_eq!(file("read_bps"), line(1 << 20));
    assert_eq!(file("write_bps"), line(2 << 20));
    assert_eq!(file("read_iops"), line(100));
    assert_eq!(file("write_iops"), line(200));
    let limits = json!({"blockIO": {"throttleReadBpsDevice": rate(0), "throttleWriteIOPSDevice": rate(300)}});
    update_from_stdin(&container, &limits.to_string()).ok();
    assert_eq!(file("read_bps"), "", "0 lifts the limit");
    assert_eq!(file("write_iops"), line(300));
    assert_eq!(file("read_iops"), line(100));
    if !group.join("blkio.weight").exists() && !group.join("blkio.bfq.weight").exists() {
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
        (json!({"cpu": {"shares": 1}}), "linux.resources.cpu.shares"),
    ] {
        let container = limited(resources);
        let error = container.create().error();
        assert!(error.contains(field), "{field}: {error}");
        assert_eq!(container.left_behind(), Vec::<String>::new());
    }
    let missing = |name: &str| !PathBuf::from("/sys/fs/cgroup").join(name).is_dir();
    let v1_only = !PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    if v1_only && missing("net_cls") && missing("net_prio") {
        for (resources, field) in [
            (json!({"network": {"classID": 7}}), "linux.resources.network.classID"),
            (json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}), "linux.resources.network.priorities"),
        ] {
            let error = limited(resources).create().error();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}

/// In the tree of version 2 beside version 1, when that has no such controller.
#[test]
fn huge_pages_are_limited_with_their_reservations() {
    if !can_run() {
        return;
    }
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    let controllers = std::fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.contains("hugetlb") {
        return println!("SKIP: no hybrid cgroups with hugetlb in version 2");
    }
    let container = limited(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}));
    container.run_detached().ok();
    let group = unified.join("orlop").join(&container.id);
    assert_eq!(read(&group, "hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(read(&group, "hugetlb.2MB.rsvd.max"), (4 << 20).to_string());
    update_from_stdin(&container, r#"{"unified":{"hugetlb.2MB.max":"2097152"}}"#).ok();
    assert_eq!(read(&group, "hugetlb.2MB.max"), (2 << 20).to_string());
}
