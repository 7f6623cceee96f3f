//! PID 1 of a PID namespace that the containers of a pod share.
//!
//! A child of the shim that does nothing: orphans become its children, and as it ignores SIGCHLD the kernel
//! reaps them. It ends with the shim (PR_SET_PDEATHSIG), and with it, by the kernel, every process of the
//! namespace: a pod without a shim cannot be managed, and so that much of it is cleaned up already.

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stdin, pause, pipe2, read, write};
use orlop_shim::protocol::{Failure, FailureKind};

use crate::failure::{Step, failure};
use crate::sys;

#[derive(Debug)]
pub(crate) struct Reaper {
    pid: Pid,
}

impl Reaper {
    pub(crate) fn start() -> Result<Reaper, Failure> {
        let (ready, child_end) = pipe2(OFlag::O_CLOEXEC).step("make a pipe for the pod's PID 1")?;
        let pid = sys::clone_into_pid_namespace(|| wait_forever(&child_end)).step("make the pod's PID namespace")?;
        let reaper = Reaper { pid };
        drop(child_end);
        match read(&ready, &mut [0]) {
            Ok(1) => Ok(reaper),
            _ => Err(failure(FailureKind::System, "the pod's PID 1 ended while it started")),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Already gone is fine. The kernel kills the whole namespace before the wait is over.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The child's whole life.
fn wait_forever(ready: &OwnedFd) {
    if settle(ready).is_err() {
        sys::exit_now(1);
    }
    loop {
        pause();
    }
}

/// It keeps no descriptor, so that none of the shim's outlives the shim here.
fn settle(ready: &OwnedFd) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_name(c"orlop-reaper")?;
    sys::ignore_children()?;
    dup2_stdin(ready)?;
    sys::close_from(1)?;
    // Fails when the shim died before the death signal was asked for: nobody has the other end any more.
    write(std::io::stdin(), &[1])?;
    sys::close_from(0)
}
