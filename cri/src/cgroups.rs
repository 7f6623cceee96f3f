//! Cgroups as the daemon sees them: where each controller is, what a cgroup uses, and how one is taken away.
//!
//! The OCI runtime makes the containers' cgroups and sets their limits. Here they are only read, for stats, and
//! removed when they are the daemon's own or nobody else is left to do it (cgroups(7)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Context, Error, Kind, Result};

/// Killed processes leave their cgroup within this time, or are stuck in the kernel.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// A mounted hierarchy.
#[derive(Debug, Clone)]
struct Hierarchy {
    mount: PathBuf,
    v2: bool,
    /// Of v1: the controllers it is mounted with.
    controllers: BTreeSet<String>,
}

/// Where this host has its cgroups: v1, v2 or both.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Looks at what is mounted.
    pub(crate) fn find() -> Result<Cgroups> {
        let text = fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo".to_owned())?;
        Ok(Cgroups { hierarchies: text.lines().filter_map(hierarchy).collect() })
    }

    /// The folder of `cgroup` where `controller` is, and whether that is v2; `None` where it does not exist.
    pub(crate) fn folder(&self, controller: &str, cgroup: &Path) -> Option<(PathBuf, bool)> {
        let v1 = self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(controller));
        let v2 = || {
            self.hierarchies.iter().find(|hierarchy| {
                hierarchy.v2
                    && fs::read_to_string(hierarchy.mount.join("cgroup.controllers"))
                        .is_ok_and(|text| text.split_whitespace().any(|name| name == controller))
            })
        };
        let hierarchy = v1.or_else(v2)?;
        let folder = below(&hierarchy.mount, cgroup);
        folder.is_dir().then_some((folder, hierarchy.v2))
    }

    /// Kills every process of `cgroup`, and waits until they are gone. Blocks.
    pub(crate) fn kill(&self, cgroup: &Path) -> Result<()> {
        let deadline = Instant::now() + EMPTY_DEADLINE;
        for hierarchy in &self.hierarchies {
            let folder = below(&hierarchy.mount, cgroup);
            while !kill_all(&folder).step(|| format!("kill the processes of {}", folder.display()))? {
                if Instant::now() > deadline {
                    return Err(Error::new(
                        Kind::DeadlineExceeded,
                        format!("the processes of {} do not end", folder.display()),
                    ));
                }
                std::thread::sleep(EMPTY_PAUSE);
            }
        }
        Ok(())
    }

    /// Removes `cgroup`, which must be empty, with those below it, from every hierarchy. Already gone is success.
    pub(crate) fn remove(&self, cgroup: &Path) -> Result<()> {
        let mut errors = Vec::new();
        for hierarchy in &self.hierarchies {
            let folder = below(&hierarchy.mount, cgroup);
            if folder != hierarchy.mount {
                errors.extend(remove_tree(&folder).step(|| format!("remove the cgroup {}", folder.display())).err());
            }
        }
        Error::gather(errors)
    }

    /// The names of the cgroups below `cgroup`, in any hierarchy.
    pub(crate) fn children(&self, cgroup: &Path) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            let Ok(entries) = fs::read_dir(below(&hierarchy.mount, cgroup)) else { continue };
            let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            names.extend(folders.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        names
    }
}

fn below(mount: &Path, cgroup: &Path) -> PathBuf {
    mount.join(cgroup.strip_prefix("/").unwrap_or(cgroup))
}

/// A line of mountinfo (proc_pid_mountinfo(5)): the mount point is field 5, the type comes after " - ".
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mount = PathBuf::from(before.split(' ').nth(4)?);
    let mut fields = after.split(' ');
    match fields.next()? {
        "cgroup2" => Some(Hierarchy { mount, v2: true, controllers: BTreeSet::new() }),
        "cgroup" => {
            let options = fields.nth(1)?;
            let controllers = options.split(',').filter(|option| !matches!(*option, "rw" | "ro")).map(str::to_owned);
            Some(Hierarchy { mount, v2: false, controllers: controllers.collect() })
        }
        _ => None,
    }
}

/// Sends SIGKILL to what is in the cgroup and below; true when nothing was.
fn kill_all(folder: &Path) -> io::Result<bool> {
    let text = match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut empty = true;
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
        empty = false;
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    for child in folders(folder)? {
        empty &= kill_all(&child)?;
    }
    Ok(empty)
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for child in folders(folder)? {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match fs::remove_dir(folder) {
            // The last process has been reaped, but the kernel still takes it out.
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                std::thread::sleep(EMPTY_PAUSE);
            }
            Err(error) if is_gone(&error) => return Ok(()),
            other => return other,
        }
    }
}

fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A cgroup that was removed answers ENODEV to those who have it open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

#[cfg(test)]
mod tests {
    use super::{below, hierarchy};
    use std::path::Path;

    #[test]
    fn mount_lines_are_read() {
        let v1 = hierarchy("30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct")
            .unwrap();
        assert_eq!(v1.mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(v1.controllers.contains("cpuacct") && !v1.controllers.contains("rw") && !v1.v2);
        let v2 = hierarchy("31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate").unwrap();
        assert!(v2.v2);
        assert!(hierarchy("1 0 0:1 / /proc rw - proc proc rw").is_none());
    }

    #[test]
    fn a_cgroup_is_below_the_mount() {
        assert_eq!(below(Path::new("/sys/fs/cgroup"), Path::new("/a/b")), Path::new("/sys/fs/cgroup/a/b"));
    }
}
