//! Pipes and terminals for tokio, and a buffer that stops growing.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a pipe, or the master of a pty. Clones read and write the same.
#[derive(Debug, Clone)]
pub(crate) struct AsyncFile {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl AsyncFile {
    /// Switches the descriptor to non-blocking mode.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<AsyncFile> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and is neither closed nor replaced before it is dropped.
        let registered = unsafe { AsyncFd::register(fd) }?;
        Ok(AsyncFile { fd: Arc::new(registered) })
    }
}

/// A pipe whose read end is ours: that end, and the one to give away.
pub(crate) fn output_pipe() -> io::Result<(AsyncFile, OwnedFd)> {
    let (read, write) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((AsyncFile::new(read)?, write))
}

/// A pipe whose write end is ours: the one to give away, and that end.
pub(crate) fn input_pipe() -> io::Result<(OwnedFd, AsyncFile)> {
    let (read, write) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((read, AsyncFile::new(write)?))
}

impl AsyncRead for AsyncFile {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            let read = guard.try_io(|fd| Ok(unistd::read(fd.as_fd(), buffer.initialize_unfilled())?));
            return Poll::Ready(match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    Ok(())
                }
                // A pty whose last user is gone says so with EIO.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(()),
                Ok(Err(error)) => Err(error),
                Err(_would_block) => continue,
            });
        }
    }
}

impl AsyncWrite for AsyncFile {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|fd| Ok(unistd::write(fd.as_fd(), bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The other side sees the end when the last clone is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsRawFd for AsyncFile {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// Keeps the first `limit` bytes that are written to it; takes and forgets the rest, so that a writer that never
/// ends (CVE-2022-31030) costs no memory and is not held up.
#[derive(Debug)]
pub(crate) struct Capped {
    bytes: Vec<u8>,
    limit: usize,
}

impl Capped {
    pub(crate) fn new(limit: usize) -> Capped {
        Capped { bytes: Vec::new(), limit }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl AsyncWrite for Capped {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Capped, input_pipe, output_pipe};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn pipes_carry_bytes_and_end() {
        let (mut ours, theirs) = output_pipe().unwrap();
        std::io::Write::write_all(&mut std::fs::File::from(theirs), b"out").unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "out");
        let (theirs, mut ours) = input_pipe().unwrap();
        ours.write_all(b"in").await.unwrap();
        drop(ours);
        text.clear();
        std::io::Read::read_to_string(&mut std::fs::File::from(theirs), &mut text).unwrap();
        assert_eq!(text, "in");
    }

    #[tokio::test]
    async fn a_capped_buffer_takes_everything_and_keeps_the_first() {
        let mut capped = Capped::new(4);
        capped.write_all(b"abc").await.unwrap();
        capped.write_all(b"def").await.unwrap();
        assert_eq!(capped.into_bytes(), b"abcd");
    }
}
