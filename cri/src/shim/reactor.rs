//! Descriptors in tokio's reactor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

pub(super) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same descriptor, for as long as it lives; the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
