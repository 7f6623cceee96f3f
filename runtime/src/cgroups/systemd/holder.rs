//! The first process of a new scope: systemd makes none without one, and drops it when the last has ended. It holds the
//! scope until the container's process has been cloned into it, and does nothing.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::child::Child;
use crate::error::{Context, Failure};
use crate::sys;

/// Ends with this value, and with the process that made it however that ends: their pipe is closed then.
pub(crate) struct Holder {
    child: Child,
    _alive: OwnedFd,
}

impl Holder {
    pub(super) fn start() -> Result<Holder, Failure> {
        let what = "the process that holds the unit";
        let (end, alive) = nix::unistd::pipe2(OFlag::O_CLOEXEC).at("make a pipe for", what)?;
        let Some((pid, pidfd)) = sys::clone_process(0, None).at("clone", what)? else {
            // What the caller has locked and opened is not to outlive it here.
            let _ = sys::close_all_but(0, vec![end.as_raw_fd()]);
            let _ = nix::unistd::read(&end, &mut [0]);
            sys::exit_now(0)
        };
        Ok(Holder { child: Child::new(pid, pidfd), _alive: alive })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.pid.as_raw().unsigned_abs()
    }
}
