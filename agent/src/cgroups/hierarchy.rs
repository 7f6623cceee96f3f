//! Where each cgroup controller is mounted, and the few file operations on the mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CgroupError, REMOVE_PATIENCE};

fn error(action: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError { action, path: path.to_owned(), source }
}

#[derive(Debug, Clone)]
struct Controller {
    mount: PathBuf,
    v2: bool,
}

/// Every cgroup mount of this host.
#[derive(Debug)]
pub(super) struct Hierarchies {
    controllers: BTreeMap<String, Controller>,
    mounts: BTreeSet<PathBuf>,
    unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads the mounts of this process.
    pub(super) fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(|e| error("read", path, e))?;
        let mut this = Self::parse(&text);
        if let Some(mount) = this.unified.clone() {
            let file = mount.join("cgroup.controllers");
            let names = fs::read_to_string(&file).map_err(|e| error("read", &file, e))?;
            for name in names.split_whitespace() {
                let controller = Controller { mount: mount.clone(), v2: true };
                this.controllers.insert(name.to_owned(), controller);
            }
        }
        Ok(this)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut this = Self { controllers: BTreeMap::new(), mounts: BTreeSet::new(), unified: None };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => this.unified = Some(mount.clone()),
                Some("cgroup") => {
                    for option in right.nth(1).unwrap_or_default().split(',') {
                        let controller = Controller { mount: mount.clone(), v2: false };
                        this.controllers.insert(option.to_owned(), controller);
                    }
                }
                _ => continue,
            }
            this.mounts.insert(mount);
        }
        this
    }

    pub(super) fn is_v2(&self, controller: &str) -> bool {
        self.controllers.get(controller).is_some_and(|c| c.v2)
    }

    fn folder(mount: &Path, path: &str) -> PathBuf {
        mount.join(path.trim_start_matches('/'))
    }

    /// Makes `path` where these controllers live; on v2 they are also enabled on the way down.
    pub(super) fn make(&self, path: &str, controllers: &[&str]) -> Result<(), CgroupError> {
        for name in controllers {
            let Some(controller) = self.controllers.get(*name) else {
                continue;
            };
            let mut folder = controller.mount.clone();
            for part in path.split('/').filter(|p| !p.is_empty()) {
                if controller.v2 {
                    enable(&folder, name)?;
                }
                folder.push(part);
                match fs::create_dir(&folder) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                        return Err(error("make the cgroup", &folder, e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Writes the controller's v1 or v2 file; nothing when the host lacks the controller.
    pub(super) fn write(
        &self,
        controller: &str,
        path: &str,
        (v1, v2): (&str, &str),
        value: &str,
    ) -> Result<(), CgroupError> {
        let Some(controller) = self.controllers.get(controller) else {
            return Ok(());
        };
        let name = if controller.v2 { v2 } else { v1 };
        let file = Self::folder(&controller.mount, path).join(name);
        fs::write(&file, value).map_err(|e| error("write", &file, e))
    }

    /// Whether `path` is there for this controller.
    pub(super) fn exists(&self, controller: &str, path: &str) -> bool {
        self.controllers.get(controller).is_some_and(|c| Self::folder(&c.mount, path).exists())
    }

    /// What the controller's v1 or v2 file says.
    pub(super) fn read(&self, controller: &str, path: &str, (v1, v2): (&str, &str)) -> Option<String> {
        let controller = self.controllers.get(controller)?;
        let file = if controller.v2 { v2 } else { v1 };
        fs::read_to_string(Self::folder(&controller.mount, path).join(file)).ok()
    }

    /// The names of the folders below `path`, in any hierarchy.
    pub(super) fn children(&self, path: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for mount in &self.mounts {
            let Ok(entries) = fs::read_dir(Self::folder(mount, path)) else {
                continue;
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        names
    }

    /// Removes `path` and all below it in every hierarchy; goes on after an error and returns the first.
    pub(super) fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for mount in &self.mounts {
            let removed = remove_tree(&Self::folder(mount, path));
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }

    /// Removes `path` where it has neither processes nor children.
    pub(super) fn rmdir_if_empty(&self, path: &str) {
        for mount in &self.mounts {
            // Busy or absent: somebody else's, or already done.
            let _ = fs::remove_dir(Self::folder(mount, path));
        }
    }

    /// CPU nanoseconds and working-set bytes of a cgroup.
    pub(super) fn usage(&self, path: &str) -> (Option<u64>, Option<u64>) {
        let read = |name: &str, v1: &str, v2: &str| self.read(name, path, (v1, v2));
        let cpu = if self.is_v2("cpu") {
            read("cpu", "", "cpu.stat").and_then(|t| field(&t, "usage_usec")).map(|us| us * 1000)
        } else {
            read("cpuacct", "cpuacct.usage", "").and_then(|t| t.trim().parse().ok())
        };
        let used: Option<u64> =
            read("memory", "memory.usage_in_bytes", "memory.current").and_then(|t| t.trim().parse().ok());
        let key = if self.is_v2("memory") { "inactive_file" } else { "total_inactive_file" };
        let cold = read("memory", "memory.stat", "memory.stat").and_then(|t| field(&t, key));
        (cpu, used.map(|u| u.saturating_sub(cold.unwrap_or(0))))
    }
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.parse().ok()).flatten()
    })
}

fn enable(folder: &Path, controller: &str) -> Result<(), CgroupError> {
    let file = folder.join("cgroup.subtree_control");
    fs::write(&file, format!("+{controller}")).map_err(|e| error("enable a controller in", &file, e))
}

fn remove_tree(folder: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(error("list", folder, e)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + REMOVE_PATIENCE;
    loop {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) && Instant::now() < deadline => {
                kill_members(folder);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(e) => return Err(error("remove the cgroup", folder, e)),
        }
    }
}

fn kill_members(folder: &Path) {
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|l| l.parse().ok()).filter(|p| *p > 1) {
        // Gone already is what we want.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_told_apart() {
        let text = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    33 25 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    34 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    35 25 0:31 / /tmp rw - tmpfs tmpfs rw\n";
        let found = Hierarchies::parse(text);
        assert_eq!(found.mounts.len(), 3);
        assert_eq!(found.unified, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert!(!found.is_v2("cpu"));
        let mount = &found.controllers["cpuacct"].mount;
        assert_eq!(mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    }
}
