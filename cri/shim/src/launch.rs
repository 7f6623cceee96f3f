//! From a program that was just started to a process of its own that answers to nobody's signals.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use orlop_shim::packet;
use orlop_shim::protocol::{Failure, FailureKind, Init, Request};

use crate::failure::{Step, failure};
use crate::stdio::dev_null;
use crate::sys;

/// For the first request, in milliseconds.
const FIRST_REQUEST: u16 = 30_000;

/// The socket that the daemon has given as stdin; none if it gave something else, such as a person's terminal.
pub(crate) fn first_connection() -> Option<OwnedFd> {
    let is_packets = |kind| kind == SockType::SeqPacket;
    getsockopt(&std::io::stdin(), sockopt::SockType).ok().filter(|kind| is_packets(*kind))?;
    sys::take_stdin().ok()
}

/// Leaves the daemon: a child that init adopts, a session of its own, nothing inherited but the connection.
pub(crate) fn daemonize(connection: &OwnedFd) -> nix::Result<()> {
    sys::go_on_in_child()?;
    setsid()?;
    chdir("/")?;
    // The runtime makes what containers see; the shim's own files are closed to others one by one.
    umask(Mode::from_bits_truncate(0o022));
    let null = dev_null().map_err(|failure| failure.errno.map_or(Errno::EIO, Errno::from_raw))?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    sys::close_all_but(connection.as_fd())?;
    prctl::set_child_subreaper(true)
}

/// Blocks every signal, for good: none but SIGKILL and SIGSTOP reaches the shim, from whomever. Blocked and
/// not ignored: the OCI runtime unblocks, but what is ignored would be so in every container.
pub(crate) fn signals() -> nix::Result<SignalFd> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    sys::default_dispositions();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The pod's description, which the daemon sends at once.
pub(crate) fn first_request(connection: &OwnedFd) -> Result<Init, Failure> {
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(FIRST_REQUEST)).step("wait for the first request")? == 0 {
        return Err(failure(FailureKind::Timeout, "no request came"));
    }
    let packet = packet::receive(connection.as_fd()).step("receive the first request")?;
    let packet = packet.ok_or_else(|| failure(FailureKind::Invalid, "the daemon closed before its first request"))?;
    match serde_json::from_slice(&packet.bytes) {
        Ok(Request::Init(init)) => Ok(init),
        Ok(_) => Err(failure(FailureKind::Invalid, "the first request must be Init")),
        Err(error) => Err(failure(FailureKind::Invalid, format!("malformed Init: {error}"))),
    }
}
