//! How a process gets into a container's groups.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::files::read_file;
use super::{Cgroups, Version};
use crate::error::{Context, Failure};

/// What a new process needs to begin in a container's groups.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    tasks: Vec<(OwnedFd, PathBuf)>,
    unified: Option<OwnedFd>,
}

impl Entrance {
    /// The version 2 folder to clone the process into.
    pub(crate) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Takes this folder as the version 2 one.
    pub(crate) fn unify(&mut self, folder: &Path) -> Result<(), Failure> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        self.unified = Some(open(folder, flags, Mode::empty()).at("open cgroup", folder.display())?);
        Ok(())
    }

    /// Every descriptor that this value owns: the new process drops it.
    pub(crate) fn fds(&self) -> impl Iterator<Item = RawFd> {
        self.tasks.iter().map(|(tasks, _)| tasks.as_raw_fd()).chain(self.unified.iter().map(AsRawFd::as_raw_fd))
    }

    /// Moves the calling process, which must have one thread, into the version 1 groups.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        for (tasks, path) in &self.tasks {
            nix::unistd::write(tasks, b"0").at("join cgroup", path.display())?;
        }
        Ok(())
    }
}

impl Cgroups {
    /// Opens the doors for a new process; `below` is a folder below the container's own.
    pub(crate) fn entrance(&self, below: Option<&Path>) -> Result<Entrance, Failure> {
        let mut entrance = Entrance::default();
        for group in &self.0 {
            let folder = below.map_or_else(|| group.folder.clone(), |below| group.folder.join(below));
            match group.version {
                Version::V1 => {
                    let path = folder.join("tasks");
                    let tasks = open(&path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
                    entrance.tasks.push((tasks.at("open", path.display())?, folder));
                }
                Version::V2 => entrance.unify(&folder)?,
            }
        }
        Ok(entrance)
    }

    /// The version 2 folder that a process of the container is in, which must be at or below the container's.
    pub(crate) fn unified_group_of(&self, pid: i32) -> Result<PathBuf, Failure> {
        let list = format!("/proc/{pid}/cgroup");
        let text = read_file(Path::new(&list))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let group = self.0.iter().find(|group| group.version == Version::V2);
        group
            .map(|group| (group, group.mount.join(path)))
            .filter(|(group, found)| found.starts_with(&group.folder) && !path.split('/').any(|part| part == ".."))
            .map(|(_, found)| found)
            .ok_or_else(|| {
                Failure::refused(
                    "find",
                    "the cgroup of the container's process",
                    format!("{list} does not name one below the container's"),
                )
            })
    }
}
