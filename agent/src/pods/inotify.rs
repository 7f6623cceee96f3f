//! A watch on a folder, for tokio.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// An inotify instance that gives tokio its descriptor.
#[derive(Debug)]
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Tells when the files of a folder change.
#[derive(Debug)]
pub(super) struct FolderWatch(AsyncFd<Instance>);

impl FolderWatch {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(folder, flags)?;
        // SAFETY: `Instance` owns its descriptor, never replaces it, and is owned by the AsyncFd from here on.
        let registered = unsafe { AsyncFd::register(Instance(inotify)) };
        Ok(Self(registered?))
    }

    /// Waits for a change; the events themselves only say that there was one.
    pub(super) async fn changed(&self) {
        let Ok(mut ready) = self.0.readable().await else {
            return;
        };
        while self.0.get_ref().0.read_events().is_ok_and(|events| !events.is_empty()) {}
        ready.clear_ready();
    }
}
