//! Ways out through cgroups: a writable hierarchy (CVE-2023-25809) and the release agent (CVE-2022-0492).

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{Container, by_systemd, can_run};
use crate::harness::with_capabilities;

fn namespaces(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"type": name})).collect()
}

/// The folders where this host has its hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let below = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.join("cgroup.procs").exists()).chain([PathBuf::from("/sys/fs/cgroup")]).collect()
}

const BASE: [&str; 5] = ["pid", "network", "ipc", "uts", "mount"];

fn with_writable_cgroups(script: &str, more: &[&str]) -> Container {
    let mut container = Container::new(script).set("/linux/namespaces", namespaces(&[&BASE[..], more].concat()));
    if more.contains(&"user") {
        let mapping = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        container = container.set("/linux/uidMappings", mapping.clone()).set("/linux/gidMappings", mapping);
    }
    for mount in container.spec["mounts"].as_array_mut().expect("mounts") {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    container
}

#[test]
fn a_container_sees_its_own_cgroups_only() {
    if !can_run() {
        return;
    }
    // A process that is not in the container's namespace would be number 0.
    let script = "cd /sys/fs/cgroup; cat */cgroup.procs cgroup.procs 2>/dev/null | grep -c '^0$'; \
                  ls */release_agent release_agent 2>/dev/null; \
                  for group in . *; do for up in .. ../.. ../../..; do \
                  mkdir $group/$up/orlop-escape 2>/dev/null; \
                  [ -e $group/$up/cgroup.procs ] && (echo $$ > $group/$up/cgroup.procs) 2>/dev/null && \
                  echo moved by $group/$up; done; done; \
                  echo ready; exec sleep 1000";
    for more in [&["cgroup"][..], &[], &["user"], &["user", "cgroup"]] {
        let container = with_writable_cgroups(script, more);
        container.run_detached().ok();
        crate::common::wait_until("the attack", || container.output().contains("ready"));
        assert_eq!(container.output(), "0\nready\n", "{more:?}");
        let own = if by_systemd() { format!("/orlop-{}.scope", container.id) } else { format!("/{}", container.id) };
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", container.state()["pid"])).expect("cgroups");
        assert!(groups.lines().any(|line| line.ends_with(&own)), "{more:?}: {groups}");
        for hierarchy in hierarchies() {
            for above in ["", "orlop", "orlop.slice", "orlop.slice/orlop-test.slice"] {
                let made = hierarchy.join(above).join("orlop-escape");
                assert!(!made.exists(), "{more:?}: {}", made.display());
            }
        }
    }
}

#[test]
fn cgroups_are_read_only_where_the_mount_is() {
    if !can_run() {
        return;
    }
    let script = "cd /sys/fs/cgroup; for file in */cgroup.procs cgroup.procs */notify_on_release */tasks; do \
                  [ -e $file ] && (echo 1 > $file) 2>/dev/null && echo wrote $file; done; \
                  mkdir new */new 2>/dev/null && echo made; true";
    for more in [&["cgroup"][..], &[]] {
        let container = with_capabilities(Container::new(script), &["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"])
            .set("/linux/namespaces", namespaces(&[&BASE[..], more].concat()));
        assert_eq!(container.run().ok(), "", "{more:?}");
    }
}

/// With CAP_SYS_ADMIN a container can mount a hierarchy; its root must be the container's own group, which has no
/// release agent.
#[test]
fn the_cgroup_namespace_begins_at_the_container_s_group() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/self/cgroup; for c in memory devices pids freezer; do \
                  mount -t cgroup -o $c none /tmp 2>/dev/null && ls /tmp/release_agent 2>/dev/null; \
                  umount /tmp 2>/dev/null; done; \
                  mount -t cgroup2 none /tmp 2>/dev/null && cat /tmp/cgroup.procs | grep -c '^0$'; true";
    let container = with_capabilities(Container::new(script), &["CAP_SYS_ADMIN"]);
    let text = container.run().ok();
    assert!(!text.contains("release_agent") && !text.contains(&container.id), "{text}");
    let Some(own) = container_groups(&text) else { return println!("SKIP: no cgroup of the container's: {text}") };
    assert!(own > 0, "{text}");
    let second = with_capabilities(Container::new("exec sleep 1000"), &["CAP_SYS_ADMIN"]);
    second.run_detached().ok();
    let text = second.exec(script).ok();
    assert!(!text.contains("release_agent") && !text.contains(&second.id), "{text}");
    assert!(container_groups(&text) > Some(0), "{text}");
}

/// How many hierarchies have the container's group as their root.
fn container_groups(text: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().filter(|line| line.split(':').count() == 3).collect();
    (!lines.is_empty()).then(|| lines.iter().filter(|line| line.ends_with(":/")).count())
}
