//! Mounts with mapped ids, and user namespaces.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Container, can_run};

fn ids(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// A folder of the bundle with a file of the user and group `id`.
pub(crate) fn volume(container: &Container, id: u32) -> String {
    let folder = container.folder.path().join("volume");
    std::fs::create_dir_all(&folder).expect("volume");
    let file = folder.join("file");
    std::fs::write(&file, "content").expect("file");
    for path in [&file, &folder] {
        chown(path, Some(id), Some(id)).expect("chown");
    }
    folder.to_str().expect("path").to_owned()
}

fn in_user_namespace(script: &str) -> Container {
    let mut container = Container::new(script)
        .set("/linux/uidMappings", ids(0, 100_000, 65536))
        .set("/linux/gidMappings", ids(0, 100_000, 65536));
    for folder in ["mnt", "plain"] {
        std::fs::create_dir(container.rootfs().join(folder)).expect("folder");
    }
    container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({"type": "user"}));
    // The folders that lead to the bundle are closed to others.
    std::fs::set_permissions(container.folder.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    container
}

#[test]
fn a_mount_with_its_own_mapping() {
    if !can_run() {
        return;
    }
    let container = Container::new("stat -c %u:%g /mnt/file; touch /mnt/new");
    let source = volume(&container, 1000);
    let container = container.add_mount(json!({
        "destination": "/mnt", "source": source, "options": ["bind", "idmap"],
        "uidMappings": [{"containerID": 1000, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 1000, "hostID": 0, "size": 1}]
    }));
    assert_eq!(container.run().ok(), "0:0\n");
    let new = std::fs::metadata(Path::new(&source).join("new")).expect("new file");
    assert_eq!((new.uid(), new.gid()), (1000, 1000));
}

#[test]
fn a_mount_with_the_mapping_of_the_container() {
    if !can_run() {
        return;
    }
    let container = in_user_namespace("stat -c %u:%g /mnt/file; stat -c %u /plain/file; touch /mnt/new");
    let source = volume(&container, 0);
    let container = container
        .add_mount(json!({"destination": "/mnt", "source": source, "options": ["rbind", "ridmap", "nosuid"]}))
        .add_mount(json!({"destination": "/plain", "source": source, "options": ["rbind"]}));
    assert_eq!(container.run().ok(), "0:0\n65534\n");
    assert_eq!(std::fs::metadata(Path::new(&source).join("new")).expect("new file").uid(), 0);
}

#[test]
fn a_user_namespace_and_a_mount_with_another_mapping() {
    if !can_run() {
        return;
    }
    let container = in_user_namespace("stat -c %u:%g /mnt/file");
    let source = volume(&container, 7);
    let container = container.add_mount(json!({
        "destination": "/mnt", "source": source, "options": ["bind", "ro"],
        "uidMappings": ids(7, 100_003, 1), "gidMappings": ids(7, 100_004, 1)
    }));
    assert_eq!(container.run().ok(), "3:4\n");
}

#[test]
fn mappings_that_cannot_be() {
    if !can_run() {
        return;
    }
    let fails = |mount: Value| Container::new("true").add_mount(mount).run().error();
    let own = |kind: &str| json!({"destination": "/mnt", "type": kind, "source": "/tmp", "uidMappings": ids(0, 1, 1), "gidMappings": ids(0, 1, 1)});
    assert!(fails(own("tmpfs")).contains("only bind mounts"), "tmpfs");
    let half = json!({"destination": "/mnt", "source": "/tmp", "options": ["bind"], "uidMappings": ids(0, 1, 1)});
    assert!(fails(half).contains("mounts[/mnt].gidMappings"), "half");
    let none = json!({"destination": "/mnt", "source": "/tmp", "options": ["bind", "idmap"]});
    assert!(fails(none).contains("mounts[/mnt].options"), "none");
}

#[test]
fn a_user_namespace_by_path() {
    if !can_run() {
        return;
    }
    let owner = in_user_namespace("sleep 1000");
    owner.run_detached().ok();
    let path = format!("/proc/{}/ns/user", owner.state()["pid"]);
    let script = "readlink /proc/self/ns/user; stat -c %u /mnt/file; id -u; cat /proc/self/oom_score_adj; hostname";
    let container = in_user_namespace(script).set("/process/oomScoreAdj", json!(77));
    let source = volume(&container, 0);
    let mut container =
        container.add_mount(json!({"destination": "/mnt", "source": source, "options": ["bind", "idmap"]}));
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.last_mut().expect("user namespace")["path"] = json!(path);
    for field in ["uidMappings", "gidMappings"] {
        container.spec["linux"].as_object_mut().expect("linux").remove(field);
    }
    let namespace = std::fs::read_link(&path).expect("namespace");
    assert_eq!(container.run().ok(), format!("{}\n0\n0\n77\nbox\n", namespace.display()));
}
