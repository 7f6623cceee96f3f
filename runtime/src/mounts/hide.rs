//! Masked and read-only paths.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};

use crate::error::{Context, Failure};
use crate::path::Root;
use crate::sys::{self, FsContext, MountAttr, attr};

/// Makes each path read-only with all that is mounted below it; missing ones are passed over.
pub(crate) fn protect_paths(root: &Root, paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        protect(root, Path::new(path)).at("make read-only", path)?;
    }
    Ok(())
}

fn protect(root: &Root, path: &Path) -> nix::Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let tree = sys::clone_tree_fd(&target, true)?;
    sys::set_mount_attr(&tree, &MountAttr::READ_ONLY, true)?;
    sys::attach_mount(&tree, &target)
}

/// Hides each path: a file behind /dev/null, a folder behind an empty read-only one; missing ones are passed
/// over. The null device is the host's and is checked to be it: one found in the container's /dev may be
/// anything (CVE-2025-31133).
pub(crate) fn mask_paths(root: &Root, paths: &[String]) -> Result<(), Failure> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = null_device()?;
    let mut empty = None;
    for (at, path) in paths.iter().enumerate() {
        // Twice would be one mount upon the other.
        if !paths[..at].contains(path) {
            mask(root, Path::new(path), &null, &mut empty).at("mask", path)?;
        }
    }
    Ok(())
}

fn mask(root: &Root, path: &Path, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> nix::Result<()> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let is_folder = super::is_folder(&target)?;
    if !is_folder {
        return sys::attach_mount(sys::clone_tree_fd(null, false)?, &target);
    }
    // All masked folders share one empty filesystem: a copy of its mount costs less than another.
    if let Some(mounted) = empty {
        return sys::attach_mount(sys::clone_tree_fd(mounted, false)?, &target);
    }
    let filesystem = FsContext::open("tmpfs")?;
    for limit in ["nr_blocks", "nr_inodes"] {
        filesystem.set(limit, Some("1"))?;
    }
    let mounted = filesystem.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    sys::attach_mount(&mounted, &target)?;
    *empty = Some(mounted);
    Ok(())
}

fn existing(root: &Root, path: &Path) -> nix::Result<Option<OwnedFd>> {
    match root.open(path, OFlag::O_PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn null_device() -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let null = open("/dev/null", flags, Mode::empty()).at("open", "/dev/null")?;
    let stat = fstat(&null).at("stat", "/dev/null")?;
    let is_char = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    if !is_char || (major(stat.st_rdev), minor(stat.st_rdev)) != (1, 3) {
        return Err(Failure::refused("open", "/dev/null", "it is not the null device (character 1:3)"));
    }
    Ok(null)
}
