//! How long a process is waited for.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use super::INIT;
use crate::error::{Context, Failure};
use crate::identity::ProcessStat;
use crate::sys;

/// How long a process may work on what it was last told, beside its hooks.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a silent process is waited for before a look at what it does, in milliseconds.
const LOOK_AFTER: i64 = 500;

/// For how long a process is waited for. It is in the container's process namespace, where a program can stop
/// it, over and over (nothing withstands SIGSTOP), and it opens files that may be on a filesystem that hangs.
/// Its caller, which may look after other containers too, must not hang with it.
#[derive(Debug)]
pub(crate) struct Patience {
    pid: i32,
    /// `None` when it runs a hook that may take as long as it likes.
    until: Option<Instant>,
    was_stopped: bool,
    is_over: bool,
}

impl Patience {
    /// For the process `pid` and the time that its hooks may take.
    pub(crate) fn new(pid: i32, hooks: Option<Duration>) -> Patience {
        let until = hooks.and_then(|time| Instant::now().checked_add(READY_WITHIN.saturating_add(time)));
        Patience { pid, until, was_stopped: false, is_over: false }
    }

    /// Whether the process was given up: it still has to be killed.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Looks at a process that is silent. One that is stopped is continued once: a stop may have been meant for
    /// its neighbours.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let stopped = ProcessStat::read(self.pid).is_some_and(|stat| stat.is_stopped());
        let why = if self.until.is_some_and(|until| Instant::now() >= until) {
            format!("it is not ready after {} s", READY_WITHIN.as_secs())
        } else if stopped && self.was_stopped {
            "it is stopped again and again (SIGSTOP): a program of the container does not let it run".to_owned()
        } else {
            if stopped {
                self.was_stopped = true;
                let _ = sys::pidfd_open(Pid::from_raw(self.pid))
                    .and_then(|pidfd| sys::pidfd_send_signal(pidfd, libc::SIGCONT));
            }
            return Ok(());
        };
        self.is_over = true;
        Err(Failure::refused("wait for", format!("{INIT} ({})", self.pid), why))
    }
}

/// Lets who receives wake up to look at who is silent.
pub(super) fn be_patient(socket: &OwnedFd) -> Result<(), Failure> {
    setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_AFTER)).at("set timeout of", "socket")
}

/// Waits until a descriptor is readable; `false` when the time is over.
pub(crate) fn wait_readable(fd: impl AsFd, milliseconds: u32) -> nix::Result<bool> {
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => (),
            result => return result.map(|ready| ready > 0),
        }
    }
}
