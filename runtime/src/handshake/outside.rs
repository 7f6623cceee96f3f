//! Descriptors for who listens outside: on console sockets and pidfd sockets.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

use crate::error::{Context, Failure};

/// Sends a terminal's master to the listener of a console socket, with the terminal's name, as runc does.
pub(crate) fn send_console(path: &Path, master: BorrowedFd<'_>) -> Result<(), Failure> {
    send_to("console socket", path, "/dev/ptmx", master)
}

/// Sends a pidfd to the listener of a pidfd socket, with what kind of process it is of, as runc does.
pub(crate) fn send_pidfd(path: &Path, kind: &str, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
    send_to("pidfd socket", path, kind, pidfd)
}

fn send_to(what: &str, path: &Path, text: &str, fd: BorrowedFd<'_>) -> Result<(), Failure> {
    let object = || path.display().to_string();
    let step = format!("connect to {what}");
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).at("make", what)?;
    let address = UnixAddr::new(path).at(&step, object())?;
    connect(socket.as_raw_fd(), &address).at(&step, object())?;
    let fds = [fd.as_raw_fd()];
    let parts = [IoSlice::new(text.as_bytes())];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .at(&format!("send to {what}"), object())
        .map(drop)
}
