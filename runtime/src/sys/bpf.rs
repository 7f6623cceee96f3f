//! bpf(2), as far as device control of cgroup v2 needs it.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::{check, check_fd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One instruction of eBPF: `struct bpf_insn`, registers packed as the kernel has them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BpfInsn {
    pub(crate) code: u8,
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> nix::Result<libc::c_long> {
    // SAFETY: callers give the beginning of `union bpf_attr` as the command has it, with its size; what it
    // points to lives through the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}

/// Loads a device control program.
pub(crate) fn load_device_program(program: &[BpfInsn]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        program_type: u32,
        length: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut load = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        length: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    check_fd(bpf(BPF_PROG_LOAD, &mut load)?)
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a device control program to a cgroup; all programs there and above must allow an access.
pub(crate) fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    bpf(BPF_PROG_ATTACH, &mut attachment(cgroup, program, BPF_F_ALLOW_MULTI)).map(drop)
}

/// Detaches a device control program from a cgroup.
pub(crate) fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    bpf(BPF_PROG_DETACH, &mut attachment(cgroup, program, 0)).map(drop)
}

fn attachment(cgroup: impl AsFd, program: impl AsFd, flags: u32) -> Attach {
    Attach {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags,
    }
}

/// The device control programs that are attached to a cgroup itself.
pub(crate) fn device_programs(cgroup: impl AsFd) -> nix::Result<Vec<OwnedFd>> {
    #[repr(C)]
    struct Query {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: cgroup.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    let count = (query.count as usize).min(ids.len());
    ids[..count].iter().map(|id| program_by_id(*id)).collect()
}

fn program_by_id(id: u32) -> nix::Result<OwnedFd> {
    let mut request = [id, 0, 0];
    let fd = bpf(BPF_PROG_GET_FD_BY_ID, &mut request)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
