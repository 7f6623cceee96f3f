//! The root filesystem: mounted, made the only one, and the host's left behind.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::error::{Context, Error, Failure};
use crate::options::Rootfs;
use crate::overlay::Overlay;
use crate::path::Root;
use crate::sys::{self, MountAttr};
use crate::{mountinfo, procfs};

/// Mounts an overlay without attaching it anywhere; `None` for a root filesystem that is a folder.
pub(crate) fn mount_detached(rootfs: &Rootfs) -> Result<Option<OwnedFd>, Error> {
    let Rootfs::Overlay { lower, upper, work } = rootfs else { return Ok(None) };
    if lower.is_empty() {
        return Err(Error::invalid("rootfs", "an overlay needs at least one lower layer"));
    }
    if upper.is_some() != work.is_some() {
        return Err(Error::invalid("rootfs", "an overlay's upper and work folders go together"));
    }
    let (upper, work) = (upper.clone(), work.clone());
    // The upper layer dies with the container, so nothing in it is worth a sync at unmount.
    let rest = upper.iter().map(|_| ("volatile".to_owned(), None)).collect();
    Ok(Some(Overlay { lower: lower.clone(), upper, work, rest }.mount(0)?))
}

/// Keeps what is mounted from here on from appearing on the host. With `shared` propagation asked for, mounts
/// below the binds must still reach the host, so only the mount that carries the root filesystem is cut off.
pub(crate) fn isolate(propagation: Option<(u64, bool)>, rootfs: &Path) -> Result<(), Failure> {
    let none = None::<&str>;
    if propagation.is_some_and(|(mode, _)| mode == libc::MS_SHARED) {
        let point = mount_point_of(rootfs)?;
        return mount(none, &point, none, MsFlags::MS_PRIVATE, none).at("make private", point.display());
    }
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).at("make slave", "/")
}

/// The mount point of the mount that a path is on.
fn mount_point_of(path: &Path) -> Result<PathBuf, Failure> {
    let mut point = std::fs::canonicalize(path).at("resolve", path.display())?;
    let own = sys::mount_id(&point).at("statx", point.display())?;
    while let Some(parent) = point.parent() {
        if sys::mount_id(parent).at("statx", parent.display())? != own {
            break;
        }
        point = parent.to_path_buf();
    }
    Ok(point)
}

/// Attaches the root filesystem at its folder: `detached`, or a copy of the folder itself, since pivot_root
/// wants a mount point.
pub(crate) fn attach(rootfs: &Path, detached: Option<OwnedFd>) -> Result<Root, Failure> {
    let object = || rootfs.display().to_string();
    // A link may lead somewhere else at any moment, and is not what the specification calls a folder.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let target = openat2(AT_FDCWD, rootfs, how).map_err(|errno| match errno {
        Errno::ELOOP => {
            Failure::refused("open rootfs", object(), "root.path leads through a symbolic link; resolve it")
        }
        errno => Failure::new("open rootfs", object(), errno),
    })?;
    let tree = match detached {
        Some(detached) => detached,
        None => sys::clone_tree_fd(&target, true).at("bind rootfs", object())?,
    };
    sys::attach_mount(&tree, &target).at("mount rootfs at", object())?;
    Ok(Root::new(tree))
}

/// Makes the root filesystem `/` and drops the host's mounts.
pub(crate) fn pivot(root: &Root, propagation: Option<(u64, bool)>) -> Result<(), Failure> {
    let none = None::<&str>;
    nix::unistd::fchdir(root).at("chdir to", "rootfs")?;
    // With both the same, the old root ends up on top of the new one and is found by `.`.
    nix::unistd::pivot_root(".", ".").at("pivot_root", "rootfs")?;
    if propagation.is_some_and(|(mode, _)| mode == libc::MS_SHARED) {
        // The host must not lose what is unmounted here.
        mount(none, ".", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).at("make slave", "the old root")?;
    }
    umount2(".", MntFlags::MNT_DETACH).at("unmount", "the old root")?;
    nix::unistd::chdir("/").at("chdir to", "/")?;
    set_propagation(root, propagation)
}

fn set_propagation(root: &Root, propagation: Option<(u64, bool)>) -> Result<(), Failure> {
    let Some((mode, recursive)) = propagation else { return Ok(()) };
    let attr = MountAttr { propagation: mode, ..MountAttr::default() };
    sys::set_mount_attr(root, &attr, recursive).at("set propagation of", "/")
}

/// Makes the root filesystem `/` where pivot_root cannot be: it is put over the host's `/`, which stays below it.
/// What is in there of proc and sysfs goes first: in a user namespace, the kernel lets a process mount these anew
/// only as far as it can see them already.
pub(crate) fn move_over(root: &Root, rootfs: &Path, propagation: Option<(u64, bool)>) -> Result<(), Failure> {
    let none = None::<&str>;
    let own = std::fs::canonicalize(rootfs).at("resolve", rootfs.display())?;
    let list = procfs::read_text("/proc/self/mountinfo").at("read", "/proc/self/mountinfo")?;
    let whole = |entry: &mountinfo::Entry<'_>| matches!(entry.kind, "proc" | "sysfs") && entry.root() == Path::new("/");
    // The latest first.
    let points = mountinfo::entries(&list).rev().filter(whole).map(|entry| entry.at());
    for point in points.filter(|point| !point.starts_with(&own)) {
        mount(none, &point, none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).at("make private", point.display())?;
        match umount2(&point, MntFlags::MNT_DETACH) {
            // What came with another user namespace can only be covered.
            Err(Errno::EINVAL | Errno::EPERM) => {
                mount(none, &point, Some("tmpfs"), MsFlags::empty(), none).at("cover", point.display())?;
            }
            result => result.at("unmount", point.display())?,
        }
    }
    nix::unistd::fchdir(root).at("chdir to", "rootfs")?;
    let over = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).at("open", "/")?;
    sys::attach_mount(root, &over).at("move rootfs to", "/")?;
    nix::unistd::chroot(".").at("chroot to", "rootfs")?;
    nix::unistd::chdir("/").at("chdir to", "/")?;
    set_propagation(root, propagation)
}

/// Makes the root filesystem read-only, what is mounted in it excepted.
pub(crate) fn make_read_only(root: &Root) -> Result<(), Failure> {
    sys::set_mount_attr(root, &MountAttr::READ_ONLY, false).at("make read-only", "/")
}
