//! Control groups: cgroup v2, the version 1 hierarchies, and both at once (hybrid).
//!
//! What a container costs here is decided by two rules. A process joins its version 1 groups by writing `0`
//! to `tasks` from its only thread, and its version 2 group by being cloned into it: both avoid the kernel's
//! global lock that a write to `cgroup.procs` waits for. And a hierarchy is touched only if there is a reason.

mod detect;
mod devices;
mod limits;
mod v1;
mod v2;

pub(crate) use detect::Layout;
pub(crate) use limits::unsupported;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxMemory, LinuxResources};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Failure};
use devices::DevicePolicy;
use limits::Setting;

/// Where containers go whose configuration does not say. The folder is removed with the last of them.
const DEFAULT_PARENT: &str = "orlop";

/// How long a group may take to empty after its processes were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// Which interface a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Version {
    V1,
    V2,
}

/// The container's folder in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) version: Version,
    /// The version 1 controllers of the hierarchy; empty for version 2.
    pub(crate) controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub(crate) mount: PathBuf,
    /// The container's folder.
    pub(crate) folder: PathBuf,
    /// The topmost folder that did not exist before: it and what is between goes with the container.
    pub(crate) top: PathBuf,
}

impl Group {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// The groups of a container, one per hierarchy that matters to it. Kept in the container's state before the
/// first folder is made, so that they can be removed whenever the making was cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroups(pub(crate) Vec<Group>);

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

/// Where the container goes below every hierarchy's mount point. A relative path begins there too.
pub(crate) fn relative_path(cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf, Error> {
    let Some(path) = cgroups_path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(Path::new(DEFAULT_PARENT).join(id));
    };
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => relative.push(name),
            std::path::Component::RootDir | std::path::Component::CurDir => (),
            _ => return Err(Error::invalid("linux.cgroupsPath", "it must not contain `..`")),
        }
    }
    if relative.as_os_str().is_empty() {
        return Err(Error::invalid("linux.cgroupsPath", "it must not be the root of the hierarchy"));
    }
    Ok(relative)
}

impl Cgroups {
    /// Decides which hierarchies the container takes part in, and changes nothing.
    pub(crate) fn plan(layout: &Layout, relative: &Path, resources: Option<&LinuxResources>) -> Result<Cgroups, Error> {
        let mut groups = Vec::new();
        for hierarchy in layout.v1() {
            if v1::matters(hierarchy, relative, resources) {
                groups.push(group(Version::V1, &hierarchy.mount, hierarchy.controllers.clone(), relative));
            }
        }
        if let Some(mount) = layout.v2()
            && (groups.is_empty() || v2::matters_beside_v1(mount, layout, relative, resources))
        {
            groups.push(group(Version::V2, mount, Vec::new(), relative));
        }
        if groups.is_empty() {
            return Err(Error::unsupported("a host without cgroups", "mount cgroup2 at /sys/fs/cgroup"));
        }
        Ok(Cgroups(groups))
    }

    /// Makes the groups and sets their limits.
    pub(crate) fn create(&self, resources: Option<&LinuxResources>) -> Result<(), Error> {
        for group in &self.0 {
            make(group)?;
        }
        if let Some(resources) = resources {
            self.apply(resources)?;
        }
        self.set_devices(resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default())
    }

