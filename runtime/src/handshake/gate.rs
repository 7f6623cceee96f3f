//! Where a created container waits for `start`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, recv, send, socket,
};

use super::patience::{Patience, be_patient};
use super::{Go, INIT, ProcessEnd, STEP, owned, runs};
use crate::error::{Context, Failure};
use crate::path::fd_path;

/// Where a created container waits for `start`.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The gate's file in the container's folder.
pub(crate) const GATE: &str = "start.sock";

/// The gate's address below the container's folder, by descriptor: socket addresses have 107 bytes only.
fn gate_address(folder: BorrowedFd<'_>) -> Result<UnixAddr, Failure> {
    UnixAddr::new(format!("{}/{GATE}", fd_path(folder)).as_str()).at("address", GATE)
}

fn gate_socket() -> Result<OwnedFd, Failure> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at("make", GATE)
}

impl Gate {
    /// Sets the gate up in the container's folder.
    pub(crate) fn new(folder: BorrowedFd<'_>) -> Result<Gate, Failure> {
        let gate = gate_socket()?;
        bind(gate.as_raw_fd(), &gate_address(folder)?).at("bind", GATE)?;
        listen(&gate, Backlog::new(8).at("listen on", GATE)?).at("listen on", GATE)?;
        Ok(Gate(gate))
    }

    /// Waits until `create` has recorded the container and `start` knocks. Until the former, the end of the
    /// caller is the end of this container: nobody knows of it.
    pub(crate) fn wait(&self, caller: &ProcessEnd) -> Result<ProcessEnd, Failure> {
        caller.wait_for(Go::Recorded)?;
        loop {
            let connection = match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                result => owned(result.at("wait on", GATE)?),
            };
            let mut word = [0];
            // Somebody who connects and goes away without a word changes nothing.
            if recv(connection.as_raw_fd(), &mut word, MsgFlags::empty()) == Ok(1) {
                return Ok(ProcessEnd(connection));
            }
        }
    }

    /// Knocks at a gate from outside and waits until the program runs.
    pub(crate) fn open(folder: BorrowedFd<'_>, patience: &mut Patience) -> Result<(), Failure> {
        let gate = gate_socket()?;
        be_patient(&gate)?;
        connect(gate.as_raw_fd(), &gate_address(folder)?).at("connect to", GATE).map_err(|failure| {
            match failure.errno {
                errno if errno == Errno::ENOENT as i32 => failure.note(
                    "who made this container, as `run` does, starts it itself; if it has gone, delete the container",
                ),
                _ => failure,
            }
        })?;
        send(gate.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL).at(STEP, INIT)?;
        runs(&gate, patience)
    }
}
