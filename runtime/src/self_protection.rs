//! Keeping the running program out of a container's reach (CVE-2019-5736).
//!
//! A container can come to hold our executable: by an entry point `/proc/self/exe`, by a script whose
//! interpreter is that, or by looking at a process of ours that has entered its namespaces. As root it could
//! then write to the file, and the next container would be started by the attacker. So the program runs from
//! a read-only mount of its own file: a detached copy of the file's mount that is made read-only and executed
//! in place of the file. After that the copy is attached nowhere and no descriptor is left of it, so nobody
//! can change it back; the file has no other way in. That costs one execve: once per call of the command
//! line, once in the life of a shim, nothing per container, and no memory, unlike a copy in a memfd.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::{Context, Failure};
use crate::sys::{self, MountAttr};

/// Executes the running program again from a read-only mount of its file, unless it runs from one already.
/// To be called first in `main`, with one thread and nothing open that matters. Returns when the program is
/// safe; a failure means that it is not, and no container should be started.
pub fn run_from_read_only_mount() -> Result<(), Failure> {
    let path = Path::new("/proc/self/exe");
    let executable = File::open(path).at("open", path.display())?;
    if fstatvfs(&executable).at("statvfs", path.display())?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let step = "protect the program with a read-only mount of";
    let copy = sys::clone_tree_fd(executable.as_fd(), false).at(step, path.display())?;
    sys::set_mount_attr(&copy, &MountAttr::READ_ONLY, false).at(step, path.display())?;
    let strings = |all: Vec<std::ffi::OsString>| -> Result<Vec<CString>, Failure> {
        let convert = |one: std::ffi::OsString| CString::new(one.into_vec()).map_err(|_| Errno::EINVAL);
        all.into_iter().map(convert).collect::<Result<_, _>>().at(step, path.display())
    };
    let args = strings(std::env::args_os().collect())?;
    let env = std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        key
    });
    let env = strings(env.collect())?;
    let errno = sys::execveat(&copy, &args, &env);
    Err(Failure::new(step, path.display(), errno))
}
