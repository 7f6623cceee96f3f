//! What is mounted in a container of an ordinary user.

use serde_json::json;

use super::user::{User, can_run};

#[test]
fn filesystems_and_devices() {
    if !can_run() {
        return;
    }
    let script = "for node in null zero full random urandom tty; do stat -c '%n %t:%T %a %u' /dev/$node; done; \
                  echo x > /dev/null; head -c 2 /dev/zero | wc -c; \
                  for where in /proc /sys /dev /dev/pts /dev/shm /dev/mqueue; do stat -f -c %T $where; done; \
                  wc -c < /proc/keys; echo 1 > /proc/sys/net/ipv4/ip_forward || echo protected; \
                  ls /sys/class/net; cat /sys/class/net/lo/flags; touch /dev/shm/x /dev/mqueue/x && echo written";
    let output = User::new(script).run();
    let text = output.ok();
    let expected = "/dev/null 1:3 666 65534\n/dev/zero 1:5 666 65534\n/dev/full 1:7 666 65534\n\
                    /dev/random 1:8 666 65534\n/dev/urandom 1:9 666 65534\n/dev/tty 5:0 666 65534\n2\n";
    let rest = text.strip_prefix(expected).unwrap_or_else(|| panic!("{text}"));
    assert!(rest.ends_with("0\nprotected\nlo\n0x9\nwritten\n"), "{rest}");
}

#[test]
fn cgroups_that_are_not_the_containers_are_read_only() {
    if !can_run() {
        return;
    }
    // As the configuration wants them writable.
    let mut user = User::new("cat /proc/self/mountinfo; ls /sys/fs/cgroup").by_cgroupfs();
    for mount in user.container.spec["mounts"].as_array_mut().expect("mounts") {
        if mount["destination"] == "/sys/fs/cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev"]);
        }
    }
    let text = user.run().ok();
    let cgroups = mounts_below(&text, "/sys/fs/cgroup");
    assert!(!cgroups.is_empty(), "{text}");
    assert!(cgroups.iter().all(|(_, options)| options.starts_with("ro,")), "{cgroups:?}");
}

/// Mount points and options of the mounts at and below a folder, as far as nothing is mounted over them.
fn mounts_below(mountinfo: &str, folder: &str) -> Vec<(String, String)> {
    let all = mountinfo.lines().filter(|line| line.contains(" - ")).map(|line| line.split(' ').collect::<Vec<_>>());
    all.filter(|fields| fields[4].starts_with(folder)).map(|fields| (fields[4].into(), fields[5].into())).collect()
}

#[test]
fn the_hosts_sys_comes_with_the_hosts_network() {
    if !can_run() {
        return;
    }
    let mut user = User::new("stat -f -c %t /sys; cat /proc/self/mountinfo");
    user.container.spec["linux"]["namespaces"].as_array_mut().expect("list").retain(|one| one["type"] != "network");
    user.container.spec["mounts"].as_array_mut().expect("list").retain(|one| one["destination"] != "/sys/fs/cgroup");
    let text = user.run().ok();
    assert!(text.starts_with("62656572\n"), "{text}");
    let below = mounts_below(&text, "/sys");
    // Also what is mounted in it: a cgroup there may be delegated to the user.
    assert!(below.len() > 1 && below.iter().all(|(_, options)| options.starts_with("ro,")), "{below:?}");

    // The same said by the configuration, which spec writes for an ordinary user. One from systemd is the container's own.
    let user = user.add_mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
    let text = user.run().ok();
    let is_own = |point: &str| user.systemd && point == "/sys/fs/cgroup";
    let mut below = mounts_below(&text, "/sys");
    assert_eq!(below.last().map(|(point, options)| is_own(point) && options.starts_with("rw,")), Some(user.systemd));
    below.pop_if(|(point, _)| is_own(point));
    assert!(below.iter().all(|(_, options)| options.starts_with("ro,")), "{text}");
}

#[test]
fn the_configuration_that_spec_writes() {
    if !can_run() {
        return;
    }
    let user = User::new("");
    std::fs::remove_file(user.folder().join("config.json")).ok();
    user.call(&["spec", "--rootless", "--bundle", user.folder().to_str().expect("path")]).ok();
    let text = std::fs::read(user.folder().join("config.json")).expect("config.json");
    let mut user = user;
    user.container.spec = serde_json::from_slice(&text).expect("config.json");
    let script = "touch /x || echo read-only; echo > /sys/fs/cgroup/x || echo read-only; id -u";
    let user = user
        .set("/process/args", json!(["sh", "-c", script]))
        .set("/process/env", json!(["PATH=/bin"]))
        .set("/process/terminal", json!(false));
    assert_eq!(user.run().ok(), "read-only\nread-only\n0\n");
}

#[test]
fn devices_are_the_hosts_or_refused() {
    if !can_run() {
        return;
    }
    let device = |path: &str, major: u32, minor: u32| json!([{"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 438}]);
    let user = User::new("stat -c %t:%T /dev/null /dev/pipe; test -p /dev/pipe && echo pipe")
        .set("/linux/devices", json!([{"path": "/dev/pipe", "type": "p", "fileMode": 384}]));
    assert_eq!(user.run().ok(), "1:3\n0:0\npipe\n");
    let error = User::new("true").set("/linux/devices", device("/dev/null", 1, 5)).run().error();
    assert!(error.contains("bind device /dev/null") && error.contains("is not 1:5"), "{error}");
    let error = User::new("true").set("/linux/devices", device("/dev/no-such", 1, 3)).run().error();
    assert!(error.contains("bind device /dev/no-such: No such file"), "{error}");
}

#[test]
fn binds_of_what_is_the_users() {
    if !can_run() {
        return;
    }
    let user = User::new("cat /mnt/file; touch /mnt/x || echo read-only; stat -c %u /mnt/file");
    let volume = user.folder().join("volume");
    std::fs::create_dir(&volume).expect("volume");
    std::fs::write(volume.join("file"), "content\n").expect("file");
    super::user::give(&volume, super::user::ID);
    let source = volume.to_str().expect("path").to_owned();
    let user = user.add_mount(json!({"destination": "/mnt", "source": source, "options": ["rbind", "ro"]}));
    assert_eq!(user.run().ok(), "content\nread-only\n0\n");
}
