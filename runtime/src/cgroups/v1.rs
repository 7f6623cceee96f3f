//! Version 1 hierarchies.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::detect::Hierarchy;
use super::devices::{Access, DevicePolicy};
use super::{Group, limits, read_file, write_file};
use crate::error::{Context, Failure};

/// What every container takes part in: for its limits to be updated, for statistics, out-of-memory events,
/// device control, and for finding, freezing and killing its processes.
const ALWAYS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "devices"];

/// Whether a container has a reason to be in this hierarchy: it is one of those above, it holds a limit that
/// is set, or the group above the container's is there, so that somebody set a limit for the pod.
pub(super) fn matters(hierarchy: &Hierarchy, relative: &Path, resources: Option<&LinuxResources>) -> bool {
    let has = |name: &str| hierarchy.controllers.iter().any(|known| known == name);
    let limited = resources.map(limits::v1).unwrap_or_default();
    let parent = relative.parent().filter(|parent| !parent.as_os_str().is_empty());
    ALWAYS.into_iter().any(has)
        || limited.iter().any(|setting| has(setting.controller))
        || parent.is_some_and(|parent| hierarchy.mount.join(parent).is_dir())
}

/// Makes the group's folder and those above it.
pub(super) fn make(group: &Group) -> Result<(), Failure> {
    let cpuset = group.has("cpuset");
    if !cpuset {
        // The usual case is one missing folder; walk only when there are more.
        match std::fs::create_dir(&group.folder).at("make cgroup", group.folder.display()) {
            Ok(()) => return Ok(()),
            Err(failure) if failure.errno == Errno::EEXIST as i32 => return refuse_if_used(&group.folder),
            Err(failure) if failure.errno == Errno::ENOENT as i32 => (),
            Err(failure) => return Err(failure),
        }
    }
    let relative = group.folder.strip_prefix(&group.mount).unwrap_or(Path::new(""));
    let mut folder = group.mount.clone();
    for component in relative {
        folder.push(component);
        match std::fs::create_dir(&folder).at("make cgroup", folder.display()) {
            Err(failure) if failure.errno != Errno::EEXIST as i32 => return Err(failure),
            Err(_) if folder == group.folder => refuse_if_used(&folder)?,
            _ => (),
        }
        if cpuset {
            inherit_cpuset(&folder)?;
        }
    }
    Ok(())
}

/// A group that is there already may be what an earlier container of this path left, but not in use.
pub(super) fn refuse_if_used(folder: &Path) -> Result<(), Failure> {
    match read_file(&folder.join("cgroup.procs"))?.lines().next() {
        None => Ok(()),
        Some(pid) => {
            let note = format!("process {pid} is in there already; give each container its own linux.cgroupsPath");
            Err(Failure::refused("make cgroup", folder.display(), note))
        }
    }
}

/// A new cpuset group has no processors and no memory nodes and can hold no process: take its parent's.
fn inherit_cpuset(folder: &Path) -> Result<(), Failure> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = folder.join(file);
        if read_file(&path)?.trim().is_empty() {
            let parent = folder.parent().unwrap_or(folder).join(file);
            write_file(&path, read_file(&parent)?.trim())?;
        }
    }
    Ok(())
}

/// The present limit on memory and swap together, where the kernel counts swap.
pub(super) fn current_memory_and_swap(group: &Group) -> Option<u64> {
    if !group.has("memory") {
        return None;
    }
    read_file(&group.folder.join("memory.memsw.limit_in_bytes")).ok()?.trim().parse().ok()
}

/// Sets the device list.
pub(super) fn set_devices(folder: &Path, policy: &DevicePolicy) -> Result<(), Failure> {
    let file = |allow: bool| folder.join(if allow { "devices.allow" } else { "devices.deny" });
    write_file(&file(policy.default_allow), "a")?;
    for rule in &policy.rules {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let access: String = [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')]
            .into_iter()
            .filter_map(|(bit, letter)| rule.access.has(bit).then_some(letter))
            .collect();
        for kind in rule.kinds() {
            let line = format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
            write_file(&file(rule.allow), &line)?;
        }
    }
    Ok(())
}

pub(super) fn is_frozen(folder: &Path) -> bool {
    // FREEZING is on the way there and needs thawing just the same.
    read_file(&folder.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED")
}

/// Freezes, which the kernel may have to be asked for more than once while processes fork, or thaws.
pub(super) fn freeze(folder: &Path, frozen: bool) -> Result<(), Failure> {
    let path = folder.join("freezer.state");
    let target = if frozen { "FROZEN" } else { "THAWED" };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        write_file(&path, target)?;
        if read_file(&path)?.trim() == target {
            return Ok(());
        }
        if Instant::now() > deadline {
            write_file(&path, "THAWED")?;
            return Err(Failure::refused("freeze", folder.display(), "not frozen within 10 s; thawed again"));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
