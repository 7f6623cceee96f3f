//! Version 1 hierarchies.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Group;
use super::apply::write_setting;
use super::detect::Hierarchy;
use super::files::{read_file, write_file};
use super::folders::{make_one, make_own};
use super::limits::Setting;
use crate::error::{Error, Failure};

/// What every container takes part in: for its limits to be updated, for statistics, out-of-memory events,
/// device control, and for finding, freezing and killing its processes.
const ALWAYS: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "devices"];

/// Whether a container has a reason to be in this hierarchy: it is one of those above, it holds a limit that
/// is set, or the group above the container's is there, so that somebody set a limit for the pod.
pub(super) fn matters(hierarchy: &Hierarchy, relative: &Path, limited: &[Setting]) -> bool {
    let has = |name: &str| hierarchy.controllers.iter().any(|known| known == name);
    let parent = relative.parent().filter(|parent| !parent.as_os_str().is_empty());
    ALWAYS.into_iter().any(has)
        || limited.iter().any(|setting| !setting.optional && has(setting.controller))
        || parent.is_some_and(|parent| hierarchy.mounted.at.join(parent).is_dir())
}

/// Makes the group's folder and those above it.
pub(super) fn make(group: &Group) -> Result<(), Failure> {
    let cpuset = group.has("cpuset");
    if !cpuset {
        // The usual case is one missing folder; walk only when there are more.
        match make_own(&group.folder) {
            Err(failure) if failure.errno == Errno::ENOENT as i32 => (),
            result => return result,
        }
    }
    let relative = group.folder.strip_prefix(&group.mount).unwrap_or(Path::new(""));
    let mut folder = group.mount.clone();
    for component in relative {
        folder.push(component);
        make_one(&folder, group)?;
        if cpuset {
            inherit_cpuset(&folder)?;
        }
    }
    Ok(())
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

/// The files of the limits on memory, and on memory and swap together.
pub(super) const MEMORY: &str = "memory.limit_in_bytes";
const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// Sets the limit on memory. It may not exceed that on memory and swap together: when it grows past that, the
/// other goes first. That one becomes `swap` if it is about to be set anyway; else it leaves room for as much
/// swap as before.
pub(super) fn set_memory(folder: &Path, setting: &Setting, swap: Option<i64>) -> Result<(), Error> {
    let read = |file: &str| -> Option<i64> { read_file(&folder.join(file)).ok()?.trim().parse().ok() };
    let both = folder.join(MEMORY_AND_SWAP);
    // Where the kernel does not count swap there is no such file.
    let raised = match (read(MEMORY_AND_SWAP), setting.value.parse::<i64>()) {
        (Some(old), Ok(new)) if new < 0 || new > old => {
            let room = old.saturating_sub(read(MEMORY).unwrap_or(old));
            let with_room = if new < 0 { -1 } else { new.saturating_add(room) };
            write_file(&both, &swap.unwrap_or(with_room).to_string())?;
            Some(old)
        }
        _ => None,
    };
    write_setting(folder, setting).inspect_err(|_| {
        if let Some(old) = raised {
            let _ = write_file(&both, &old.to_string());
        }
    })
}

/// The weights are the I/O scheduler's: where there is BFQ and no CFQ, the files are called after it.
pub(super) fn named_by_scheduler(folder: &Path, setting: Setting) -> Setting {
    match setting.file.strip_prefix("blkio.weight") {
        Some(rest) if !folder.join(&setting.file).exists() => {
            let file = format!("blkio.bfq.weight{rest}");
            if folder.join(&file).exists() { Setting { file, ..setting } } else { setting }
        }
        _ => setting,
    }
}

pub(super) fn is_frozen(folder: &Path) -> bool {
    // FREEZING is on the way there and needs thawing just the same.
    read_file(&folder.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED")
}

/// Begins to freeze.
pub(super) fn ask_to_freeze(folder: &Path) -> Result<(), Failure> {
    write_file(&folder.join("freezer.state"), "FROZEN")
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
