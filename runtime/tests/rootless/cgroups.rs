//! A cgroup that is delegated to the user.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::common::wait_until;
use super::user::{ID, User, can_run, give};

/// Folders of this test in every hierarchy, the user's.
struct Delegated {
    name: String,
    folders: Vec<PathBuf>,
}

impl Delegated {
    fn new() -> Delegated {
        let name = format!("orlop-test-delegated-{}", std::process::id());
        let base = Path::new("/sys/fs/cgroup");
        let mut bases: Vec<PathBuf> = vec![base.to_path_buf()];
        if !base.join("cgroup.controllers").exists() {
            bases = std::fs::read_dir(base).expect("cgroups").flatten().map(|entry| entry.path()).collect();
            bases.retain(|path| path.is_dir() && !path.is_symlink());
        }
        let mut delegated = Delegated { name, folders: Vec::new() };
        for base in bases {
            let folder = base.join(&delegated.name);
            std::fs::create_dir(&folder).expect("make cgroup");
            delegated.folders.push(folder.clone());
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = std::fs::read_to_string(base.join(file)) {
                    let _ = std::fs::write(folder.join(file), all.trim());
                }
            }
            nix::unistd::chown(&folder, Some(ID.into()), Some(ID.into())).expect("chown");
            for file in ["tasks", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                if folder.join(file).exists() {
                    give(&folder.join(file), ID);
                }
            }
        }
        delegated
    }

    /// The version 2 group.
    fn unified(&self) -> Option<&PathBuf> {
        self.folders.iter().find(|folder| folder.join("cgroup.controllers").exists())
    }

    fn file(&self, controller: &str, group: &str, file: &str) -> String {
        let has = |folder: &&PathBuf| folder.parent().and_then(Path::file_name).is_some_and(|name| name == controller);
        let folder = self.folders.iter().find(has).unwrap_or(&self.folders[0]);
        std::fs::read_to_string(folder.join(group).join(file)).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = std::fs::remove_dir(folder.join("caller"));
            let removed = std::fs::remove_dir(folder);
            if !std::thread::panicking() {
                removed.expect("nothing may be left in the cgroup");
            }
        }
    }
}

#[test]
fn is_used_fully() {
    if !can_run() {
        return;
    }
    let delegated = Delegated::new();
    let mut user = User::new("sleep 1000 & exec sleep 1000")
        .set("/linux/cgroupsPath", json!(format!("/{}/box", delegated.name)))
        .set("/linux/resources", json!({"pids": {"limit": 50}, "devices": [{"allow": false, "access": "rwm"}]}))
        .by_cgroupfs();
    if let Some(unified) = delegated.unified() {
        // Who moves a process between two groups needs the one above both.
        let caller = unified.join("caller");
        std::fs::create_dir(&caller).expect("make cgroup");
        give(&caller.join("cgroup.procs"), ID);
        user.cgroup = Some(caller);
    }
    user.run_detached();
    assert_eq!(delegated.file("pids", "box", "pids.max"), "50");
    let pids = || user.call(&["ps", "-f", "json", user.id()]).ok();
    wait_until("two processes", || serde_json::from_str::<Vec<u32>>(&pids()).expect("pids").len() == 2);
    user.call(&["update", "--pids-limit", "60", user.id()]).ok();
    assert_eq!(delegated.file("pids", "box", "pids.max"), "60");
    user.call(&["pause", user.id()]).ok();
    assert_eq!(user.status(), "paused");
    user.call(&["resume", user.id()]).ok();
    let inside = user.exec("cat /proc/self/cgroup; ls -d /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max").stdout;
    assert!(inside.contains("pids.max"), "{inside}");
    let stats = user.call(&["events", "--stats", user.id()]).ok();
    assert!(stats.contains("\"limit\":60"), "{stats}");
    user.call(&["kill", "--all", user.id(), "KILL"]).ok();
    wait_until("death", || user.status() == "stopped");
    user.call(&["delete", user.id()]).ok();
    for folder in &delegated.folders {
        assert!(!folder.join("box").exists(), "{}", folder.display());
    }
}

/// Where version 2 is mounted.
fn version_2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(at))
    });
    if found.is_none() {
        println!("SKIP: no cgroup2 is mounted");
    }
    found
}

#[test]
fn of_version_2_alone() {
    let Some(mounted) = version_2().filter(|_| can_run()) else { return };
    // Without a group of its own a container sees the caller's, and cannot change it.
    let mut user =
        User::new("grep ' /sys/fs/cgroup ' /proc/self/mountinfo; echo 1 > /sys/fs/cgroup/cgroup.procs || echo no")
            .by_cgroupfs();
    user.unified = true;
    let output = user.run().ok();
    assert!(output.contains(" ro,") && output.contains("cgroup2") && output.ends_with("no\n"), "{output}");
    let mut user = User::new("true").set("/linux/resources", json!({"memory": {"limit": 1 << 20}})).by_cgroupfs();
    user.unified = true;
    let error = user.run().error();
    assert!(error.contains("cannot set memory limit") && error.contains("linux.resources.memory"), "{error}");

    let name = format!("orlop-test-delegated-{}-v2", std::process::id());
    let delegated = Delegated { folders: vec![mounted.join(&name)], name };
    let top = &delegated.folders[0];
    std::fs::create_dir_all(top.join("caller")).expect("make cgroup");
    nix::unistd::chown(top, Some(ID.into()), Some(ID.into())).expect("chown");
    for file in ["cgroup.procs", "cgroup.subtree_control", "caller/cgroup.procs"] {
        give(&top.join(file), ID);
    }
    let path = json!(format!("/{}/box", delegated.name));
    let mut user = User::new("sleep 1000 & exec sleep 1000").set("/linux/cgroupsPath", path).by_cgroupfs();
    user.unified = true;
    // From elsewhere nobody gets in there.
    let error = user.create().error();
    assert!(error.contains("clone the container's process: Permission denied (its cgroup"), "{error}");
    user.cgroup = Some(Path::new("/sys/fs/cgroup").join(&delegated.name).join("caller"));
    user.run_detached();
    let pids = || user.call(&["ps", "-f", "json", user.id()]).ok();
    wait_until("two processes", || serde_json::from_str::<Vec<u32>>(&pids()).expect("pids").len() == 2);
    user.call(&["pause", user.id()]).ok();
    assert_eq!(user.status(), "paused");
    user.call(&["resume", user.id()]).ok();
    assert!(user.exec("grep ^0: /proc/self/cgroup").ok().starts_with("0::/"));
    user.call(&["kill", "--all", user.id(), "KILL"]).ok();
    wait_until("death", || user.status() == "stopped");
    user.call(&["delete", user.id()]).ok();
    assert!(!top.join("box").exists());
}
