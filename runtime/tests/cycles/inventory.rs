//! What containers of this test hold on the host. All of it carries the test's name or is below its folder, so
//! that other tests may run meanwhile; processes are its children, since orphans go to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::common::{by_systemd, left_behind};

/// Everything at one moment.
pub(crate) fn take(folder: &Path, name: &str) -> BTreeSet<String> {
    let mut things = BTreeSet::new();
    files(folder, &mut things);
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let text = folder.to_str().expect("path");
    things.extend(table.lines().filter(|line| line.contains(text)).map(|line| format!("mount {line}")));
    for mount in hierarchies(&table) {
        let groups = entries(&mount).into_iter().chain(entries(&mount.join("orlop")));
        things.extend(groups.filter(|path| is_named(path, name)).map(|path| format!("cgroup {}", path.display())));
        let slices = ["system.slice", "orlop.slice/orlop-test.slice"].map(|slice| entries(&mount.join(slice)));
        let scopes = slices.into_iter().flatten().filter(|path| is_named(path, &format!("orlop-{name}")));
        things.extend(scopes.map(|path| format!("cgroup {}", path.display())));
    }
    let devices = entries(Path::new("/sys/class/net")).into_iter();
    let prefix = device_prefix();
    things.extend(devices.filter(|path| is_named(path, &prefix)).map(|path| format!("device {}", path.display())));
    for path in entries(Path::new("/proc/self/fd")) {
        // The list holds the descriptor that it is read by, too.
        if let Ok(target) = std::fs::read_link(&path).map(|target| target.display().to_string())
            && !target.starts_with("/proc/")
        {
            things.insert(format!("descriptor {} {target}", path.display()));
        }
    }
    things
}

/// What the network devices of this test are called: such names have 15 bytes at most.
pub(crate) fn device_prefix() -> String {
    format!("oy{}-", std::process::id())
}

/// What one container holds, now.
pub(crate) fn of_container(root: &Path, id: &str, groups: &str) -> Vec<String> {
    let mut things = Vec::new();
    if root.join(id).exists() {
        things.push(format!("state {id}"));
    }
    if by_systemd() {
        things.extend(left_behind(id));
        return things;
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let top = groups.trim_start_matches('/').split('/').next().filter(|name| *name != "orlop");
    for mount in hierarchies(&table) {
        let path = mount.join(top.unwrap_or(groups.trim_start_matches('/')));
        if path.exists() {
            things.push(format!("cgroup {}", path.display()));
        }
    }
    things
}

/// The processes of this test, each with what it does.
pub(crate) fn processes_below_this() -> Vec<String> {
    let of = |pid: Pid| {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        format!("process {pid} {} waiting in {}: {}", read("stat"), read("wchan"), read("cmdline").replace('\0', " "))
    };
    descendants(std::process::id() as i32).into_iter().map(of).collect()
}

/// The children of a process, and theirs.
pub(crate) fn descendants(pid: i32) -> Vec<Pid> {
    let mut all = Vec::new();
    for task in entries(Path::new(&format!("/proc/{pid}/task"))) {
        let list = std::fs::read_to_string(task.join("children")).unwrap_or_default();
        for child in list.split_whitespace().filter_map(|number| number.parse().ok()) {
            all.push(Pid::from_raw(child));
            all.extend(descendants(child));
        }
    }
    all
}

fn files(folder: &Path, things: &mut BTreeSet<String>) {
    for path in entries(folder) {
        things.insert(format!("file {}", path.display()));
        if path.is_dir() && !path.is_symlink() {
            files(&path, things);
        }
    }
}

fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().filter_map(point).collect()
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
