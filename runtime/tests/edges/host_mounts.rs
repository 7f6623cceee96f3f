//! Containers without a mount namespace of their own.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Container, can_run};

fn without_mount_namespace(script: &str) -> Container {
    let mut container = Container::new(script);
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "mount");
    container
}

fn mounts() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    // Without the propagation, which others may change.
    table.lines().map(|line| line.split(" - ").next().expect("field").to_owned()).collect()
}

fn mounts_at(container: &Container) -> Vec<String> {
    let folder = container.folder.path().to_str().expect("path").to_owned();
    mounts().into_iter().filter(|mount| mount.contains(&folder)).collect()
}

#[test]
fn the_host_s_is_inherited_and_nothing_is_mounted_there() {
    if !can_run() {
        return;
    }
    let script = "readlink /proc/self/ns/mnt; ls /bin/busybox /etc/hosts /dev/null; cat /proc/keys; \
                  echo x >/proc/sys/kernel/hostname; cat /data/file; echo to >/dev/shm/here; cat /dev/shm/here";
    let container = without_mount_namespace(script);
    let data = container.folder.path().join("data");
    std::fs::create_dir(&data).expect("data");
    std::fs::write(data.join("file"), "of the volume\n").expect("file");
    let container = container.add_mount(json!({"destination": "/data", "source": data, "options": ["rbind", "ro"]}));
    container.create().ok();
    assert_eq!(mounts_at(&container), Vec::<String>::new());
    let own = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("namespace");
    assert_eq!(own(&container.state()["pid"].to_string()), own("self"));
    container.start().ok();
    crate::common::wait_until("the end", || container.status() == "stopped");
    let expected = format!("{}\n/bin/busybox\n/dev/null\nof the volume\nto\n", own("self").display());
    assert_eq!(container.output(), expected);
    let errors = std::fs::read_to_string(container.folder.path().join("errors")).expect("errors");
    assert!(errors.contains("Read-only file system"), "the paths of the spec are read-only: {errors}");
    assert!(errors.contains("/etc/hosts: No such file"), "{errors}");
    assert_eq!(mounts_at(&container), Vec::<String>::new());
}

#[test]
fn exec_finds_the_container_s_root() {
    if !can_run() {
        return;
    }
    let container = without_mount_namespace("echo inside >/dev/shm/mark; exec sleep 1000");
    container.run_detached().ok();
    crate::common::wait_until("the mark", || container.exec("test -s /dev/shm/mark").code == Some(0));
    assert_eq!(
        container.exec("cat /dev/shm/mark; pwd; ls -d /bin/busybox; id -u").ok(),
        "inside\n/\n/bin/busybox\n0\n"
    );
    assert_eq!(container.exec("cat /proc/1/cmdline").ok(), "sleep\u{0}1000\u{0}");
    container.call(&["kill", &container.id, "KILL"]).ok();
}

/// The usual way out of a chroot, a descriptor of the old root in a new one, ends at the container's own root.
#[test]
fn a_second_chroot_leads_nowhere() {
    if !can_run() {
        return;
    }
    let script = "exec 9</; ls -di /; chroot /a /bin/busybox ls -di /proc/self/fd/9/.. /proc/self/fd/9/../..";
    let sets = json!(["CAP_SYS_CHROOT"]);
    let container = without_mount_namespace(script)
        .set("/process/capabilities", json!({"bounding": sets, "effective": sets, "permitted": sets}))
        .add_mount(json!({"destination": "/a/proc", "type": "proc", "source": "proc"}));
    let inside = container.rootfs().join("a/bin");
    std::fs::create_dir_all(&inside).expect("folder");
    std::fs::copy("/bin/busybox", inside.join("busybox")).expect("busybox");
    std::os::unix::fs::symlink("busybox", container.rootfs().join("bin/chroot")).expect("applet");
    let shown = container.run().ok();
    let inodes: Vec<&str> = shown.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(inodes.len() == 3 && inodes.iter().all(|inode| *inode == inodes[0]), "{shown}");
}

#[test]
fn a_read_only_root() {
    if !can_run() {
        return;
    }
    let container =
        without_mount_namespace("touch /file; touch /dev/shm/file && echo done").set("/root/readonly", json!(true));
    let ran = container.run();
    assert!(ran.stderr.contains("Read-only"), "{}", ran.stderr);
    assert_eq!(ran.ok(), "done\n");
}

#[test]
fn what_needs_a_mount_namespace_is_refused() {
    if !can_run() {
        return;
    }
    let refused = |container: Container, field: &str| {
        let error = container.run().error();
        assert!(error.contains(field) && error.contains("mount namespace"), "{error}");
    };
    refused(
        without_mount_namespace("true").set("/linux/rootfsPropagation", json!("rslave")),
        "linux.rootfsPropagation",
    );
    let shared = json!({"destination": "/tmp", "source": "/tmp", "options": ["rbind", "rshared"]});
    refused(without_mount_namespace("true").add_mount(shared), "mounts[/tmp]");
    let mut user = without_mount_namespace("true");
    let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    user.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    refused(user.set("/linux/uidMappings", ids.clone()).set("/linux/gidMappings", ids), "user namespace");
    // By path it would be the host whose root is changed.
    let mut by_path = without_mount_namespace("true");
    let entry: Value = json!({"type": "mount", "path": "/proc/self/ns/mnt"});
    by_path.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(entry);
    let before = mounts();
    refused(by_path, "linux.namespaces: mount");
    assert!(Path::new("/proc/self").exists());
    assert_eq!(mounts().len(), before.len());
}

/// Whatever name it has: the host's mounts would be gone from the host.
#[test]
fn no_pivot_takes_no_shared_propagation() {
    if !can_run() {
        return;
    }
    for mode in ["shared", "rshared"] {
        let container = Container::new("true").set("/linux/rootfsPropagation", json!(mode));
        container.write_config();
        let bundle = container.folder.path().to_str().expect("path");
        let error = container.call(&["run", "--no-pivot", "--bundle", bundle, &container.id]).error();
        assert!(error.contains("--no-pivot with shared propagation"), "{mode}: {error}");
        assert!(Path::new("/proc/self/stat").exists());
    }
}
