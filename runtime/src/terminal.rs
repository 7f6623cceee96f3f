//! The terminal of a container's process: a pair from the container's own devpts.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};

use crate::error::{Context, Error, Failure};
use crate::path::Root;
use crate::{handshake, sys};

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
/// It belongs to the user of the process, where that is possible.
pub(crate) fn open(root: &Root, size: Option<(u16, u16)>, uid: u32) -> Result<Pty, Failure> {
    let (step, path) = ("open terminal", "/dev/pts/ptmx");
    let master = root.open(Path::new(path), OFlag::O_RDWR | OFlag::O_NOCTTY).at(step, path)?;
    if fstatfs(&master).at(step, path)?.filesystem_type() != DEVPTS {
        return Err(Failure::refused(step, path, "it is not on a devpts; a terminal needs one mounted at /dev/pts"));
    }
    sys::unlock_terminal(&master).at(step, path)?;
    let slave = sys::open_terminal_peer(&master).at(step, path)?;
    if uid != 0 {
        let _ = sys::change_owner(slave.as_raw_fd(), uid);
    }
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

/// Gives descriptors 0 to 2 to a user, where that is possible: not devices, which are the host's (/dev/null,
/// which all containers share, or a terminal). What is asked is the kernel: the container's /dev may lie.
pub(crate) fn give_stdio_to(uid: u32) {
    for number in 0..3 {
        let is_device = |stat: &libc::stat| matches!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        if sys::stat_of(number).is_some_and(|stat| !is_device(&stat) && stat.st_uid != uid) {
            let _ = sys::change_owner(number, uid);
        }
    }
}

/// Gives the pipes among a process's standard descriptors to who it is on the host. A user namespace's root is
/// nobody to files that come from outside, and could not open /dev/stdout anew.
pub(crate) fn give_pipes_to(numbers: [std::os::fd::RawFd; 3], uid: u32) {
    for number in numbers {
        let is_pipe = |stat: &libc::stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO;
        if sys::stat_of(number).is_some_and(|stat| is_pipe(&stat) && stat.st_uid != uid) {
            let _ = sys::change_owner(number, uid);
        }
    }
}

/// Gives a terminal's master to whoever is to have it.
pub(crate) fn hand_over(terminal: Option<OwnedFd>, console: Option<&Path>) -> Result<Option<OwnedFd>, Error> {
    match (terminal, console) {
        (Some(master), Some(console)) => {
            handshake::send_console(console, master.as_fd())?;
            Ok(None)
        }
        (terminal, None) => Ok(terminal),
        (None, Some(_)) => Err(no_terminal()),
    }
}

/// A console socket was given for a process that has no terminal.
pub(crate) fn no_terminal() -> Error {
    Error::invalid("console-socket", "the process has no terminal (process.terminal)")
}

/// Has a terminal pass ends of lines on as the program writes them. What passes a container's terminal comes to that of
/// who looks at it next, which adds what it wants; where it comes to a file, it is to be as it was written. As runc.
pub fn pass_output_raw(terminal: impl AsFd) -> nix::Result<()> {
    let mut settings = tcgetattr(&terminal)?;
    settings.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(&terminal, SetArg::TCSANOW, &settings)
}

/// The size of a terminal in characters, columns and rows; of what is none, nothing.
pub fn terminal_size(terminal: impl AsFd) -> Option<(u16, u16)> {
    sys::terminal_size(terminal).ok()
}

/// Gives a terminal the size of another; what is no terminal has no size and changes nothing.
pub fn copy_terminal_size(from: impl AsFd, to: impl AsFd) {
    if let Ok((columns, rows)) = sys::terminal_size(from) {
        let _ = sys::set_terminal_size(to, columns, rows);
    }
}
