//! Users, groups, capabilities, no_new_privs and seccomp of the calling thread. The libc's own functions
//! for some of these change every thread of the process by signals, which a fresh clone cannot use.

use std::os::fd::OwnedFd;

use super::{check, check_fd};

/// Sets real, effective and saved user.
pub(crate) fn set_uid(uid: u32) -> nix::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets real, effective and saved group.
pub(crate) fn set_gid(gid: u32) -> nix::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Sets the supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> nix::Result<()> {
    // SAFETY: the array is as long as said and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> nix::Result<libc::c_long> {
    let zero: libc::c_ulong = 0;
    // SAFETY: every option used in this module takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, zero, zero) })
}

/// Keeps the permitted capabilities when the user changes from root.
pub(crate) fn set_keep_capabilities(keep: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// Whether other processes may look into this one (ptrace(2), /proc/PID/fd).
pub(crate) fn set_dumpable(dumpable: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// From here on execve grants no privileges.
pub(crate) fn set_no_new_privs() -> nix::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Removes a capability from the bounding set.
pub(crate) fn drop_bounding(capability: u32) -> nix::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// Whether a capability is in the bounding set; an error for one that the kernel does not know.
pub(crate) fn has_bounding(capability: u32) -> nix::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0).map(|set| set == 1)
}

/// Empties the ambient set.
pub(crate) fn clear_ambient() -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).map(drop)
}

/// Adds a capability to the ambient set.
pub(crate) fn raise_ambient(capability: u32) -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, capability.into()).map(drop)
}

/// Sets the thread's capabilities, each a set of bits (capset(2)).
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> nix::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let half = |shift: u32| [(effective >> shift) as u32, (permitted >> shift) as u32, (inheritable >> shift) as u32];
    let data = [half(0), half(32)];
    // SAFETY: the header is version and process (0 is the caller); version 3 takes two sets of three words.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// One instruction of classic BPF: `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterInsn {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// Installs a seccomp filter (seccomp(2)); `flags` are `SECCOMP_FILTER_FLAG_*`. With that for a
/// listener its descriptor is returned, which execve closes.
pub(crate) fn install_filter(program: &[FilterInsn], flags: u32) -> nix::Result<Option<OwnedFd>> {
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 8;
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const FilterInsn,
    }
    let length = u16::try_from(program.len()).map_err(|_| nix::errno::Errno::E2BIG)?;
    let program = Program { length, filter: program.as_ptr() };
    // SAFETY: the program is as long as said and lives through the call; the kernel checks its content.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        return check_fd(done).map(Some);
    }
    check(done).map(|_| None)
}
