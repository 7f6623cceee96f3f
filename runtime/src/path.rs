//! Paths inside a container's root, which the container's image controls: they are resolved by the kernel inside that
//! root (openat2(2), `RESOLVE_IN_ROOT`), or where something has to be made by single names from folder to folder, and
//! what is found is used by descriptor.
//! The class of CVE-2021-30465, CVE-2024-45310, CVE-2023-27561 and CVE-2026-41579.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

/// The most links on the way of a path, as in the kernel (path_resolution(7)).
const MOST_LINKS: u32 = 40;
/// So many times something may be missing: whoever removes what is made must not hold us for ever.
const MOST_MADE: u32 = 1024;

/// A path as the kernel wants it.
pub(crate) fn c_string(path: impl AsRef<OsStr>) -> nix::Result<CString> {
    CString::new(path.as_ref().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// The path by which a descriptor of this process can be given to what takes only paths.
pub(crate) fn fd_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A folder that paths are resolved inside of.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    pub(crate) fn new(folder: OwnedFd) -> Root {
        Root(folder)
    }

    /// Opens what `path` is; symbolic links lead to places inside the root.
    pub(crate) fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlag::empty())
    }

    /// Opens what `path` is, and refuses any symbolic link on the way with `ELOOP`.
    pub(crate) fn open_without_links(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    /// Opens the folder `path`, making it when it is missing, and refuses any symbolic link on the way with `ELOOP`.
    pub(crate) fn make_dir_without_links(&self, path: &Path) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open_without_links(path, flags) {
            Err(Errno::ENOENT) => self.make_missing_dir(path).and_then(|_| self.open_without_links(path, flags)),
            result => result,
        }
    }

    fn resolve(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | resolve);
        // The kernel gives up with EAGAIN when something was renamed meanwhile and it cannot be sure that
        // the walk stayed inside; an attacker who goes on renaming must not hold us for ever.
        for _ in 0..128 {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => (),
                result => return result,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Opens what something is to be mounted on or made in. A link of the image that leads into /proc is refused
    /// with `EXDEV`: what is mounted there can be said only openly (CVE-2019-19921, CVE-2025-52881).
    pub(crate) fn open_target(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        match self.open_without_links(path, flags) {
            Err(Errno::ELOOP) => (),
            result => return result,
        }
        outside_proc(self.open(path, flags)?, 1)
    }

    /// Opens the folder `path`, making what is missing with mode 0755.
    pub(crate) fn make_dir_all(&self, path: &Path) -> nix::Result<OwnedFd> {
        match self.open_target(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => self.make_missing_dir(path),
            result => result,
        }
    }

    /// Likewise, for a folder that was not found. Most often its last name alone is missing, and nothing on the way is
    /// a link: then there is no walk.
    pub(crate) fn make_missing_dir(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.make_last(path).or_else(|_| self.make(path, true))
    }

    fn make_last(&self, path: &Path) -> nix::Result<OwnedFd> {
        let names = normal_components(path)?;
        let (name, above) = names.split_last().ok_or(Errno::EEXIST)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let above: Option<PathBuf> = (!above.is_empty()).then(|| above.iter().collect());
        let opened = above.map(|above| self.open_without_links(&above, flags)).transpose()?;
        let parent = opened.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
        mkdirat(parent, *name, Mode::from_bits_truncate(0o755))?;
        openat(parent, *name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Opens the file `path`, making an empty one with its folders when it is missing.
    pub(crate) fn make_file(&self, path: &Path) -> nix::Result<OwnedFd> {
        match self.open_target(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => self.make(path, false),
            result => result,
        }
    }

    /// Walks `path` by one component after the other, making what is missing, also where a link of the image leads to
    /// what is not there: many an image has such a link for /etc/resolv.conf.
    ///
    /// The kernel cannot make on its way, so links are followed here: each folder is held, `..` in a link is the folder
    /// held before, and nothing but single names is looked up, of which none is followed. Whoever moves a folder away
    /// meanwhile gets what is made into it, where he could have made it himself.
    fn make(&self, path: &Path, is_folder: bool) -> nix::Result<OwnedFd> {
        let mut rest: Vec<OsString> = normal_components(path)?.into_iter().rev().map(OsStr::to_owned).collect();
        let mut folders = vec![self.open(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY)?];
        let (mut links, mut made) = (0, 0);
        while let (Some(name), Some(folder)) = (rest.pop(), folders.last()) {
            if name == ".." {
                folders.truncate((folders.len() - 1).max(1));
                continue;
            }
            let is_file = !is_folder && rest.is_empty();
            let found = match openat(
                folder,
                name.as_os_str(),
                OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            ) {
                Err(Errno::ENOENT) if made < MOST_MADE => {
                    make_one(folder, &name, is_file)?;
                    made += 1;
                    rest.push(name);
                    continue;
                }
                result => result?,
            };
            match SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFDIR => folders.push(found),
                SFlag::S_IFLNK if links < MOST_LINKS => {
                    links += 1;
                    let target = PathBuf::from(readlinkat(&found, "")?);
                    if target.is_absolute() {
                        folders.truncate(1);
                    }
                    rest.extend(steps(&target).rev());
                }
                SFlag::S_IFLNK => return Err(Errno::ELOOP),
                _ if is_file => return outside_proc(found, links),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        outside_proc(folders.pop().ok_or(Errno::ENOENT)?, links)
    }

    /// The folder that `path` is in, made when missing, and its last component.
    pub(crate) fn make_parent<'a>(&self, path: &'a Path) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let folder = self.make_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        Ok((folder, name))
    }
}

/// Refuses what is in a procfs, if links led to it.
fn outside_proc(target: OwnedFd, links: u32) -> nix::Result<OwnedFd> {
    match links {
        0 => Ok(target),
        _ if fstatfs(&target)?.filesystem_type() == PROC_SUPER_MAGIC => Err(Errno::EXDEV),
        _ => Ok(target),
    }
}

/// Makes a folder or an empty file. What came there meanwhile is as good, and is not opened: it may be a device that
/// acts when it is.
fn make_one(folder: &OwnedFd, name: &OsStr, is_file: bool) -> nix::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = if is_file {
        openat(folder, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
    } else {
        mkdirat(folder, name, Mode::from_bits_truncate(0o755))
    };
    match made {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

/// The steps of a link's target.
fn steps(target: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    target.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// The components of a path that is to be made; `..` is refused since what it means depends on links.
fn normal_components(path: &Path) -> nix::Result<Vec<&OsStr>> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Ok(name)),
            Component::RootDir | Component::CurDir => None,
            Component::ParentDir | Component::Prefix(_) => Some(Err(Errno::EINVAL)),
        })
        .collect()
}
