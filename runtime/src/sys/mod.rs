//! System calls that neither the standard library nor `nix` wraps, each made safe here: borrowed
//! descriptors in, owned ones out, the error number as it is. The only module of the crate with unsafe code.
#![allow(unsafe_code)]

mod bpf;
mod clone;
mod credentials;
mod mount;
mod network;
mod process;
mod program;
mod schedule;
mod terminal;

pub(crate) use bpf::{BpfInsn, attach_device_program, detach_device_program, device_programs, load_device_program};
pub(crate) use clone::{clone_process, clone_sibling, ns};
pub(crate) use credentials::*;
pub(crate) use mount::*;
pub(crate) use network::raise_loopback;
pub(crate) use process::*;
pub(crate) use program::{MemoryMap, replace_program};
pub(crate) use schedule::*;
pub(crate) use terminal::*;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// The result of a raw system call as a number or an error.
fn check(result: libc::c_long) -> nix::Result<libc::c_long> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

/// The result of a raw system call that makes a descriptor.
fn check_fd(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
