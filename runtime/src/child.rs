//! A process that was cloned and is not yet what its caller asked for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::Error;
use crate::handshake::wait_readable;
use crate::sys;

/// How long a child may take to end, in milliseconds. SIGKILL does not reach one that waits for a filesystem
/// that hangs; it is left to whoever reaps strays then.
const DEATH_WITHIN: u32 = 10_000;

/// A child that dies with this value, unless it is kept.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl Child {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd) -> Child {
        Child { pid, pidfd: Some(pidfd) }
    }

    /// Stays this process whatever becomes of the number.
    pub(crate) fn pidfd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.pidfd.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::InitDied("went away".to_owned()))
    }

    pub(crate) fn keep(mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }

    /// How it ended, for a message. Its end of the handshake is closed, so it has ended or is about to.
    pub(crate) fn fate(&mut self) -> String {
        match self.pidfd.take().and_then(|pidfd| self.reap(&pidfd)) {
            Some(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
            Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => "was killed (out of memory?)".to_owned(),
            Some(WaitStatus::Signaled(_, signal, _)) => format!("was ended by {signal}"),
            _ => "went away".to_owned(),
        }
    }

    fn reap(&self, pidfd: &OwnedFd) -> Option<WaitStatus> {
        match wait_readable(pidfd, DEATH_WITHIN) {
            Ok(true) => waitpid(self.pid, Some(WaitPidFlag::__WALL)).ok(),
            _ => None,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
            self.reap(&pidfd);
        }
    }
}
