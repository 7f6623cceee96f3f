//! The terminal of a container's process: a pair from the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Context, Failure};
use crate::path::Root;
use crate::sys;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: FsType = FsType(0x1cd1);

/// A new pseudo terminal.
#[derive(Debug)]
pub(crate) struct Pty {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

/// Makes a pseudo terminal inside a root. What is found at /dev/pts must be a devpts, and the slave is opened
/// through the master, so no path can lead to another file (CVE-2025-52565).
pub(crate) fn open(root: &Root, size: Option<(u16, u16)>) -> Result<Pty, Failure> {
    let (step, path) = ("open terminal", "/dev/pts/ptmx");
    let master = root.open(Path::new(path), OFlag::O_RDWR | OFlag::O_NOCTTY).at(step, path)?;
    if fstatfs(&master).at(step, path)?.filesystem_type() != DEVPTS {
        return Err(Failure::refused(step, path, "it is not on a devpts; a terminal needs one mounted at /dev/pts"));
    }
    sys::unlock_terminal(&master).at(step, path)?;
    let slave = sys::open_terminal_peer(&master).at(step, path)?;
    if let Some((columns, rows)) = size {
        sys::set_terminal_size(&master, columns, rows).at("set size of", "terminal")?;
    }
    Ok(Pty { master, slave })
}

/// Makes the terminal appear as /dev/console.
pub(crate) fn mount_console(root: &Root, slave: &OwnedFd) -> Result<(), Failure> {
    let (step, path) = ("mount terminal at", "/dev/console");
    let dev = root.open_without_links(Path::new("/dev"), OFlag::O_PATH | OFlag::O_DIRECTORY).at(step, path)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match nix::fcntl::openat(&dev, "console", flags, Mode::from_bits_truncate(0o620)) {
        Ok(_) | Err(Errno::EEXIST) => (),
        Err(errno) => return Err(Failure::new(step, path, errno)),
    }
    let target = root.open_without_links(Path::new(path), OFlag::O_PATH).at(step, path)?;
    sys::attach_mount(sys::clone_tree_fd(slave, false).at(step, path)?, &target).at(step, path)
}

/// Gives descriptors 0 to 2 to a user, where that is possible: not the null device, which all containers share.
pub(crate) fn give_stdio_to(uid: u32) {
    let null = std::fs::metadata("/dev/null").map(|meta| std::os::unix::fs::MetadataExt::rdev(&meta)).ok();
    for number in 0..3 {
        let stat = sys::stat_of(number);
        if stat.is_some_and(|stat| Some(stat.st_rdev) != null && stat.st_uid != uid) {
            let _ = sys::change_owner(number, uid);
        }
    }
}

/// Gives a terminal the size of another; what is no terminal has no size and changes nothing.
pub fn copy_terminal_size(from: impl AsFd, to: impl AsFd) {
    if let Ok((columns, rows)) = sys::terminal_size(from) {
        let _ = sys::set_terminal_size(to, columns, rows);
    }
}
