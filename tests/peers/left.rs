//! What an engine and its containers left: everything that they had was below one folder, or bears its path.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The mounts, the processes and the cgroups that belong to the folder's containers.
pub(crate) fn below(folder: &Path) -> Result<Vec<String>> {
    let mut left = BTreeSet::new();
    let text = folder.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    left.extend(mounts.lines().filter(|line| line.contains(&text)).map(|line| format!("mount {line}")));
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&text) {
            left.insert(format!("process {} {line}", entry.file_name().display()));
        }
    }
    for id in std::fs::read_to_string(ids(folder)).unwrap_or_default().lines() {
        named(Path::new("/sys/fs/cgroup"), 4, id, &mut left);
        // The runtime's state too, where the engine says where that is.
        named(folder, 5, id, &mut left);
        let state = Path::new("/run/orlop/runtime").join(id);
        if state.exists() {
            left.insert(format!("state {}", state.display()));
        }
    }
    Ok(left.into_iter().collect())
}

/// The file with the ids of all containers that were made.
fn ids(folder: &Path) -> PathBuf {
    folder.join("ids")
}

/// Keeps the id of a container, for what it must not leave.
pub(crate) fn note(folder: &Path, id: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ids(folder))?;
    Ok(writeln!(file, "{id}")?)
}

/// The folders whose name has the id in it.
fn named(folder: &Path, depth: usize, id: &str, left: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(id) {
            left.insert(format!("folder {}", entry.path().display()));
        }
        if depth > 1 {
            named(&entry.path(), depth - 1, id, left);
        }
    }
}
