//! clone3(2).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

use super::check;

/// Flags of clone3(2), unshare(2) and setns(2) that are namespaces.
pub(crate) mod ns {
    pub(crate) const TIME: u64 = 0x80;
    pub(crate) const MOUNT: u64 = 0x2_0000;
    pub(crate) const CGROUP: u64 = 0x200_0000;
    pub(crate) const UTS: u64 = 0x400_0000;
    pub(crate) const IPC: u64 = 0x800_0000;
    pub(crate) const USER: u64 = 0x1000_0000;
    pub(crate) const PID: u64 = 0x2000_0000;
    pub(crate) const NET: u64 = 0x4000_0000;
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of linux/sched.h, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks: `Some` with the child and its pidfd in the parent, `None` in the child, whose caught signals are
/// back at their defaults. With `cgroup`, a folder of a cgroup v2 tree, the child starts in there.
pub(crate) fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Option<(Pid, OwnedFd)>> {
    let mut args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    clone3(args)
}

/// Forks a sibling: as [`clone_process`], for a process that is the child of the caller's parent.
pub(crate) fn clone_sibling(flags: u64) -> nix::Result<Option<(Pid, OwnedFd)>> {
    // The kernel gives it the caller's own signal for the parent, and takes no other.
    clone3(CloneArgs { flags: flags | CLONE_PARENT, ..CloneArgs::default() })
}

fn clone3(mut args: CloneArgs) -> nix::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    args.flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // SAFETY: no CLONE_VM: the child has its own copy of memory and goes on here like after fork(2). The
    // structure and `pidfd` live through the call. The child of a process with one thread may use all of
    // its memory; of one with more it must not touch what another thread may have locked, which is why
    // the crate asks its callers for one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: CLONE_PIDFD stored a descriptor that is new and ours.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some((Pid::from_raw(pid as i32), pidfd)))
}
