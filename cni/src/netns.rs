//! Work inside another network namespace.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::{io, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::plugin::Error;

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace that is bound to `path`, or that a `/proc/<pid>/ns/net` names.
    ///
    /// # Errors
    /// [`Error::Netns`]; with `ENOENT`, or with `EINVAL` if the file is there but nothing is bound to it any
    /// more, the namespace is gone ([`Netns::is_gone`]).
    pub fn open(path: &Path) -> Result<Netns, Error> {
        let error = |step| move |source: io::Error| Error::Netns { step, path: path.to_owned(), source };
        let file = File::open(path).map_err(error("open it"))?;
        let filesystem = fstatfs(&file).map_err(|e| error("look at it")(e.into()))?;
        if filesystem.filesystem_type() != NSFS_MAGIC {
            return Err(error("it is no namespace")(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        Ok(Netns { file, path: path.to_owned() })
    }

    /// Whether the error says that there is no such namespace.
    pub fn is_gone(error: &Error) -> bool {
        matches!(error, Error::Netns { source, .. }
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENOTDIR)))
    }

    /// Refuses the namespace that the calling thread is in: a plugin that worked there would change the
    /// host's own interfaces.
    pub fn refuse_own(&self) -> Result<(), Error> {
        let error = |e: nix::Error| Error::Netns {
            step: "compare it with the host's",
            path: self.path.clone(),
            source: e.into(),
        };
        let own = Netns::open(Path::new("/proc/thread-self/ns/net"))?;
        let (a, b) = (fstat(&own.file).map_err(error)?, fstat(&self.file).map_err(error)?);
        if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
            return Err(Error::Environment {
                variable: "CNI_NETNS",
                reason: format!("{} is the host's own namespace", self.path.display()),
            });
        }
        Ok(())
    }

    /// Runs `work` inside the namespace, on a thread of its own: the caller's thread never changes its
    /// namespace, so no error and no panic can leave it in the wrong one.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let enter = |e: nix::Error| Error::Netns { step: "enter it", path: self.path.clone(), source: e.into() };
        let panicked = |_| Error::Netns {
            step: "the work in it panicked",
            path: self.path.clone(),
            source: io::Error::from_raw_os_error(libc::EIO),
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("cni-netns".to_owned());
            let handle = thread
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(enter)?;
                    work()
                })
                .map_err(|source| Error::Netns { step: "start a thread for it", path: self.path.clone(), source })?;
            handle.join().map_err(panicked)?
        })
    }

    /// The file that names it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
