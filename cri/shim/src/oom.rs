//! Whether the kernel's OOM killer ended a process of a container.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use orlop_shim::protocol::Failure;

use crate::failure::Step;
use crate::poller::{Poller, Token, Watched};
use crate::proc::Proc;

/// The memory cgroup of a container, by its file that counts kills. The file stays open, so that it can
/// still be read when the container has ended.
#[derive(Debug)]
pub(crate) struct OomWatch {
    counter: File,
    notification: Option<Watched>,
    told: u64,
}

impl OomWatch {
    /// Finds the memory cgroup of a process; none if there is none.
    pub(crate) fn open(proc: &Proc, pid: i32, poller: &Poller, serial: u32) -> Result<Option<OomWatch>, Failure> {
        let of_process = proc.read(&format!("{pid}/cgroup"))?;
        let mounts = proc.read_own("mountinfo")?;
        let Some(cgroup) = memory_cgroup(&of_process, &mounts) else { return Ok(None) };
        let watched = match &cgroup {
            MemoryCgroup::V1(folder) => open_v1(folder, poller, serial),
            MemoryCgroup::V2(folder) => open_v2(folder, poller, serial),
        };
        match watched {
            // The root cgroup has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).step(format_args!("watch {cgroup:?} for out-of-memory")),
        }
    }

    /// How many processes have been killed; none if the cgroup has been removed.
    pub(crate) fn kills(&self) -> Option<u64> {
        let mut text = [0; 512];
        let length = self.counter.read_at(&mut text, 0).ok()?;
        count(std::str::from_utf8(&text[..length]).ok()?)
    }

    /// After a notification: whether there are kills that were not told yet.
    pub(crate) fn news(&mut self) -> bool {
        if let Some(notification) = &self.notification {
            // Empties the eventfd; of version 2 it is the file, whose reading below is what counts.
            let _ = nix::unistd::read(notification, &mut [0; 8]);
        }
        let Some(kills) = self.kills() else {
            // The removal of the cgroup is notified, too, and again and again.
            self.notification = None;
            return false;
        };
        std::mem::replace(&mut self.told, kills) < kills
    }
}

/// Version 1: an eventfd, registered through `cgroup.event_control`.
fn open_v1(folder: &Path, poller: &Poller, serial: u32) -> io::Result<OomWatch> {
    let counter = File::open(folder.join("memory.oom_control"))?;
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let registration = format!("{} {}", eventfd.as_fd().as_raw_fd(), counter.as_raw_fd());
    let mut control = OpenOptions::new().write(true).open(folder.join("cgroup.event_control"))?;
    control.write_all(registration.as_bytes())?;
    let notification = poller.watch(OwnedFd::from(eventfd), Token::Oom(serial), EpollFlags::EPOLLIN)?;
    Ok(OomWatch { counter, notification: Some(notification), told: 0 })
}

/// Version 2: the file itself is ready with EPOLLPRI once its content changed since it was read.
fn open_v2(folder: &Path, poller: &Poller, serial: u32) -> io::Result<OomWatch> {
    let counter = File::open(folder.join("memory.events"))?;
    let notification = poller.watch(counter.try_clone()?.into(), Token::Oom(serial), EpollFlags::EPOLLPRI)?;
    Ok(OomWatch { counter, notification: Some(notification), told: 0 })
}

#[derive(Debug, PartialEq, Eq)]
enum MemoryCgroup {
    V1(PathBuf),
    V2(PathBuf),
}

/// From /proc/PID/cgroup and /proc/PID/mountinfo (cgroups(7), proc(5)).
fn memory_cgroup(of_process: &str, mounts: &str) -> Option<MemoryCgroup> {
    let (version_1, path) = of_process
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter_map(|(controllers, path)| match controllers {
            "" => Some((false, path)),
            _ => controllers.split(',').any(|controller| controller == "memory").then_some((true, path)),
        })
        .max_by_key(|(version_1, _)| *version_1)?;
    let mount_point = mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let (kind, options) = filesystem.split_once(' ')?;
        let right = if version_1 {
            kind == "cgroup" && options.split([' ', ',']).any(|option| option == "memory")
        } else {
            kind == "cgroup2"
        };
        (right && root == "/").then_some(point)
    })?;
    let folder = Path::new(mount_point).join(path.trim_start_matches('/'));
    Some(if version_1 { MemoryCgroup::V1(folder) } else { MemoryCgroup::V2(folder) })
}

/// The line `oom_kill N` of memory.oom_control and of memory.events.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 22 0:22 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
26 22 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 22 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn finds_the_memory_cgroup() {
        let process = "9:cpu,cpuacct:/a\n4:memory:/kubepods/x/y\n0::/z\n";
        let expected = MemoryCgroup::V1("/sys/fs/cgroup/memory/kubepods/x/y".into());
        assert_eq!(memory_cgroup(process, HYBRID), Some(expected));
        let unified = "22 20 0:20 / /sys/fs/cgroup rw - cgroup2 none rw\n";
        let expected = MemoryCgroup::V2("/sys/fs/cgroup/z".into());
        assert_eq!(memory_cgroup("0::/z\n", unified), Some(expected));
        assert_eq!(memory_cgroup("", HYBRID), None);
        assert_eq!(memory_cgroup("4:memory:/x\n", unified), None);
    }

    #[test]
    fn counts_kills() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("low 0\noom 1\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count("oom 1\n"), None);
    }
}
