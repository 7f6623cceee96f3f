//! Trying a thing out in a child process, and the system calls that are tried.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// The exit status of a child whose attempt ended in a way that has no error number.
const ABNORMAL: c_int = 255;

/// Runs `work` in a child process and returns what it returned. The child's namespaces, mounts and filters end
/// with it. The process must have one thread.
pub(super) fn in_child(work: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    // SAFETY: the process has one thread, so the child may do what its parent could.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let status = match work() {
                Ok(()) => 0,
                // Error numbers are below 134 on Linux.
                Err(errno) => errno as c_int,
            };
            // SAFETY: ends the child at once; the parent's buffers and destructors are not run a second time.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                Ok(WaitStatus::Exited(_, status)) if status != ABNORMAL => return Err(Errno::from_raw(status)),
                Ok(_) => return Err(Errno::EPROTO),
            }
        },
    }
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

fn descriptor(result: c_long) -> Result<OwnedFd, Errno> {
    let number = check(result)? as c_int;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// clone3(2): makes a process that ends at once.
pub(super) fn clone3() -> Result<(), Errno> {
    // SAFETY: a structure of numbers and addresses, for which zero means absent.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the structure lives through the call and has the size that is said; without a stack the child goes on
    // here with a copy of all memory.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })?;
    if pid == 0 {
        // SAFETY: as in `in_child`.
        unsafe { libc::_exit(0) }
    }
    waitpid(nix::unistd::Pid::from_raw(pid as i32), None).map(drop)
}

/// pidfd_open(2) of this process.
pub(super) fn pidfd_open() -> Result<(), Errno> {
    // SAFETY: takes two numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) }).map(drop)
}

/// openat2(2) of the root folder, resolved inside it.
pub(super) fn openat2() -> Result<(), Errno> {
    // SAFETY: a structure of three numbers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT;
    let (path, size) = (c"/", size_of_val(&how));
    // SAFETY: the path ends with a zero byte, and the structure has the size that is said; both live through the call.
    descriptor(unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size) })
        .map(drop)
}

const FSCONFIG_CMD_CREATE: c_int = 6;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// fsopen, fsconfig, fsmount and mount_setattr: a tmpfs that nobody sees, made read-only.
pub(super) fn new_mount_api() -> Result<(), Errno> {
    // SAFETY: the name ends with a zero byte and lives through the call.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1) })?;
    let null: *const libc::c_char = std::ptr::null();
    // SAFETY: the command takes neither key nor value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) })?;
    // SAFETY: takes numbers.
    let mount = descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    let attributes = MountAttr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    let (path, size): (&CStr, _) = (c"", size_of_val(&attributes));
    // SAFETY: the path ends with a zero byte, and the structure has the size that is said; both live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    })
    .map(drop)
}

/// seccomp(2): loads a filter that allows everything.
pub(super) fn seccomp_filter() -> Result<(), Errno> {
    let allow = libc::SECCOMP_RET_ALLOW;
    let mut instructions = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: allow }];
    let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
    // SAFETY: takes numbers.
    check(c_long::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))?;
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its instructions live through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_error_is_the_attempts() {
        assert_eq!(in_child(|| Ok(())), Ok(()));
        assert_eq!(in_child(|| Err(Errno::EXDEV)), Err(Errno::EXDEV));
    }

    #[test]
    fn what_a_child_changes_ends_with_it() {
        let before = std::env::current_dir().unwrap();
        in_child(|| nix::unistd::chdir("/proc")).unwrap();
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
