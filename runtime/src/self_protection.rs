//! Keeping the running program out of a container's reach (CVE-2019-5736).
//!
//! A container can come to hold our executable: by an entry point `/proc/self/exe`, by a script whose
//! interpreter is that, or by looking at a process of ours that has entered its namespaces. As root it could
//! then write to the file, and the next container would be started by the attacker. So the program runs from
//! a read-only mount of its own file: a detached copy of the file's mount that is made read-only and takes the
//! place of the file, in the program that runs; where the kernel cannot do that, it is executed again from there.
//! After that the copy is attached nowhere and no descriptor is left of it, so nobody can change it back; the file
//! has no other way in. That is done once per call of the command line, once in the life of a shim, nothing per
//! container, and costs no memory, unlike a copy in a memfd.
//!
//! An ordinary user may not copy a mount. Where the file is root's, the container's root, who is that user on the
//! host, cannot write to it either; else the program runs from a sealed copy in memory.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::{Context, Failure};
use crate::identity::own_memory;
use crate::path::fd_path;
use crate::sys::{self, MountAttr};

/// Lets the running program be one from a read-only mount of its file, unless it is that already. The kernel exchanges
/// the file, or else the program is executed again from the start: this is to be called first in `main`, with one thread
/// and nothing open that matters. Returns when the program is safe; a failure means that it is not, and no container
/// should be started.
pub fn run_from_read_only_mount() -> Result<(), Failure> {
    let path = Path::new("/proc/self/exe");
    let executable = File::open(path).at("open", path.display())?;
    if fstatvfs(&executable).at("statvfs", path.display())?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let step = "protect the program with a read-only mount of";
    let copy = match sys::clone_tree_fd(executable.as_fd(), false) {
        Err(Errno::EPERM) if is_out_of_reach(&executable) || is_sealed(&executable) => return Ok(()),
        Err(Errno::EPERM) => sealed_copy(executable).at("protect the program with a sealed copy of", path.display())?,
        copy => {
            let copy = copy.at(step, path.display())?;
            sys::set_mount_attr(&copy, &MountAttr::READ_ONLY, false).at(step, path.display())?;
            if take_place(&copy) {
                return Ok(());
            }
            copy
        }
    };
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

/// Lets the file that a descriptor stands for be the running program's, if the kernel can do that.
fn take_place(copy: &OwnedFd) -> bool {
    let file = File::open(fd_path(copy.as_fd()));
    file.is_ok_and(|file| own_memory().is_some_and(|memory| sys::replace_program(&file, memory).is_ok()))
}

/// Whether a file is root's and nobody else may write to it, with the caller not being root. Seen from inside a user
/// namespace an owner that is not mapped there is another number, and the file as safe: the answer is then too
/// careful, and no harm.
fn is_out_of_reach(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    !nix::unistd::geteuid().is_root() && file.metadata().is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o022 == 0)
}

const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

fn is_sealed(file: &File) -> bool {
    fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SEALS))
}

/// A copy in memory that nobody can change (memfd_create(2)).
fn sealed_copy(mut file: File) -> nix::Result<OwnedFd> {
    let make = |flags| memfd_create("orlop-runtime", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | flags);
    // Kernels before 6.3 do not know the flag that says that it is a program, and others may insist on it.
    let mut copy = File::from(match make(MFdFlags::from_bits_retain(libc::MFD_EXEC)) {
        Err(Errno::EINVAL) => make(MFdFlags::empty())?,
        made => made?,
    });
    std::io::copy(&mut file, &mut copy).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(copy.into())
}
