//! The processes in a container's groups: listed, frozen, signalled.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::files::read_file;
use super::folders::sub_folders;
use super::{Cgroups, EMPTY_WITHIN, Group, Version, v1, v2};
use crate::error::{Error, Failure};

impl Cgroups {
    /// The group whose processes are the container's: any will do, since a process is in all of them.
    fn any(&self) -> Option<&Group> {
        let freezer = self.0.iter().find(|group| group.version == Version::V2 || group.has("freezer"));
        freezer.or(self.0.first())
    }

    /// The processes in the groups and below them; none when the groups are gone.
    pub(crate) fn pids(&self) -> Result<Vec<Pid>, Failure> {
        let mut pids = Vec::new();
        if let Some(group) = self.any() {
            collect_pids(&group.folder, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Whether the groups are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        self.freezer().is_some_and(|group| match group.version {
            Version::V1 => v1::is_frozen(&group.folder),
            Version::V2 => v2::is_frozen(&group.folder),
        })
    }

    fn freezer(&self) -> Option<&Group> {
        self.0.iter().find(|group| group.has("freezer") || group.version == Version::V2)
    }

    /// The folder of the group by which all processes are stopped.
    pub(crate) fn freezer_folder(&self) -> Option<&Path> {
        self.freezer().map(|group| group.folder.as_path())
    }

    /// Stops or continues all processes.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let Some(group) = self.freezer() else {
            if self.0.is_empty() {
                let why = "cgroups not configured for container: its caller may not make any; delegate one to the user";
                return Err(Error::unsupported("pause", why));
            }
            return Err(Error::unsupported("pause", "this host has neither the freezer controller nor cgroup2"));
        };
        match group.version {
            Version::V1 => Ok(v1::freeze(&group.folder, frozen)?),
            Version::V2 => Ok(v2::freeze(&group.folder, frozen)?),
        }
    }

    /// Lets processes that were sent SIGKILL end: frozen by version 1 they do so only when thawed.
    pub(crate) fn thaw_the_killed(&self) -> Result<(), Failure> {
        match self.freezer() {
            Some(group) if group.version == Version::V1 && v1::is_frozen(&group.folder) => {
                v1::freeze(&group.folder, false)
            }
            _ => Ok(()),
        }
    }

    /// Sends a signal to every process.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), Failure> {
        for pid in self.pids()? {
            match send_signal(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => (),
                Err(errno) => return Err(Failure::new("kill", pid, errno)),
            }
        }
        Ok(())
    }

    /// Kills every process and waits until the groups are empty.
    pub(crate) fn kill_all(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        let mut pause = Duration::from_micros(200);
        loop {
            if self.pids()?.is_empty() {
                return Ok(());
            }
            match self.any() {
                Some(group) if group.version == Version::V2 && v2::kill(&group.folder).is_ok() => (),
                _ => {
                    if let Some(group) = self.freezer().filter(|group| group.version == Version::V1) {
                        // What forks without end would outrun the signals. Not waited for: who is not frozen
                        // yet is met in the next round.
                        let _ = v1::ask_to_freeze(&group.folder);
                    }
                    let signalled = self.signal(libc::SIGKILL);
                    self.thaw_the_killed()?;
                    signalled?;
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::refused("empty cgroup", self.describe(), "processes do not die within 10 s"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn describe(&self) -> String {
        self.any().map(|group| group.folder.display().to_string()).unwrap_or_default()
    }
}

fn collect_pids(folder: &Path, pids: &mut Vec<Pid>) -> Result<(), Failure> {
    let gone = |failure: &Failure| [Errno::ENOENT as i32, Errno::ENODEV as i32].contains(&failure.errno);
    let path = folder.join("cgroup.procs");
    match read_file(&path) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw)),
        Err(failure) if gone(&failure) => return Ok(()),
        // A threaded group has no list of its own; its processes are listed above it.
        Err(failure) if failure.errno == Errno::EOPNOTSUPP as i32 => (),
        Err(failure) => return Err(failure),
    }
    for child in sub_folders(folder) {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

/// Signals a process by its number, which was read from a list a moment ago, through a pidfd.
fn send_signal(pid: Pid, signal: i32) -> nix::Result<()> {
    crate::sys::pidfd_send_signal(crate::sys::pidfd_open(pid)?, signal)
}
