//! /proc, by a handle that has been checked to be procfs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use orlop_shim::protocol::{Failure, FailureKind};

use crate::failure::{Step, failure};

/// The inode number of procfs's root.
const ROOT_INODE: u64 = 1;

#[derive(Debug)]
pub(crate) struct Proc(OwnedFd);

impl Proc {
    pub(crate) fn open() -> Result<Proc, Failure> {
        let root =
            open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).step("open /proc")?;
        let is_proc = fstatfs(&root).step("check /proc")?.filesystem_type() == PROC_SUPER_MAGIC;
        if !is_proc || fstat(&root).step("check /proc")?.st_ino != ROOT_INODE {
            return Err(failure(FailureKind::System, "/proc is not procfs"));
        }
        Ok(Proc(root))
    }

    /// Reads a file below /proc whole.
    pub(crate) fn read(&self, path: &str) -> Result<String, Failure> {
        // A process may give itself a name that is not UTF-8; numbers and keywords still are.
        let mut text = Vec::new();
        self.file(path, OFlag::O_RDONLY)?.read_to_end(&mut text).step(format_args!("read /proc/{path}"))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Reads a file of this process's own folder; `self` would be a link.
    pub(crate) fn read_own(&self, name: &str) -> Result<String, Failure> {
        self.read(&format!("{}/{name}", std::process::id()))
    }

    pub(crate) fn write_own(&self, name: &str, text: &str) -> Result<(), Failure> {
        self.write(&format!("{}/{name}", std::process::id()), text)
    }

    /// Writes to a file below /proc, in one call as its files want.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<(), Failure> {
        self.file(path, OFlag::O_WRONLY)?.write_all(text.as_bytes()).step(format_args!("write /proc/{path}"))
    }

    /// Never through a link or into something mounted over it.
    fn file(&self, path: &str, flags: OFlag) -> Result<File, Failure> {
        let within = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(within);
        Ok(openat2(&self.0, path, how).step(format_args!("open /proc/{path}"))?.into())
    }
}
