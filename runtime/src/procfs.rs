//! /proc through a descriptor that was checked to be procfs, so that a write meant for the kernel cannot be
//! led to another file. The class of CVE-2019-16884, CVE-2019-19921 and CVE-2025-52881.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::error::{Context, Failure};

/// The inode of the root folder of every procfs.
pub(crate) const PROC_ROOT_INODE: u64 = 1;

/// The host's /proc, opened before the container has any say in what is mounted where.
#[derive(Debug)]
pub(crate) struct ProcFs(OwnedFd);

impl ProcFs {
    /// Opens /proc and makes sure that it is the root of a procfs.
    pub(crate) fn open() -> Result<ProcFs, Failure> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let proc = open("/proc", flags, Mode::empty()).at("open", "/proc")?;
        let kind = fstatfs(&proc).at("statfs", "/proc")?.filesystem_type();
        let inode = nix::sys::stat::fstat(&proc).at("stat", "/proc")?.st_ino;
        if kind != PROC_SUPER_MAGIC || inode != PROC_ROOT_INODE {
            return Err(Failure::refused("open", "/proc", "it is not the root of a procfs"));
        }
        Ok(ProcFs(proc))
    }

    /// Opens a file below /proc, on that very mount and through no link but `self`.
    fn open_file(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW).resolve(resolve);
        loop {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => (),
                result => return result,
            }
        }
    }

    /// The folder in which this process's descriptors are, by their numbers.
    pub(crate) fn own_descriptors(&self) -> Result<OwnedFd, Failure> {
        self.open_file(Path::new("self/fd"), OFlag::O_PATH | OFlag::O_DIRECTORY).at("open", "/proc/self/fd")
    }

    /// Reads a file below /proc.
    pub(crate) fn read(&self, path: &str) -> nix::Result<String> {
        let mut text = String::new();
        let mut file = File::from(self.open_file(Path::new(path), OFlag::O_RDONLY)?);
        let read = file.read_to_string(&mut text);
        read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        Ok(text)
    }

    /// Writes `value` to a file below /proc, in one write(2).
    pub(crate) fn write(&self, path: &str, value: &str) -> Result<(), Failure> {
        let object = || format!("/proc/{path}");
        let file = self.open_file(Path::new(path), OFlag::O_WRONLY).at("open", object())?;
        match nix::unistd::write(&file, value.as_bytes()).at("write to", object())? {
            written if written == value.len() => Ok(()),
            _ => Err(Failure::refused("write to", object(), "the kernel took only a part")),
        }
    }
}

/// Most of what the kernel makes up fits into this.
const USUAL_SIZE: usize = 8 * 1024;

/// Reads a file of procfs or of a control group. Such a file says that it is empty, and whoever asks for it in
/// small pieces has it made up anew for each.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(USUAL_SIZE);
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same as text. A name in it may be anything: what is not UTF-8 is replaced.
pub(crate) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let bytes = read(path)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}
