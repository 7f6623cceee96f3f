//! How a process gets into a container's groups.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::files::read_file;
use super::place::own_group;
use super::{Cgroups, Group, Layout, Version};
use crate::error::{Context, Error, Failure};

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

    /// Opens another group whose `tasks` the process is to be in.
    pub(crate) fn add(&mut self, folder: &Path) -> Result<(), Failure> {
        let path = folder.join("tasks");
        let tasks = open(&path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).at("open", path.display())?;
        self.tasks.push((tasks, folder.to_path_buf()));
        Ok(())
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

/// Where below the container's own groups a process goes.
#[derive(Debug, Default)]
pub(crate) struct Below {
    all: PathBuf,
    by_controller: Vec<(String, PathBuf)>,
}

impl Below {
    /// Understands one folder for all groups, and those of single controllers.
    pub(crate) fn plan(all: Option<&Path>, by_controller: &[(String, PathBuf)]) -> Result<Below, Error> {
        let mut below = Below { all: all.map(inside).transpose()?.unwrap_or_default(), by_controller: Vec::new() };
        for (controller, path) in by_controller {
            if below.by_controller.iter().any(|(known, _)| known == controller) {
                return Err(Error::invalid("cgroup", format!("controller {controller:?} is there twice")));
            }
            below.by_controller.push((controller.clone(), inside(path)?));
        }
        Ok(below)
    }
}

/// The path as a relative one that does not leave where it begins.
fn inside(path: &Path) -> Result<PathBuf, Error> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => (),
            _ if inside.pop() => (),
            _ => return Err(Error::invalid("cgroup", format!("{} is not below the container's", path.display()))),
        }
    }
    Ok(inside)
}

impl Cgroups {
    /// Opens the doors for a new process.
    pub(crate) fn entrance(&self, below: &Below) -> Result<Entrance, Error> {
        let mut entrance = Entrance::default();
        let known = |name: &str| self.0.iter().any(|group| group.has(name));
        if let Some((name, _)) = below.by_controller.iter().find(|(name, _)| !known(name)) {
            let why = format!("unknown controller {name:?}: the container is in no version 1 hierarchy that has it");
            return Err(Error::invalid("cgroup", why));
        }
        if self.0.is_empty() && !below.all.as_os_str().is_empty() {
            let why = format!("{} is below the container's groups, and it has none", below.all.display());
            return Err(Error::invalid("cgroup", why));
        }
        for group in &self.0 {
            let own = below.by_controller.iter().find(|(name, _)| group.has(name)).map(|(_, path)| path);
            let folder = match own.unwrap_or(&below.all) {
                path if path.as_os_str().is_empty() => group.folder.clone(),
                path => group.folder.join(path),
            };
            match group.version {
                Version::V1 => entrance.add(&folder)?,
                Version::V2 => entrance.unify(&folder)?,
            }
        }
        Ok(entrance)
    }

    /// The version 2 folder that a process of the container is in, which must be at or below the container's.
    pub(crate) fn unified_group_of(&self, pid: i32) -> Result<PathBuf, Failure> {
        let list = format!("/proc/{pid}/cgroup");
        let text = read_file(Path::new(&list))?;
        let layout = Layout::detect()?;
        let root = layout.v2().map_or(Path::new("/"), |mounted| &mounted.root);
        let group = self.0.iter().find(|group| group.version == Version::V2);
        group.and_then(|group| unified_below(group, root, &text)).ok_or_else(|| {
            Failure::refused(
                "find",
                "the cgroup of the container's process",
                format!("{list} does not name one below the container's"),
            )
        })
    }
}

/// The folder of the version 2 group in a list such as /proc/PID/cgroup, if it is at or below the container's. What
/// is mounted may be a part of the hierarchy, which begins at `root` then.
fn unified_below(group: &Group, root: &Path, list: &str) -> Option<PathBuf> {
    let own = own_group(list, &[])?;
    let found = group.mount.join(own.strip_prefix(root).ok()?);
    let inside = own.components().all(|component| component != Component::ParentDir);
    (inside && found.starts_with(&group.folder)).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_the_containers_groups() {
        for (path, found) in [("", ""), ("/", ""), ("/a", "a"), ("a/../b", "b"), ("./a//b/", "a/b"), ("a/..", "")] {
            assert_eq!(inside(Path::new(path)).ok(), Some(PathBuf::from(found)), "{path}");
        }
        for path in ["..", "/..", "a/../..", "../a"] {
            assert!(inside(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn groups_below_the_containers_where_a_part_is_mounted() {
        let folder = PathBuf::from("/sys/fs/cgroup/orlop/web");
        let mount = PathBuf::from("/sys/fs/cgroup");
        let group = Group { version: Version::V2, controllers: Vec::new(), mount, top: folder.clone(), folder };
        let found = |root: &str, path: &str| unified_below(&group, Path::new(root), &format!("1:cpu:/x\n0::{path}\n"));
        let init = Some(PathBuf::from("/sys/fs/cgroup/orlop/web/init.scope"));
        assert_eq!(found("/", "/orlop/web/init.scope"), init);
        assert_eq!(found("/docker/host", "/docker/host/orlop/web/init.scope"), init);
        for (root, path) in [("/", "/docker/host/orlop/web"), ("/docker/host", "/orlop/web"), ("/", "/orlop/web/../x")]
        {
            assert_eq!(found(root, path), None, "{path} below {root}");
        }
    }

    #[test]
    fn each_controller_once() {
        let paths = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x".into())).collect::<Vec<_>>();
        assert!(Below::plan(None, &paths(&["cpu", "memory"])).is_ok());
        assert!(Below::plan(None, &paths(&["cpu", "cpu"])).is_err());
    }
}