    /// Changes the limits that are given.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.apply(resources)?;
        match resources.devices().as_deref() {
            Some(rules) if !rules.is_empty() => self.set_devices(rules),
            _ => Ok(()),
        }
    }

    fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let mut unplaced = None;
        let swap = resources.memory().as_ref().and_then(LinuxMemory::swap).filter(|swap| *swap != 0);
        for setting in limits::v1(resources) {
            match self.0.iter().find(|group| group.has(setting.controller)) {
                Some(group) if setting.file == v1::MEMORY => v1::set_memory(&group.folder, &setting, swap)?,
                Some(group) => write_setting(&group.folder, &setting)?,
                None => unplaced = unplaced.or(Some(setting)),
            }
        }
        let Some(unified) = self.0.iter().find(|group| group.version == Version::V2) else {
            let unified = resources.unified().iter().flatten().next();
            return match (unplaced, unified) {
                (Some(setting), _) => Err(no_controller(&setting)),
                (None, Some((file, _))) => Err(Error::unsupported(
                    format!("linux.resources.unified[{file:?}]"),
                    "this host has no cgroup2 mounted",
                )),
                (None, None) => Ok(()),
            };
        };
        let v1_controllers: Vec<&str> =
            self.0.iter().flat_map(|group| &group.controllers).map(String::as_str).collect();
        for setting in limits::v2(resources)? {
            if !v1_controllers.contains(&setting.controller) {
                write_setting(&unified.folder, &setting)?;
            }
        }
        Ok(())
    }

    fn set_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
        let policy = DevicePolicy::new(rules)?;
        if let Some(group) = self.0.iter().find(|group| group.has("devices")) {
            return Ok(v1::set_devices(&group.folder, &policy)?);
        }
        match self.0.iter().find(|group| group.version == Version::V2) {
            Some(group) => Ok(v2::set_devices(&group.folder, &policy)?),
            None => Err(Error::unsupported(
                "device control",
                "this host has neither the devices controller nor cgroup2 mounted",
            )),
        }
    }

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

    /// Stops or continues all processes.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let Some(group) = self.freezer() else {
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

    fn describe(&self) -> String {
        self.any().map(|group| group.folder.display().to_string()).unwrap_or_default()
    }
}

/// Makes the group's folder and those above it. A folder above may go while we are at it, with the last
/// container of somebody else: then again from the top.
fn make(group: &Group) -> Result<(), Failure> {
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
fn make_one(folder: &Path, group: &Group) -> Result<(), Failure> {
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
fn make_own(folder: &Path) -> Result<(), Failure> {
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

fn group(version: Version, mount: &Path, controllers: Vec<String>, relative: &Path) -> Group {
    let mut top = mount.to_path_buf();
    for component in relative {
        top.push(component);
        let is_ours = relative.parent() == Some(Path::new(DEFAULT_PARENT));
        if is_ours || !top.is_dir() {
            break;
        }
    }
    Group { version, controllers, mount: mount.to_path_buf(), folder: mount.join(relative), top }
}

fn no_controller(setting: &Setting) -> Error {
    let (file, controller) = (&setting.file, setting.controller);
    Error::unsupported(format!("the limit {file}"), format!("this host has no {controller} controller"))
}

fn write_setting(folder: &Path, setting: &Setting) -> Result<(), Error> {
    match write_file(&folder.join(&setting.file), &setting.value) {
        Err(failure) if failure.errno == Errno::ENOENT as i32 => Err(no_controller(setting)),
        Err(failure) if failure.errno == Errno::EBUSY as i32 && setting.controller == "memory" => {
            Err(failure.note("the container uses more than that already").into())
        }
        result => Ok(result?),
    }
}

/// Writes a file of a control group, in one write(2).
fn write_file(path: &Path, value: &str) -> Result<(), Failure> {
    let object = || format!("{:?} to {}", value, path.display());
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).at("write", object())?;
    nix::unistd::write(&file, value.as_bytes()).at("write", object()).map(drop)
}

fn read_file(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).at("read", path.display())
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

fn sub_folders(folder: &Path) -> Vec<PathBuf> {
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
        match folder.parent() {
            Some(parent) if std::fs::remove_dir(parent).is_ok() => folder = parent,
            _ => return,
        }
    }
}

/// Signals a process by its number, which was read from a list a moment ago, through a pidfd.
fn send_signal(pid: Pid, signal: i32) -> nix::Result<()> {
    crate::sys::pidfd_send_signal(crate::sys::pidfd_open(pid)?, signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_container_goes() {
        let relative = |path: &str| relative_path(Some(Path::new(path)), "web").ok();
        assert_eq!(relative("/kubepods/pod1/web"), Some("kubepods/pod1/web".into()));
        assert_eq!(relative("./a//b"), Some("a/b".into()));
        assert_eq!(relative(""), Some("orlop/web".into()));
        assert_eq!(relative("/"), None);
        assert_eq!(relative("/a/../../b"), None);
        assert_eq!(relative_path(None, "web").ok(), Some("orlop/web".into()));
    }
}
