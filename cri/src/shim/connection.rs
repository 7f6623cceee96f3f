//! One connection to a shim: a packet there, a packet back.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use orlop_shim::packet::{self, Packet};
use tokio::io::unix::AsyncFd;

use super::Error;
use super::reactor::register;

/// Between attempts while the shim's backlog is full, which it drains within a request's time; twice as long each
/// time, up to the second.
const BACKLOG_PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(250)];

#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// A shim that does not accept is waited for, for as long as the caller wants.
    pub(super) async fn open(path: &Path) -> Result<Connection, Error> {
        let failed = |source| Error::Connect { socket: path.to_owned(), source };
        let [mut pause, longest] = BACKLOG_PAUSES;
        let socket = loop {
            match packet::connect_to(path) {
                Ok(socket) => break socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    return Err(Error::Gone { socket: path.to_owned() });
                }
                Err(error) => return Err(failed(error)),
            }
        };
        Connection::new(socket).map_err(failed)
    }

    pub(super) fn new(socket: OwnedFd) -> io::Result<Connection> {
        Ok(Connection { socket: register(socket)? })
    }

    /// Not closed by the shim, and nothing unasked lies in it.
    pub(super) fn is_open(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    pub(super) async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            if let Ok(sent) = ready.try_io(|socket| packet::send(socket.as_fd(), bytes, descriptors)) {
                return sent;
            }
        }
    }

    /// The next packet; an error of kind `UnexpectedEof` when the shim has closed.
    pub(super) async fn receive(&self) -> io::Result<Packet> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(received) = ready.try_io(|socket| packet::receive(socket.as_fd())) {
                return received?.ok_or_else(|| ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}
