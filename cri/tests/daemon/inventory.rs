//! What a node of these tests could leave on the host, by the names that are its own.

use std::fs;
use std::path::Path;

use crate::node::Names;

/// Everything that is there and has a name of this node.
pub(crate) fn leftovers(names: &Names) -> Vec<String> {
    let mut found = Vec::new();
    let (run, state) = (names.run.to_string_lossy().into_owned(), names.state.to_string_lossy().into_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts.lines().filter(|line| line.contains(&run) || line.contains(&state)).map(|line| format!("mount {line}")),
    );
    for folder in [
        names.run.join("pods"),
        names.run.join("runtime"),
        names.run.join("runtime.runc"),
        names.state.join("cri/sandboxes"),
        names.state.join("cri/containers"),
        names.state.join("cri/upper"),
        names.state.join("cri/trash"),
    ] {
        found.extend(children(&folder).into_iter().map(|name| format!("{}/{name}", folder.display())));
    }
    let addresses = names.state.join("cni/networks").join(&names.network);
    let addresses = children(&addresses).into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok());
    found.extend(addresses.map(|address| format!("address {address}")));
    for hierarchy in children(Path::new("/sys/fs/cgroup")).into_iter().chain([String::new()]) {
        let parent = Path::new("/sys/fs/cgroup").join(hierarchy).join(names.cgroup.trim_start_matches('/'));
        let cgroups = fs::read_dir(&parent).into_iter().flatten().flatten();
        let cgroups = cgroups.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        found.extend(cgroups.map(|entry| format!("cgroup {}", entry.path().display())));
    }
    let ports = children(&Path::new("/sys/class/net").join(&names.bridge).join("brif"));
    found.extend(ports.into_iter().map(|port| format!("port {port}")));
    found.extend(processes(&run));
    found
}

/// What works in the node's folders, its daemon left out.
fn processes(run: &str) -> Vec<String> {
    let pids = children(Path::new("/proc")).into_iter().filter(|name| name.parse::<i32>().is_ok());
    pids.filter_map(|pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " ");
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let daemon = command.contains("--cni-conf-dir");
        let ours = !daemon && (cwd.starts_with(run) || command.contains(run));
        ours.then(|| format!("process {pid} {command}"))
    })
    .collect()
}

fn children(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
