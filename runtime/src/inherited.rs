//! A container without a mount namespace of its own: it has the caller's.
//!
//! Nothing of it is mounted in that namespace, where somebody would have to unmount it. Its process mounts in a
//! namespace of its own as any other, takes a detached copy of the finished root filesystem, goes back to the
//! caller's namespace, and makes the copy its root. The copy belongs to the processes whose root it is: the
//! kernel unmounts it with the last of them. What they pay for that: they see none of these mounts in
//! /proc/self/mountinfo, can mount nothing in their root, and mounts that the host makes later do not come in.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use crate::error::{Context, Error, Failure};
use crate::mounts::{self, MountOptions};
use crate::path::Root;
use crate::sys::{self, ns};

/// Whether a container has the mount namespace of who creates it.
pub(crate) fn has_mounts_of_host(linux: &Linux) -> bool {
    !linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount)
}

/// Refuses what such a container cannot have.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux().as_ref().filter(|linux| has_mounts_of_host(linux)) else { return Ok(()) };
    let needs = |field: String| Error::invalid(field, "it needs a mount namespace of the container's own");
    if linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return Err(needs("linux.namespaces: a user namespace".to_owned()));
    }
    let spreads = |mode: u64| mode != libc::MS_PRIVATE;
    let root = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty());
    if root.map(mounts::rootfs_propagation).transpose()?.is_some_and(|(mode, _)| spreads(mode)) {
        return Err(needs("linux.rootfsPropagation".to_owned()));
    }
    for mount in spec.mounts().iter().flatten() {
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        if options.propagation.iter().any(|(mode, _)| spreads(*mode)) {
            return Err(needs(format!("mounts[{}].options: its propagation", mount.destination().display())));
        }
    }
    Ok(())
}

/// Refuses the caller's own mount namespace as one to join: what is made the root there is everybody's.
pub(crate) fn check_joined(namespace: &OwnedFd) -> Result<(), Error> {
    let own = std::fs::metadata("/proc/self/ns/mnt").at("stat", "/proc/self/ns/mnt")?;
    let joined = nix::sys::stat::fstat(namespace).at("stat", "mount namespace")?;
    if (own.dev(), own.ino()) != (joined.st_dev, joined.st_ino) {
        return Ok(());
    }
    let why = "its path is the caller's own mount namespace: leave the entry out to inherit that";
    Err(Error::invalid("linux.namespaces: mount", why))
}

/// The caller's mount namespace, to go back to.
pub(crate) fn mounts_of_caller() -> Result<OwnedFd, Failure> {
    let path = "/proc/self/ns/mnt";
    Ok(File::open(path).at("open namespace", path)?.into())
}

/// Takes the finished root filesystem along into the host's mount namespace.
pub(crate) fn go_back(root: &Root, host: &OwnedFd) -> Result<(), Failure> {
    let copy = sys::clone_tree_fd(root, true).at("copy", "the mounts of the root filesystem")?;
    sys::setns(host, ns::MOUNT).at("go back to", "the caller's mount namespace")?;
    enter(&copy)
}

/// The root of the container's first process, for a further process.
pub(crate) fn root_of(pid: i32, process: &OwnedFd) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(Path::new(&path), flags, Mode::empty()).at("open", &path)?;
    // Had it ended before, the number could be somebody else's by now.
    sys::pidfd_send_signal(process, 0).at("look at", format!("process {pid}"))?;
    Ok(root)
}

/// Makes a folder the root of the calling process.
pub(crate) fn enter(root: &OwnedFd) -> Result<(), Failure> {
    nix::unistd::fchdir(root).at("chdir to", "the container's root")?;
    nix::unistd::chroot(".").at("chroot to", "the container's root")?;
    match sys::raw_getcwd().at("getcwd", "")? {
        path if path == b"/" => Ok(()),
        _ => Err(Failure::new("chroot to", "the container's root", Errno::EXDEV)),
    }
}
