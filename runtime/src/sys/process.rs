//! Processes, their descriptors and signals.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

use super::{check, check_fd};

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// A descriptor for the process of this number (pidfd_open(2)).
pub(crate) fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// Sends a signal to the process of a pidfd; 0 asks only whether it could be sent.
pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> nix::Result<()> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the kernel fills in its own.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, null, 0) }).map(drop)
}

/// Joins several namespaces of the process of a pidfd, or the one that the descriptor is (setns(2)).
pub(crate) fn setns(fd: impl AsFd, flags: u64) -> nix::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_fd().as_raw_fd(), flags as libc::c_int) }).map(drop)
}

/// Moves the calling process into new namespaces (unshare(2)).
pub(crate) fn unshare(flags: u64) -> nix::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags as libc::c_int) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed by execve.
pub(crate) fn close_on_exec_from(first: u32) -> nix::Result<()> {
    // SAFETY: nothing is closed now, so no owner loses its descriptor.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Ends the process at once, running nothing of its own: the child of a clone has its parent's exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Puts every signal back to its default action and unblocks all: execve keeps what is ignored or blocked.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is no function; the libc refuses the signals that cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let all = nix::sys::signal::SigSet::empty();
    let _ = nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&all), None);
}

/// Makes descriptor `number` (0, 1 or 2) a copy of `fd`; it survives execve.
pub(crate) fn dup_to(fd: impl AsFd, number: RawFd) -> nix::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    if fd == number {
        // SAFETY: plain numbers; dup2 of a descriptor to itself would leave its close-on-exec flag.
        return check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: 0 to 2 are nobody's `OwnedFd` in this crate: they are the process's standard descriptors.
    check(unsafe { libc::dup2(fd, number) }.into()).map(drop)
}

/// The soft and hard limit of a resource, of the calling process for the number 0; then sets them to `new`, if given
/// (prlimit(2)).
pub(crate) fn rlimit(pid: i32, resource: u32, new: Option<[u64; 2]>) -> nix::Result<[u64; 2]> {
    let new = new.as_ref().map_or(std::ptr::null(), |new| new.as_ptr());
    let mut old = [0; 2];
    // SAFETY: the kernel's rlimit64 is two 64-bit numbers, soft before hard; both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, old.as_mut_ptr()) })?;
    Ok(old)
}

/// Joins a session keyring of this name, made when there is none (keyctl(2)).
pub(crate) fn join_session_keyring(name: &str) -> nix::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = std::ffi::CString::new(name).map_err(|_| nix::errno::Errno::EINVAL)?;
    // SAFETY: the name is a C string that lives through the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// Sets the execution domain (personality(2)).
pub(crate) fn set_personality(persona: u32) -> nix::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) }).map(drop)
}

/// Sets the I/O class and level of the calling process (ioprio_set(2)).
pub(crate) fn set_io_priority(class: u32, level: u32) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (class << 13) | level) }).map(drop)
}

/// Closes every descriptor from `first` on but those kept. For the child of a clone only, which leaves the
/// values that own the others behind.
pub(crate) fn close_all_but(first: u32, mut keep: Vec<RawFd>) -> nix::Result<()> {
    keep.sort_unstable();
    let mut next = first;
    let close = |from: u32, to: u32| -> nix::Result<()> {
        // SAFETY: the caller is a fresh clone; no value whose descriptor is closed here is used or dropped in it.
        check(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) }).map(drop)
    };
    for fd in keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()) {
        if fd > next {
            close(next, fd - 1)?;
        }
        next = next.max(fd + 1);
    }
    close(next, libc::c_uint::MAX)
}

/// Gives descriptors the numbers from `first` on, to survive execve, and `kept` one after them.
/// For the child of a clone only, which leaves the values that own these numbers behind.
pub(crate) fn line_up(fds: &[BorrowedFd<'_>], first: RawFd, kept: impl AsFd) -> nix::Result<OwnedFd> {
    let after = first + fds.len() as RawFd;
    // First out of each other's way.
    let kept = duplicate_from(kept, after)?;
    let copies = fds.iter().map(|fd| duplicate_from(fd, after)).collect::<nix::Result<Vec<_>>>()?;
    for (copy, number) in copies.iter().zip(first..) {
        // SAFETY: the caller is a fresh clone; no value whose descriptor is replaced here is used or dropped in it.
        check(unsafe { libc::dup2(copy.as_raw_fd(), number) }.into())?;
    }
    Ok(kept)
}

/// Takes the ownership of a descriptor that whoever started this program gave it by number.
pub(crate) fn adopt(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it is open, and was so before this program began: no value in here owns it.
    (number > 2 && is_open(number)).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether a descriptor of this number is open.
pub(crate) fn is_open(number: RawFd) -> bool {
    // SAFETY: plain numbers; nothing is changed.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

/// A copy of a descriptor with a number of at least `lowest`.
pub(crate) fn duplicate_from(fd: impl AsFd, lowest: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers; the kernel makes a descriptor.
    check_fd(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())
}

/// Gives an open file to another user, and leaves its group.
pub(crate) fn change_owner(number: RawFd, uid: u32) -> nix::Result<()> {
    // SAFETY: plain numbers; a group of all ones is left as it is.
    check(unsafe { libc::fchown(number, uid, u32::MAX) }.into()).map(drop)
}

/// The working directory as the kernel tells it: outside of the root it begins with `(unreachable)`,
/// which the standard library and libc hide.
pub(crate) fn raw_getcwd() -> nix::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as said.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    buffer.truncate((length as usize).saturating_sub(1));
    Ok(buffer)
}

/// What is open at a number.
pub(crate) fn stat_of(number: RawFd) -> Option<libc::stat> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills the whole structure when it returns 0, and only then is it read.
    unsafe { (libc::fstat(number, stat.as_mut_ptr()) == 0).then(|| stat.assume_init()) }
}

/// Sets the NIS domain name of the UTS namespace (setdomainname(2)).
pub(crate) fn set_domainname(name: &str) -> nix::Result<()> {
    // SAFETY: the name is as long as said and lives through the call.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Executes the program `fd`; returns only with the reason why not.
pub(crate) fn execveat(fd: impl AsFd, args: &[std::ffi::CString], env: &[std::ffi::CString]) -> nix::errno::Errno {
    let pointers = |strings: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    let (fd, flags) = (fd.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: both arrays end with a null pointer, and they and the strings live through the call.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), flags) };
    nix::errno::Errno::last()
}
