//! A pod's pinned namespaces, and which process may touch them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::protocol::{NAMESPACES, SOCKET};

/// All that may be pinned below `ns/`.
const NAMES: [&str; 4] = ["net", "ipc", "uts", "pid"];

/// A pod's folder, locked (flock(2)) for as long as this lives: by its shim, or by who cleans up after one
/// that was killed. There are never two shims of one pod.
#[derive(Debug)]
pub struct PodFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PodFolder {
    /// Locks the folder.
    ///
    /// # Errors
    /// `WouldBlock` when the pod's shim lives; `PermissionDenied` when others than its owner, the caller,
    /// may enter the folder.
    pub fn lock(path: &Path) -> io::Result<PodFolder> {
        let folder = File::open(path)?;
        let metadata = folder.metadata()?;
        if !metadata.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        if metadata.mode() & 0o077 != 0 || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("{} must belong to this user with mode 0700", path.display()),
            ));
        }
        let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
        Ok(PodFolder { path: path.to_owned(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pins a namespace: mounts the namespace file `source` at `ns/<name>`.
    ///
    /// # Errors
    /// As mount(2).
    pub fn pin(&self, name: &str, source: &Path) -> io::Result<()> {
        let folder = self.path.join(NAMESPACES);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let target = folder.join(name);
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&target)?;
        Ok(mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    }

    /// Removes every pin and the socket, and goes on after an error; what is not there is fine.
    ///
    /// # Errors
    /// The first one.
    pub fn clear(&self) -> io::Result<()> {
        let folder = self.path.join(NAMESPACES);
        let unpinned = NAMES.map(|name| unpin(&folder.join(name)));
        let removed = [gone(fs::remove_dir(folder)), gone(fs::remove_file(self.path.join(SOCKET)))];
        unpinned.into_iter().chain(removed).collect()
    }
}

/// Whatever was mounted there, however often: a shim that was killed may have been begun again.
fn unpin(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            // Nothing is mounted there any more.
            Err(Errno::EINVAL) => return gone(fs::remove_file(path)),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
