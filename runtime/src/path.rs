//! Paths inside a container's root, which the container's image controls: every step is resolved by the
//! kernel inside that root (openat2(2), `RESOLVE_IN_ROOT`), and what is found is used by descriptor.
//! The class of CVE-2021-30465, CVE-2024-45310, CVE-2023-27561 and CVE-2026-41579.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

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
            Err(Errno::ENOENT) => self.make_dir_all(path).and_then(|_| self.open_without_links(path, flags)),
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
        let target = self.open(path, flags)?;
        match fstatfs(&target)?.filesystem_type() {
            PROC_SUPER_MAGIC => Err(Errno::EXDEV),
            _ => Ok(target),
        }
    }

    /// Opens the folder `path`, making what is missing with mode 0755.
    pub(crate) fn make_dir_all(&self, path: &Path) -> nix::Result<OwnedFd> {
        match self.open_target(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => (),
            result => return result,
        }
        let mut walked = PathBuf::from("/");
        let mut at = self.open(&walked, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        for component in normal_components(path)? {
            walked.push(component);
            at = match self.open(&walked, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Err(Errno::ENOENT) => {
                    match nix::sys::stat::mkdirat(&at, component, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => (),
                        Err(errno) => return Err(errno),
                    }
                    self.open(&walked, OFlag::O_PATH | OFlag::O_DIRECTORY)?
                }
                result => result?,
            };
        }
        Ok(at)
    }

    /// Opens the file `path`, making an empty one with its folders when it is missing.
    pub(crate) fn make_file(&self, path: &Path) -> nix::Result<OwnedFd> {
        match self.open_target(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => (),
            result => return result,
        }
        let (folder, name) = self.make_parent(path)?;
        // Only made, never opened: what came there meanwhile may be a device that acts when it is opened.
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&folder, name, flags, Mode::from_bits_truncate(0o644)) {
            Ok(_) | Err(Errno::EEXIST) => (),
            Err(errno) => return Err(errno),
        }
        self.open_target(path, OFlag::O_PATH)
    }

    /// The folder that `path` is in, made when missing, and its last component.
    pub(crate) fn make_parent<'a>(&self, path: &'a Path) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let folder = self.make_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        Ok((folder, name))
    }
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
