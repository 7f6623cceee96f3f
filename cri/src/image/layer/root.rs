//! The folder a layer is unpacked into. Every path is resolved inside of it by the kernel (openat2 with
//! RESOLVE_IN_ROOT), so a symlink that a layer planted leads to a place in the layer, whatever it says.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, futimens, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use xattr::FileExt;

use super::entry::{join, parts, split};

/// overlayfs(5), "whiteouts and opaque directories".
const OPAQUE: &str = "trusted.overlay.opaque";
/// As many links as the kernel follows in one path: path_resolution(7).
const MAX_LINKS: u32 = 40;

/// Owner, mode, time and extended attributes of a file.
pub(super) struct Metadata {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, i64),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct Root {
    root: File,
    /// Where what an entry replaces is moved to, to be removed with the whole ingest folder.
    discard: File,
    discarded: Cell<u64>,
}

impl Root {
    pub(super) fn open(root: &Path, discard: &Path) -> io::Result<Root> {
        Ok(Root { root: File::open(root)?, discard: File::open(discard)?, discarded: Cell::new(0) })
    }

    /// Opens the folder at `path`, following symlinks inside the root.
    pub(super) fn dir(&self, path: &[u8]) -> Result<File, Errno> {
        open_in(&self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Opens the folder at `path`, making what is missing, also behind symlinks whose target is a layer below's.
    /// What was made is added to `made` by its true path.
    pub(super) fn ensure_dir(&self, path: &[u8], made: &mut BTreeSet<Vec<u8>>) -> Result<File, Errno> {
        match self.dir(path) {
            Err(Errno::ENOENT) => {}
            other => return other,
        }
        let mut links = 0;
        let mut folder = self.dir(b"")?;
        // A list and no recursion: links of a hostile layer make it as long as 40 times the longest path.
        let mut left = parts(path);
        while let Some(name) = left.pop() {
            if name == b".." {
                folder = self.dir(split(&self.true_path(&folder)?).0)?;
                continue;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            folder = match open_in(&folder, &name, flags) {
                Ok(child) => child,
                Err(Errno::ENOENT) => self.make(&folder, &name, made)?,
                Err(Errno::ELOOP | Errno::ENOTDIR) => {
                    let target = readlinkat(&folder, &name[..]).map_err(|_| Errno::ENOTDIR)?.into_vec();
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    left.extend(parts(&target));
                    if target.starts_with(b"/") { self.dir(b"")? } else { folder }
                }
                Err(errno) => return Err(errno),
            };
        }
        Ok(folder)
    }

    fn make(&self, parent: &File, name: &[u8], made: &mut BTreeSet<Vec<u8>>) -> Result<File, Errno> {
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
        let dir = open_in(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        set(&dir, &Metadata { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0), xattrs: Vec::new() }).map_err(errno)?;
        made.insert(self.true_path(&dir)?);
        Ok(dir)
    }

    /// The path of an open folder below the root, free of symlinks.
    pub(super) fn true_path(&self, dir: &File) -> Result<Vec<u8>, Errno> {
        let of = |file: &File| nix::fcntl::readlink(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str());
        let (root, path) = (of(&self.root)?.into_vec(), of(dir)?.into_vec());
        let rest = path.strip_prefix(&root[..]).ok_or(Errno::EXDEV)?;
        Ok(rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
    }

    /// Moves what has this name out of the way. True if it was a whiteout.
    pub(super) fn discard(&self, parent: &File, name: &[u8]) -> Result<bool, Errno> {
        let was = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let number = self.discarded.replace(self.discarded.get() + 1);
        renameat(parent, name, &self.discard, number.to_string().as_str())?;
        Ok(is_whiteout(&was))
    }

    /// Moves the tree `from` to be the tree `to`, joining folders that are in both; what is moved wins.
    pub(super) fn merge(&self, from: &[u8], to: &[u8], made: &mut BTreeSet<Vec<u8>>) -> io::Result<()> {
        let mut pending = vec![(from.to_vec(), to.to_vec())];
        while let Some((from, to)) = pending.pop() {
            let (source, target) = (self.dir(&from)?, self.ensure_dir(&to, made)?);
            for name in names(&source)? {
                if is_dir(&source, &name)? && is_dir(&target, &name).unwrap_or(false) {
                    pending.push((join(&from, &name), join(&to, &name)));
                    continue;
                }
                if fstatat(&target, &name[..], AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
                    self.discard(&target, &name)?;
                }
                renameat(&source, &name[..], &target, &name[..])?;
            }
        }
        let (folder, name) = split(from);
        self.discard(&self.dir(folder)?, name)?;
        Ok(())
    }
}

/// Opens `path` with every resolution kept below `root`.
pub(super) fn open_in(root: &File, path: &[u8], flags: OFlag) -> Result<File, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(root, path, how) {
            // A rename anywhere on the machine makes the kernel unsure of a ".." in a link: openat2(2).
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other.map(File::from),
        }
    }
}

/// Sets owner, mode, attributes and time, in the order that keeps setuid bits and file capabilities.
pub(super) fn set(file: &File, meta: &Metadata) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
    fchmod(file, Mode::from_bits_truncate(meta.mode))?;
    for (name, value) in meta.xattrs.iter().filter(|(name, _)| is_restored(name)) {
        match file.set_xattr(OsStr::from_bytes(name), value) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) && name.starts_with(b"user.") => {}
            result => result?,
        }
    }
    futimens(file, &TimeSpec::new(0, libc::UTIME_NOW), &TimeSpec::new(meta.mtime.0, meta.mtime.1))?;
    Ok(())
}

/// What of a file is told by its descriptor.
pub(super) fn metadata(file: &File) -> io::Result<Metadata> {
    let stat = nix::sys::stat::fstat(file)?;
    let mut xattrs = Vec::new();
    for name in file.list_xattr()? {
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.push((name.into_vec(), value));
        }
    }
    Ok(Metadata {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        xattrs,
    })
}

/// Attributes that a layer may set. Others are the host's own: `trusted.overlay.*` steers overlayfs itself.
fn is_restored(name: &[u8]) -> bool {
    let acl = [&b"system.posix_acl_access"[..], b"system.posix_acl_default"];
    name == b"security.capability"
        || acl.contains(&name)
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Makes a folder hide what the layers below have in it.
pub(super) fn make_opaque(dir: &File) -> io::Result<()> {
    dir.set_xattr(OPAQUE, b"y")
}

pub(super) fn is_opaque(dir: &File) -> io::Result<bool> {
    Ok(dir.get_xattr(OPAQUE)?.as_deref() == Some(b"y"))
}

/// Makes overlayfs's whiteout: a character device 0:0.
pub(super) fn make_whiteout(parent: &File, name: &[u8]) -> Result<(), Errno> {
    mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0)
}

pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

pub(super) fn is_dir(parent: &File, name: &[u8]) -> Result<bool, Errno> {
    Ok(fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// The names in an open folder, without `.` and `..`.
pub(super) fn names(dir: &File) -> io::Result<Vec<Vec<u8>>> {
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    entries.map(|entry| Ok(entry?.file_name().into_vec())).collect()
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
