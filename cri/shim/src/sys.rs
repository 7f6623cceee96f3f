//! System calls that no safe library has.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, accept4, socket};
use nix::unistd::{ForkResult, Pid};

/// signal(7)
const HIGHEST_SIGNAL: i32 = 64;

/// Goes on in a child process; the caller's own ends here.
///
/// # Errors
/// As fork(2).
pub(crate) fn go_on_in_child() -> nix::Result<()> {
    // SAFETY: called before anything has started a thread.
    match unsafe { nix::unistd::fork()? } {
        ForkResult::Child => Ok(()),
        // SAFETY: _exit(2) is always safe; exit handlers must not run twice.
        ForkResult::Parent { .. } => unsafe { libc::_exit(0) },
    }
}

/// Clones this single-threaded process into a child that is PID 1 of a new PID namespace and runs `child`.
///
/// # Errors
/// As clone(2).
pub(crate) fn clone_into_pid_namespace(child: impl FnOnce()) -> nix::Result<Pid> {
    let flags = libc::c_long::from(libc::CLONE_NEWPID | libc::SIGCHLD);
    // SAFETY: as fork(2) (no stack given, memory is copied), of a process with one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match Errno::result(pid)? {
        0 => {
            child();
            exit_now(0)
        }
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}

/// Ends this process at once.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) is always safe.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default disposition, whatever the daemon and its parents had ignored.
pub(crate) fn default_dispositions() {
    // The kernel's own call: the libc keeps some signals to itself, which the daemon's parents may not have.
    // An all-zero sigaction is SIG_DFL without flags, a restorer or a mask.
    let default = [0_usize; 4];
    for number in 1..=HIGHEST_SIGNAL {
        // SAFETY: reads one struct sigaction of the kernel, of at most 32 bytes with a mask of 8, and installs
        // no handler. It is refused for SIGKILL and SIGSTOP, which have no other disposition.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null::<usize>(), 8) };
    }
}

/// Has `command` begin with no signal blocked, unlike this process.
pub(crate) fn unblock_signals_in(command: &mut Command) {
    let unblock = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: one system call, in the child of a process with one thread.
    unsafe { command.pre_exec(unblock) };
}

/// Has the kernel reap this process's children by itself.
pub(crate) fn ignore_children() -> nix::Result<()> {
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map(drop)
}

/// Closes every descriptor from `first` on. No object may own one of them that is used or dropped later.
pub(crate) fn close_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: the caller sees to it that nobody owns these descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Errno::result(closed).map(drop)
}

/// Closes every descriptor but the standard ones and one more.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) -> nix::Result<()> {
    let keep = keep.as_raw_fd();
    if keep > 3 {
        // SAFETY: as `close_from`.
        Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3, keep - 1, 0) })?;
    }
    close_from(keep + 1)
}

/// Takes the descriptor 0 over, as a close-on-exec one of another number; 0 itself stays open.
pub(crate) fn take_stdin() -> nix::Result<OwnedFd> {
    // SAFETY: fcntl(2) makes a new descriptor, which is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(Errno::result(libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3))?)) }
}

/// Accepts a connection, non-blocking and close-on-exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4(2) has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the size of the terminal of which this is the master.
pub(crate) fn set_window_size(master: BorrowedFd<'_>, width: u16, height: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> nix::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of one ifreq.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the kernel has just set the flags, so they are what the union holds.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }).map(drop)
}

/// Sends a signal to a process of the container, of which `pidfd` holds the identity.
pub(crate) fn signal_by_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    // SAFETY: pidfd_send_signal(2) without a siginfo.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    Errno::result(sent).map(drop)
}

/// A handle that stays this process whatever becomes of its number.
pub(crate) fn open_pidfd(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) makes a new descriptor, which is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as RawFd)) }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

/// Reaps one child that has ended, of whatever kind; none if there is none now.
///
/// Not by a library whose signals have names: a process may end by a real-time signal.
pub(crate) fn reap() -> Option<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    if pid <= 0 {
        return None;
    }
    let ended = if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        Ended { code: 128 + signal, signal: Some(signal) }
    } else {
        Ended { code: libc::WEXITSTATUS(status), signal: None }
    };
    Some((pid, ended))
}
