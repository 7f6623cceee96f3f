//! The cgroup mount: the container's own groups, and nothing above them, in the layout that the host has.
//! Bind mounts of the groups' folders do that for both versions, with and without a cgroup namespace.

use std::path::Path;

use nix::unistd::symlinkat;

use super::{LateReadOnly, MountOptions, set_attributes};
use crate::cgroups::{Cgroups, Group, Version};
use crate::error::{Context, Failure};
use crate::path::Root;
use crate::sys::{self, FsContext, MountAttr, attr};

/// The groups that a container sees.
#[derive(Debug, Default)]
pub(crate) struct CgroupView {
    pub(crate) own: Cgroups,
    /// Those of its caller, where it has none of its own: to be looked at only, for they may be the caller's to
    /// change and then would be the container's too (CVE-2023-25809).
    pub(crate) lent: Cgroups,
}

pub(super) fn mount(
    root: &Root,
    destination: &Path,
    options: &MountOptions,
    cgroups: &CgroupView,
    late: &mut LateReadOnly,
) -> Result<(), Failure> {
    let step = "mount";
    let object = || format!("cgroup at {}", destination.display());
    let target = root.make_dir_all(destination).at(step, object())?;
    let own = cgroups.own.0.iter().map(|group| (group, false));
    let all: Vec<(&Group, bool)> = own.chain(cgroups.lent.0.iter().map(|group| (group, true))).collect();
    if let [(only, lent)] = all.as_slice()
        && only.version == Version::V2
    {
        let tree = group_mount(only, *lent, options).at(step, object())?;
        return sys::attach_mount(&tree, &target).at(step, object());
    }
    // Version 1: a small tmpfs that holds a folder per hierarchy.
    let context = FsContext::open("tmpfs").at(step, object())?;
    context.set("mode", Some("755")).at(step, object())?;
    let shelf = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC).at(step, object())?;
    sys::attach_mount(&shelf, &target).at(step, object())?;
    let shelf_root = Root::new(shelf.try_clone().at(step, object())?);
    for (group, lent) in all {
        // The name that the hierarchy has on the host, as in `cpu,cpuacct` or `unified`.
        let Some(name) = group.mount.file_name() else { continue };
        let tree = group_mount(group, lent, options).at(step, object())?;
        let folder = shelf_root.make_missing_dir(Path::new(name)).at(step, object())?;
        sys::attach_mount(&tree, &folder).at(step, object())?;
        for controller in group.controllers.iter().filter(|controller| name != controller.as_str()) {
            symlinkat(name, &shelf, controller.as_str()).at(step, object())?;
        }
    }
    // Without a group of its own there is nothing in it to be changed.
    if options.is_read_only() || cgroups.own.0.is_empty() {
        late.0.push((shelf, destination.to_path_buf()));
    } else {
        let attr = MountAttr { set: options.attr.set, ..MountAttr::default() };
        sys::set_mount_attr(&shelf, &attr, false).at(step, object())?;
    }
    Ok(())
}

fn group_mount(group: &Group, lent: bool, options: &MountOptions) -> nix::Result<std::os::fd::OwnedFd> {
    let tree = sys::clone_tree(&group.folder, false)?;
    set_attributes(&tree, &options.attr, options)?;
    if lent {
        sys::set_mount_attr(&tree, &MountAttr::READ_ONLY, false)?;
    }
    Ok(tree)
}
