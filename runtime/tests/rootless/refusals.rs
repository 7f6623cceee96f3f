//! What an ordinary user cannot have: refused by name, and nothing is left.

use serde_json::{Value, json};

use super::user::{ID, User, can_run};

#[track_caller]
fn refused(user: &User, words: &[&str]) {
    let error = user.run().error();
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    assert_eq!(user.left_behind(), Vec::<String>::new());
}

#[test]
fn by_the_configuration() {
    if !can_run() {
        return;
    }
    let mut user = User::new("true").set("/linux/uidMappings", Value::Null).set("/linux/gidMappings", Value::Null);
    user.container.spec["linux"]["namespaces"].as_array_mut().expect("list").retain(|one| one["type"] != "user");
    refused(&user, &["linux.namespaces", "rootless container requires user namespaces"]);
    let user = User::new("true").set("/process/user/additionalGids", json!([0]));
    refused(&user, &["process.user.additionalGids", "cannot set any additional groups in a rootless container"]);
    refused(&User::new("true").set("/process/user/uid", json!(5)), &["process.user.uid: 5 is not mapped"]);
    refused(&User::new("true").set("/linux/netDevices", json!({"lo": {}})), &["linux.netDevices"]);
    let mount =
        |kind: &str, options: Value| json!({"destination": "/m", "type": kind, "source": "/", "options": options});
    let user = User::new("true").add_mount(mount("bind", json!(["bind", "idmap"])));
    refused(&user, &["mounts[/m]", "id-mapped mounts are not supported for rootless containers"]);
    refused(
        &User::new("true").add_mount(mount("tmpfs", json!(["gid=5"]))),
        &["mounts[/m].options[gid=5]", "5 is not mapped"],
    );
}

#[test]
fn by_the_kernel() {
    if !can_run() {
        return;
    }
    refused(&User::new("true").set("/process/oomScoreAdj", json!(-5)), &["process.oomScoreAdj", "Permission denied"]);
    let mut user = User::new("true");
    user.container.spec["linux"]["namespaces"].as_array_mut().expect("list").retain(|one| one["type"] != "ipc");
    refused(&user, &["mqueue at /dev/mqueue", "IPC namespace"]);
    let mut user = User::new("true");
    user.container.spec["linux"]["namespaces"].as_array_mut().expect("list").retain(|one| one["type"] != "pid");
    refused(&user, &["proc at /proc", "process namespace"]);
    // Another's id needs somebody with the right to map it.
    let user = User::new("true").set("/linux/uidMappings", json!([{"containerID": 0, "hostID": ID + 1, "size": 1}]));
    refused(&user, &["linux.uidMappings", "newuidmap", "/etc/subuid"]);
}

#[test]
fn limits_without_a_cgroup() {
    if !can_run() {
        return;
    }
    let limits = json!({"pids": {"limit": 7}});
    let user = User::new("true").set("/linux/resources", limits.clone()).by_cgroupfs();
    refused(&user, &["cannot set pids limit: container could not join or create cgroup", "linux.resources.pids.limit"]);
    // A place that somebody asked for is not done without, limits or not.
    let user = User::new("true").set("/linux/cgroupsPath", json!("/orlop-test-no-permission")).by_cgroupfs();
    refused(&user, &["make cgroup", "orlop-test-no-permission", "Permission denied"]);
    let user = User::new("true").by_cgroupfs();
    user.container.write_config();
    let bundle = user.folder().to_str().expect("path");
    let error = user.call(&["--rootless", "false", "run", "-b", bundle, user.id()]).error();
    assert!(error.contains("make cgroup"), "{error}");
    user.call(&["--rootless", "true", "run", "-b", bundle, user.id()]).ok();

    let user = User::new("exec sleep 1000").by_cgroupfs();
    user.run_detached();
    assert!(user.call(&["pause", user.id()]).error().contains("cgroups not configured for container"));
    let error = user.call(&["update", "--pids-limit", "7", user.id()]).error();
    assert!(error.contains("cannot set pids limit: container could not join or create cgroup"), "{error}");
    let error = user.call(&["exec", "-g", "7", user.id(), "true"]).error();
    assert!(error.contains("cannot set any additional groups in a rootless container"), "{error}");
    user.call(&["events", "--stats", user.id()]).ok();
}

#[test]
fn by_a_kernel_parameter() {
    if !can_run() {
        return;
    }
    let user = User::new("true").set("/linux/uidMappings", ids()).set("/linux/gidMappings", ids());
    user.container.write_config();
    let folder = user.folder().display();
    // The parameter is one of each user namespace, and holds for those below it.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {folder}/orlop-runtime --root {folder}/run/x run -b {folder} {}",
        user.id()
    );
    let ran = user.command_of("unshare", &["--user", "--map-root-user", "--mount", "sh", "-c", &script]).output();
    let error = super::common::Ran::from(ran.expect("unshare")).error();
    assert!(error.contains("clone the container's process: No space left on device"), "{error}");
    assert!(error.contains("set the kernel parameter user.max_user_namespaces=15000"), "{error}");
    assert_eq!(std::fs::read_dir(user.folder().join("run/x")).expect("state").count(), 0);
}

fn ids() -> Value {
    json!([{"containerID": 0, "hostID": 0, "size": 1}])
}
