//! The folders of groups: made, taken over, removed with what is above and below them.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{Cgroups, EMPTY_WITHIN, Group, Version, v1, v2};
use crate::error::{Context, Failure};

impl Cgroups {
    /// Removes the groups and those above them that `create` made, if nothing else uses them by now.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        let mut first = Ok(());
        for group in &self.0 {
            let removed = remove_tree(&group.folder);
            remove_empty_parents(group);
            first = first.and(removed);
        }
        first
    }

    /// Removes what `create` was making when it was cut off. No process was cloned into the groups yet, so one
    /// that is in use belongs to somebody else and stays.
    pub(crate) fn remove_unused(&self) -> Result<(), Failure> {
        let mut first = Ok(());
        for group in &self.0 {
            match remove_group(&group.folder) {
                Ok(()) | Err(Errno::ENOENT | Errno::EBUSY | Errno::ENOTEMPTY) => remove_empty_parents(group),
                Err(errno) => first = first.and(Err(Failure::new("remove cgroup", group.folder.display(), errno))),
            }
        }
        first
    }
}

/// Makes the group's folder and those above it. A folder above may go while we are at it, with the last
/// container of somebody else: then again from the top.
pub(super) fn make(group: &Group) -> Result<(), Failure> {
    let mut attempts = 0;
    loop {
        let made = match group.version {
            Version::V1 => v1::make(group),
            Version::V2 => v2::make(group),
        };
        match made {
            Err(failure) if failure.errno == Errno::ENOENT as i32 && attempts < 100 => attempts += 1,
            result => return result,
        }
    }
}

/// Makes a folder on the way to a group's, or the group's own.
pub(super) fn make_one(folder: &Path, group: &Group) -> Result<(), Failure> {
    if folder == group.folder {
        return make_own(folder);
    }
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.at("make cgroup", folder.display()),
    }
}

/// Makes the container's own folder. What an earlier container of this path left is replaced; a group with
/// processes or groups in it belongs to somebody else, which the kernel says when it is to be removed.
pub(super) fn make_own(folder: &Path) -> Result<(), Failure> {
    let made = std::fs::create_dir(folder);
    if !made.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
        return made.at("make cgroup", folder.display());
    }
    match remove_group(folder) {
        Ok(()) | Err(Errno::ENOENT) => std::fs::create_dir(folder).at("make cgroup", folder.display()),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => {
            let note = "it has processes or groups in it already; give each container its own linux.cgroupsPath";
            Err(Failure::refused("make cgroup", folder.display(), note))
        }
        Err(errno) => Err(Failure::new("replace cgroup", folder.display(), errno)),
    }
}

/// Removes a group that has neither processes nor groups.
fn remove_group(folder: &Path) -> Result<(), Errno> {
    std::fs::remove_dir(folder).map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
}

pub(super) fn sub_folders(folder: &Path) -> Vec<PathBuf> {
    // Its own name and its `.`, and there is a `..` in each below it: kernfs counts them.
    if std::fs::metadata(folder).is_ok_and(|meta| meta.nlink() == 2) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a group and those below it. A group stays busy for a moment after its last process died.
fn remove_tree(folder: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    let mut pause = Duration::from_micros(200);
    loop {
        match remove_group(folder) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) if Instant::now() < deadline => (),
            Err(errno) => return Err(Failure::new("remove cgroup", folder.display(), errno)),
        }
        for child in sub_folders(folder) {
            remove_tree(&child)?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn remove_empty_parents(group: &Group) {
    let mut folder = group.folder.as_path();
    while folder != group.top && folder.starts_with(&group.top) {
        let Some(parent) = folder.parent() else { return };
        match remove_group(parent) {
            // Create was perhaps cut off before it made this one, but after the one above it.
            Ok(()) | Err(Errno::ENOENT) => folder = parent,
            Err(_) => return,
        }
    }
}
