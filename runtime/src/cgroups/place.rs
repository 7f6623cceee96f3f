//! Where a container's groups are.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::detect::Mounted;
use super::{Group, Version};
use crate::error::{Context, Error, Failure};
use crate::procfs;

/// Where the node's own containers go when nobody else gives them a parent; it goes with the last of them.
const OUR_PARENT: &str = "orlop";

/// `linux.cgroupsPath`: below the root of every hierarchy, or below the caller's own groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    Root(PathBuf),
    /// A relative path, and the container's id where there is none: as for runc, the limits of the caller hold
    /// for its containers too. /proc/self/cgroup says where the caller is.
    Own(PathBuf, String),
}

impl Place {
    pub(crate) fn new(cgroups_path: Option<&Path>, id: &str) -> Result<Place, Error> {
        let path = cgroups_path.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(id));
        let mut relative = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => relative.push(name),
                Component::RootDir | Component::CurDir => (),
                _ => return Err(Error::invalid("linux.cgroupsPath", "it must not contain `..`")),
            }
        }
        if relative.as_os_str().is_empty() {
            return Err(Error::invalid("linux.cgroupsPath", "it must not be the root of the hierarchy"));
        }
        if path.is_absolute() {
            return Ok(Place::Root(relative));
        }
        let own = "/proc/self/cgroup";
        Ok(Place::Own(relative, procfs::read_text(own).at("read", own)?))
    }

    /// This place, if it differs from hierarchy to hierarchy.
    pub(crate) fn of_caller(self) -> Option<Place> {
        matches!(self, Place::Own(..)).then_some(self)
    }

    /// The path below the mount point of a hierarchy with these controllers; none are version 2.
    pub(super) fn below(&self, mounted: &Mounted, controllers: &[String]) -> Result<PathBuf, Failure> {
        let (relative, own) = match self {
            Place::Root(relative) => return Ok(relative.clone()),
            Place::Own(relative, own) => (relative, own_group(own, controllers).unwrap_or(Path::new("/"))),
        };
        // The version 2 group of a process has no room for groups with controllers; beside it there is.
        let own = if controllers.is_empty() { own.parent().unwrap_or(own) } else { own };
        // What is mounted may be a part of the hierarchy, which begins elsewhere then.
        let own = own.strip_prefix(&mounted.root).unwrap_or(Path::new(""));
        if own.components().any(|component| component == Component::ParentDir) {
            let note = "the caller is outside of its cgroup namespace; give an absolute linux.cgroupsPath";
            return Err(Failure::refused("place", "cgroup", note));
        }
        Ok(own.join(relative))
    }
}

/// The caller's group in the hierarchy with these controllers (cgroups(7), "/proc/pid/cgroup").
pub(super) fn own_group<'a>(groups: &'a str, controllers: &[String]) -> Option<&'a Path> {
    groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let wanted = match controllers.first() {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => names.is_empty(),
        };
        wanted.then_some(Path::new(path))
    })
}

/// The group at this path of a hierarchy, with the topmost of its folders that is not there yet.
pub(super) fn group(version: Version, mount: &Path, controllers: Vec<String>, relative: &Path) -> Group {
    let mut top = mount.to_path_buf();
    for component in relative {
        top.push(component);
        let is_ours = relative.parent() == Some(Path::new(OUR_PARENT));
        if is_ours || !top.is_dir() {
            break;
        }
    }
    Group { version, controllers, mount: mount.to_path_buf(), folder: mount.join(relative), top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_container_goes() {
        let place = |path: &str| Place::new(Some(Path::new(path)), "web").ok();
        assert_eq!(place("/kubepods/pod1/web"), Some(Place::Root("kubepods/pod1/web".into())));
        assert_eq!(place("/"), None);
        assert_eq!(place("/a/../../b"), None);
        for (path, relative) in [(Some("./a//b"), "a/b"), (Some(""), "web"), (None, "web")] {
            let place = Place::new(path.map(Path::new), "web").expect("place");
            assert!(matches!(place, Place::Own(own, _) if own == Path::new(relative)), "{path:?}");
        }
    }

    #[test]
    fn below_the_caller_s_own_groups() {
        let groups = "5:cpu,cpuacct:/a/b\n4:memory:/c\n1:name=systemd:/d\n0::/user.slice/session.scope\n";
        let place = Place::Own("web".into(), groups.to_owned());
        let below = |root: &str, controllers: &[&str]| {
            let mounted = Mounted { at: "/sys/fs/cgroup/x".into(), root: root.into() };
            let controllers: Vec<String> = controllers.iter().map(|&name| name.to_owned()).collect();
            place.below(&mounted, &controllers).expect("place")
        };
        assert_eq!(below("/", &["cpu", "cpuacct"]), Path::new("a/b/web"));
        assert_eq!(below("/a", &["cpu", "cpuacct"]), Path::new("b/web"));
        assert_eq!(below("/elsewhere", &["memory"]), Path::new("web"));
        assert_eq!(below("/", &["pids"]), Path::new("web"));
        assert_eq!(below("/", &[]), Path::new("user.slice/web"));
        let outside = Place::Own("web".into(), "0::/../../x\n".to_owned());
        let mounted = Mounted { at: "/sys/fs/cgroup".into(), root: "/".into() };
        assert!(outside.below(&mounted, &[]).is_err());
    }
}
