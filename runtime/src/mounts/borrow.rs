//! What of the host is shown in a container that may not have its own: in a user namespace a filesystem that
//! belongs to another namespace can only be mounted by root of the user namespace that owns that one.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::{Kind, PlannedMount};
use crate::error::{Context, Error, Failure};
use crate::sys::{self, MountAttr};

/// Opens in the caller what is bound into a container with a user namespace: the way there may be closed to whom
/// the container's root is on the host.
pub(crate) fn open_sources(mounts: &mut [PlannedMount], linux: &Linux) -> Result<(), Error> {
    let all = linux.namespaces().as_deref().unwrap_or_default();
    let joins_mounts = all.iter().any(|namespace| {
        let path = namespace.path().as_ref();
        namespace.typ() == LinuxNamespaceType::Mount && path.is_some_and(|path| !path.as_os_str().is_empty())
    });
    if joins_mounts || !all.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return Ok(());
    }
    for mount in mounts.iter_mut().filter(|mount| mount.tree.is_none()) {
        let Kind::Bind { recursive } = mount.kind else { continue };
        match sys::clone_tree(&mount.source, recursive) {
            // An ordinary user, who is the container's root: the container's process can do it as well.
            Err(Errno::EPERM) => return Ok(()),
            tree => {
                let object = || format!("{} at {}", mount.source.display(), mount.destination.display());
                let tree = tree.at("mount", object())?;
                cut_off(&tree, mount)?;
                mount.tree = Some(tree);
            }
        }
    }
    Ok(())
}

/// Keeps what is mounted in the container from appearing on the host through a mount that the caller made, as other
/// mounts are kept from it by the container's own mount namespace.
pub(super) fn cut_off(tree: &OwnedFd, mount: &PlannedMount) -> Result<(), Failure> {
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    let object = || format!("{} at {}", mount.source.display(), mount.destination.display());
    sys::set_mount_attr(tree, &slave, true).at("make slave", object())
}

/// The host's /sys in place of a container's own: read-only as a whole, with the cgroups in it, which may be the
/// caller's to change (CVE-2023-25809).
pub(super) fn sysfs(mount: &PlannedMount, target: &OwnedFd) -> Result<(), Failure> {
    let (step, object) = ("mount", || format!("the host's /sys at {}", mount.destination.display()));
    let tree = sys::clone_tree(Path::new("/sys"), true).at(step, object())?;
    let attr = MountAttr { set: mount.options.attr.set, ..MountAttr::default() };
    for attr in [attr, MountAttr::READ_ONLY] {
        sys::set_mount_attr(&tree, &attr, true).at(step, object())?;
    }
    sys::attach_mount(&tree, target).at(step, object())
}

/// What a filesystem needs that may not be mounted.
pub(super) fn requirement(name: &str) -> Option<&'static str> {
    match name {
        "proc" => Some(
            "in a user namespace it needs a process namespace of the container's own, and a /proc of the caller with \
             nothing mounted over it; else bind the caller's: {\"type\": \"bind\", \"source\": \"/proc\", \"options\": \
             [\"rbind\"]}",
        ),
        "sysfs" => Some(
            "in a user namespace it needs a network namespace of the container's own, and a /sys of the caller with \
             nothing mounted over it; else bind the caller's: {\"type\": \"bind\", \"source\": \"/sys\", \"options\": \
             [\"rbind\", \"ro\"]}",
        ),
        "mqueue" => Some("in a user namespace it needs an IPC namespace of the container's own"),
        _ => None,
    }
}
