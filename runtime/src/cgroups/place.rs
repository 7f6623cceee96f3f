//! Where a container's groups are.

use std::path::{Path, PathBuf};

use super::{Group, Version};
use crate::error::Error;

/// Where containers go whose configuration does not say. The folder is removed with the last of them.
const DEFAULT_PARENT: &str = "orlop";

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

/// The group at this path of a hierarchy, with the topmost of its folders that is not there yet.
pub(super) fn group(version: Version, mount: &Path, controllers: Vec<String>, relative: &Path) -> Group {
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
