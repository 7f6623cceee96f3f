//! `tmpcopyup`: a tmpfs begins with what is in the folder that it covers. The image controls that folder, so
//! every step goes by descriptor and follows no link.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use crate::error::{Context, Failure};
use crate::path::Root;

const READ_FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Copies what is in the folder `from` to the folder `to`, both by descriptor; `at` is for messages.
pub(super) fn copy_up(from: &OwnedFd, to: OwnedFd, at: &Path) -> Result<(), Failure> {
    let object = |path: &Path| at.join(path).display().to_string();
    let from = Root::new(from.try_clone().at("copy up", at.display())?);
    let to = Root::new(to);
    // A list and no recursion: an image may nest folders deeper than a stack.
    let mut folders = vec![PathBuf::from(".")];
    while let Some(folder) = folders.pop() {
        let source = from.open_without_links(&folder, READ_FOLDER).at("copy up", object(&folder))?;
        let target = to.open_without_links(&folder, READ_FOLDER).at("copy up", object(&folder))?;
        let names = names(&source).at("copy up", object(&folder))?;
        for name in names {
            let path = folder.join(&name);
            if copy(&source, &target, &name).at("copy up", object(&path))? {
                folders.push(path);
            }
        }
    }
    Ok(())
}

fn names(folder: &OwnedFd) -> nix::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt;
    let mut folder =
        Dir::from_fd(folder.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?)?;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(PathBuf::from(name));
        }
    }
    Ok(names)
}

/// Copies one entry of a folder; says whether it is a folder itself, which is made but not filled.
fn copy(from: &OwnedFd, to: &OwnedFd, name: &Path) -> nix::Result<bool> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
            let made = openat(to, name, READ_FOLDER | OFlag::O_NOFOLLOW, Mode::empty())?;
            own(&made, &stat)?;
        }
        SFlag::S_IFREG => file(from, to, name)?,
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            give(to, name, &stat)?;
        }
        kind => {
            let umask = nix::sys::stat::umask(Mode::empty());
            let made = mknodat(to, name, kind, Mode::from_bits_truncate(stat.st_mode & 0o7777), stat.st_rdev);
            nix::sys::stat::umask(umask);
            made?;
            give(to, name, &stat)?;
        }
    }
    Ok(kind == SFlag::S_IFDIR)
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &Path) -> nix::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let source = openat(from, name, flags, Mode::empty())?;
    let stat = fstat(&source)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        // It was another file a moment ago, and reading what it is now may never end.
        return Err(Errno::ESTALE);
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let (mut source, mut target) = (File::from(source), File::from(openat(to, name, flags, Mode::S_IRUSR)?));
    std::io::copy(&mut source, &mut target)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let target = OwnedFd::from(target);
    own(&target, &stat)?;
    let times = (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec));
    futimens(&target, &times.0, &times.1)
}

/// Owner first: a change of it takes the set-user-ID bit.
fn own(file: &OwnedFd, stat: &FileStat) -> nix::Result<()> {
    fchown(file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(file, Mode::from_bits_truncate(stat.st_mode & 0o7777))
}

fn give(folder: &OwnedFd, name: &Path, stat: &FileStat) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}
