//! Being told that a container's processes ran out of memory. Documentation/admin-guide/cgroup-v1/memory.rst,
//! "OOM Control", and cgroup-v2.rst, "memory.events", of the kernel.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files::{read_file, write_file};
use super::{Cgroups, Version};
use crate::error::{Context, Failure};

/// Hears of every time that the kernel killed for memory, from its making on.
#[derive(Debug)]
pub(crate) struct OomWatch {
    source: Source,
    /// What is there as long as the group is.
    file: PathBuf,
}

#[derive(Debug)]
enum Source {
    /// The file is held, since the kernel forgets the registration with it.
    V1(EventFd, #[allow(dead_code)] File),
    /// The counts when last looked at: of the group, and of the one above it.
    V2(Inotify, u64, Option<u64>),
}

impl Cgroups {
    /// Begins to watch; `None` where the kernel does not account for the container's memory.
    pub(crate) fn watch_oom(&self) -> Result<Option<OomWatch>, Failure> {
        if let Some(group) = self.0.iter().find(|group| group.has("memory")) {
            return v1(&group.folder).map(Some);
        }
        let unified = self.0.iter().find(|group| group.version == Version::V2);
        let file = unified.map(|group| group.folder.join("memory.events")).filter(|file| file.exists());
        file.map(v2).transpose()
    }
}

fn v1(folder: &Path) -> Result<OomWatch, Failure> {
    let path = folder.join("memory.oom_control");
    let control = File::open(&path).at("open", path.display())?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = EventFd::from_value_and_flags(0, flags).at("make", "event descriptor")?;
    let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    write_file(&folder.join("cgroup.event_control"), &line)?;
    Ok(OomWatch { source: Source::V1(event, control), file: path })
}

fn v2(file: PathBuf) -> Result<OomWatch, Failure> {
    let counts = (killed(&file).unwrap_or(0), killed_above(&file));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).at("make", "inotify descriptor")?;
    inotify.add_watch(&file, AddWatchFlags::IN_MODIFY).at("watch", file.display())?;
    Ok(OomWatch { source: Source::V2(inotify, counts.0, counts.1), file })
}

/// The same of the group above, in which those of all below count too; the root has no such file.
fn killed_above(events: &Path) -> Option<u64> {
    killed(&events.parent()?.parent()?.join(events.file_name()?))
}

/// How many processes of a group the kernel has killed for memory.
fn killed(events: &Path) -> Option<u64> {
    killed_in(&read_file(events).ok()?)
}

fn killed_in(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1(event, _) => event.as_fd(),
            Source::V2(inotify, ..) => inotify.as_fd(),
        }
    }
}

impl OomWatch {
    /// Whether the group ran out of memory since the last look.
    pub(crate) fn happened(&mut self) -> Result<bool, Failure> {
        match &mut self.source {
            Source::V1(event, _) => match event.read() {
                // The end of the group is told in the same way, once.
                Ok(count) => Ok(count > u64::from(!self.file.exists())),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
                Err(errno) => Err(Failure::new("read", "event descriptor", errno)),
            },
            Source::V2(inotify, known, known_above) => {
                let changed = match inotify.read_events() {
                    Ok(events) => events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_MODIFY)),
                    Err(Errno::EAGAIN | Errno::EINTR) => false,
                    Err(errno) => return Err(Failure::new("read", "inotify descriptor", errno)),
                };
                // The file changes for other reasons too, and systemd removes a group as soon as it is empty, perhaps
                // before we get to look: then what the group above has counted meanwhile tells.
                let above = killed_above(&self.file);
                let (now, more) = match killed(&self.file) {
                    Some(now) => (now, now > *known),
                    None => (*known, changed && above.zip(*known_above).is_some_and(|(now, before)| now > before)),
                };
                (*known, *known_above) = (now, above.or(*known_above));
                Ok(more)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_killed_are_counted() {
        let events = "low 0\nhigh 0\nmax 40\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(killed_in(events), Some(2));
        assert_eq!(killed_in("low 0\n"), None);
    }
}
