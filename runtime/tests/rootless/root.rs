//! Containers of root with a user namespace.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::common::{Container, Ran, can_run, is_linux_before, wait_until};
use super::user::{RANGE, give};

/// A container whose root is nobody on the host.
fn in_user_namespace(script: &str) -> Container {
    let ids = json!([{"containerID": 0, "hostID": RANGE, "size": 65536}]);
    let mut container = Container::new(script).set("/linux/uidMappings", ids.clone()).set("/linux/gidMappings", ids);
    container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    std::fs::set_permissions(container.folder.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    give(&container.rootfs(), RANGE);
    container
}

fn runc(container: &Container) -> Option<Ran> {
    // runc leaves what is above a container's groups.
    let mut spec = container.spec.clone();
    spec["linux"]["cgroupsPath"] = format!("/{}-runc", container.id).into();
    std::fs::write(container.folder.path().join("config.json"), spec.to_string()).expect("config.json");
    let state = container.folder.path().join("runc");
    let mut command = Command::new("runc");
    command.arg("--root").arg(&state).args(["run", "--bundle"]).arg(container.folder.path()).arg(&container.id);
    let ran = command.stdin(Stdio::null()).output().ok().map(Ran::from);
    if ran.is_none() {
        println!("SKIP: the comparison with runc; install runc");
    }
    ran
}

#[test]
fn owners_are_those_of_runc() {
    if !can_run() {
        return;
    }
    let script = "for file in /dev /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/pts \
                  /dev/pts/ptmx /dev/shm /dev/ptmx /dev/fd /proc /proc/self /proc/sys /proc/keys /sys; \
                  do stat -c '%n %u:%g %a' $file; done; stat -c '%u %a' /dev/mqueue; id; cat /proc/self/setgroups /proc/self/uid_map; \
                  grep ^Cap /proc/self/status; cat /proc/self/oom_score_adj";
    let container = in_user_namespace(script).set("/process/oomScoreAdj", json!(10));
    let ours = container.run().ok();
    if let Some(theirs) = runc(&container) {
        assert_eq!(ours, theirs.ok());
    }
}

#[test]
fn the_loopback_device_is_up() {
    if !can_run() {
        return;
    }
    let script = "cat /sys/class/net/lo/flags";
    for container in [Container::new(script), in_user_namespace(script)] {
        assert_eq!(container.run().ok(), "0x9\n");
    }
}

#[test]
fn what_is_bound_need_not_be_reachable_for_the_containers_root() {
    if !can_run() {
        return;
    }
    let container = in_user_namespace("cat /mnt/deep/file; cat /mnt/file; touch /mnt/x || echo refused");
    let closed = container.folder.path().join("closed");
    let volume = closed.join("volume");
    std::fs::create_dir_all(volume.join("deep")).expect("volume");
    std::fs::write(volume.join("file"), "content\n").expect("file");
    std::fs::write(volume.join("deep/file"), "deep\n").expect("file");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("chmod");
    let source = volume.to_str().expect("path").to_owned();
    let container =
        container.add_mount(json!({"destination": "/mnt", "source": source, "options": ["rbind", "nosuid"]}));
    assert_eq!(container.run().ok(), "deep\ncontent\nrefused\n");
    assert!(Path::new(&source).join("file").exists());
}

#[test]
fn stdio_can_be_opened_again() {
    if !can_run() {
        return;
    }
    for user in [0, 33] {
        let container =
            in_user_namespace("echo once; echo again > /dev/stdout; echo error > /dev/stderr; cat < /dev/stdin")
                .set("/process/user/uid", json!(user));
        container.write_config();
        let bundle = container.folder.path().to_str().expect("path");
        let mut command = container.command(&["run", "--bundle", bundle, &container.id]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        let ran = Ran::from(child.wait_with_output().expect("run"));
        assert_eq!(ran.stderr, "error\n", "user {user}");
        assert_eq!(ran.ok(), "once\nagain\n", "user {user}");
    }
}

#[test]
fn namespaces_of_the_host_can_be_joined() {
    if !can_run() {
        return;
    }
    let ended = |mut child: std::process::Child| {
        child.kill().expect("kill");
        child.wait().expect("wait");
    };
    let other = Command::new("unshare").args(["--net", "--ipc", "--uts", "sleep", "1000"]).spawn().expect("unshare");
    let namespace = |name: &str| std::fs::read_link(format!("/proc/{}/ns/{name}", other.id())).ok();
    let apart = || namespace("uts").is_some_and(|there| Some(there) != std::fs::read_link("/proc/self/ns/uts").ok());
    wait_until("namespaces", apart);
    let mut container = in_user_namespace("for name in net ipc uts; do readlink /proc/self/ns/$name; done");
    for one in container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        let file = match one["type"].as_str() {
            Some("network") => "net",
            Some("ipc") => "ipc",
            Some("uts") => "uts",
            _ => continue,
        };
        one["path"] = json!(format!("/proc/{}/ns/{file}", other.id()));
    }
    let host: Vec<_> =
        ["net", "ipc", "uts"].map(|name| namespace(name).expect("namespace").display().to_string()).into();
    // Who owns them may mount what is theirs, and set their name.
    container.spec["mounts"].as_array_mut().expect("mounts").retain(|mount| {
        !["/sys", "/sys/fs/cgroup", "/dev/mqueue"].contains(&mount["destination"].as_str().expect("destination"))
    });
    container.spec["hostname"] = json!("");
    let ran = container.run();
    ended(other);
    assert_eq!(ran.ok().lines().collect::<Vec<_>>(), host);
}

#[test]
fn what_is_mounted_inside_does_not_appear_on_the_host() {
    if !can_run() {
        return;
    }
    // A volume that is a shared mount, as systemd makes all of them.
    let script = r#"set -e; mount -t tmpfs tmpfs "$1"; mount --make-shared "$1"; mkdir "$1/sub"; chmod 777 "$1" "$1/sub"
                    volume=$1; shift; "$@"; grep "$volume/sub" /proc/self/mountinfo || echo none"#;
    let ids = json!([{"containerID": 0, "hostID": 5, "size": 10}]);
    for (mapped, mut container) in
        [("container", in_user_namespace("")), ("mount", Container::new("")), ("nothing", Container::new(""))]
    {
        if mapped == "mount" && is_linux_before(6, 3) {
            println!("SKIP: the ids of a tmpfs cannot be mapped before Linux 6.3");
            continue;
        }
        let volume = container.folder.path().join("volume");
        std::fs::create_dir(&volume).expect("volume");
        let mut mount = json!({"destination": "/mnt", "source": volume.to_str(), "options": ["rbind"]});
        if mapped == "mount" {
            mount["uidMappings"] = ids.clone();
            mount["gidMappings"] = ids.clone();
        }
        container = container.add_mount(mount);
        let inside = "mount -t tmpfs tmpfs /mnt/sub && grep -c /mnt/sub /proc/self/mountinfo";
        container.spec["process"]["args"] = json!(["sh", "-c", inside]);
        for set in ["bounding", "effective", "permitted"] {
            container.spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
        container.write_config();
        let bundle = container.folder.path().to_str().expect("path");
        let run = container.command(&["run", "--bundle", bundle, &container.id]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(&volume);
        command.arg(run.get_program()).args(run.get_args());
        let ran = Ran::from(command.output().expect("unshare"));
        assert_eq!(ran.ok(), "1\nnone\n", "ids of the {mapped} are mapped");
    }
}
