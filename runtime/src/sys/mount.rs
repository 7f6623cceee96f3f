//! The mount API that works on descriptors: open_tree(2), fsopen(2), fsconfig(2), fsmount(2), move_mount(2)
//! and mount_setattr(2), Linux 5.2 to 5.12.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::{check, check_fd};
use crate::path::c_string;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const AT_EMPTY_PATH: libc::c_uint = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// `MOUNT_ATTR_*` of linux/mount.h.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const RELATIME: u64 = 0x0;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const IDMAP: u64 = 0x0010_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`; 0 leaves it.
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

impl MountAttr {
    pub(crate) const READ_ONLY: MountAttr = MountAttr { set: attr::RDONLY, clear: 0, propagation: 0, userns_fd: 0 };

    pub(crate) fn is_empty(&self) -> bool {
        *self == MountAttr::default()
    }
}

/// A detached copy of the mount at `path`, with what is mounted below it when `recursive`.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    let path = c_string(path)?;
    open_tree(libc::AT_FDCWD, &path, recursive, 0)
}

/// A detached copy of the mount that `fd` is on, from the file that `fd` is.
pub(crate) fn clone_tree_fd(fd: impl AsFd, recursive: bool) -> nix::Result<OwnedFd> {
    open_tree(fd.as_fd().as_raw_fd(), c"", recursive, AT_EMPTY_PATH)
}

fn open_tree(dir: i32, path: &std::ffi::CStr, recursive: bool, flags: libc::c_uint) -> nix::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string that lives through the call.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount on top of the file or folder `target`.
pub(crate) fn attach_mount(mount: impl AsFd, target: impl AsFd) -> nix::Result<()> {
    let (mount, target) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings; the kernel works on the two descriptors.
    let moved = unsafe { libc::syscall(libc::SYS_move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), flags) };
    check(moved).map(drop)
}

/// Changes the mount that `fd` is on, and all below it when `recursive`.
pub(crate) fn set_mount_attr(fd: impl AsFd, attr: &MountAttr, recursive: bool) -> nix::Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the structure lives through the call and its size is given; the path is an empty C string.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(done).map(drop)
}

/// A filesystem that is being configured.
#[derive(Debug)]
pub(crate) struct FsContext(OwnedFd);

impl FsContext {
    /// Begins a filesystem of this type.
    pub(crate) fn open(fs_type: &str) -> nix::Result<FsContext> {
        let name = CString::new(fs_type).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the name is a C string that lives through the call.
        check_fd(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) }).map(FsContext)
    }

    /// Sets `key` to `value`, or the flag `key`.
    pub(crate) fn set(&self, key: &str, value: Option<&str>) -> nix::Result<()> {
        let key = CString::new(key).map_err(|_| Errno::EINVAL)?;
        let value = value.map(CString::new).transpose().map_err(|_| Errno::EINVAL)?;
        let command = if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG };
        let value = value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
        // SAFETY: key and value are C strings, or null, that live through the call.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key.as_ptr(), value, 0) };
        check(done).map(drop)
    }

    /// Makes the filesystem and a detached mount of it, with these `MOUNT_ATTR_*` flags.
    pub(crate) fn mount(&self, attributes: u64) -> nix::Result<OwnedFd> {
        let null = std::ptr::null::<libc::c_char>();
        // SAFETY: this command takes neither key nor value.
        let made = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) };
        check(made)?;
        // SAFETY: plain numbers.
        check_fd(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    /// What the kernel has to say about the last error, if anything: it queues messages on the descriptor.
    pub(crate) fn message(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0; 512];
        while let Ok(length) = nix::unistd::read(self.as_fd(), &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            // Messages begin with their severity, as in "e overlay: …".
            let line = line.trim_end().get(2..).unwrap_or_default();
            text = if text.is_empty() { line.to_owned() } else { format!("{text}; {line}") };
            if length == 0 {
                break;
            }
        }
        text
    }
}

/// The number of the mount that a path is on (statx(2), Linux 5.8).
pub(crate) fn mount_id(path: &Path) -> nix::Result<u64> {
    const STATX_MNT_ID: libc::c_uint = 0x1000;
    /// `struct statx` of linux/stat.h: `stx_mnt_id` is at byte 144 of 256.
    #[repr(C, align(8))]
    struct Statx([u8; 256]);
    let path = c_string(path)?;
    let mut statx = Statx([0; 256]);
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path is a C string and the buffer has the size of the kernel's structure.
    let done = unsafe {
        libc::syscall(libc::SYS_statx, libc::AT_FDCWD, path.as_ptr(), flags, STATX_MNT_ID, statx.0.as_mut_ptr())
    };
    check(done)?;
    let mut id = [0; 8];
    id.copy_from_slice(&statx.0[144..152]);
    Ok(u64::from_ne_bytes(id))
}

impl AsFd for FsContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
