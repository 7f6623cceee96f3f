//! Waiting for what happens to a container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Runtime;
use crate::cgroups::OomWatch;
use crate::error::{Context, Error};
use crate::identity::open_process;

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The kernel killed a process of it for memory.
    OutOfMemory,
    /// Its process has ended.
    Ended,
    /// Nothing, within the time that was given.
    Nothing,
}

/// Hears what happens to a container that has a process, from [`Runtime::watch`] on.
#[derive(Debug)]
pub struct Watch {
    process: OwnedFd,
    /// `None` where the kernel does not account for the container's memory.
    memory: Option<OomWatch>,
}

impl Runtime {
    /// Begins to watch a container. That it has no process is an error.
    pub fn watch(&self, id: &str) -> Result<Watch, Error> {
        let record = self.alive(id, "watch")?;
        let process = open_process(record.pid, record.start_time).ok_or_else(|| Error::NotRunning(id.to_owned()))?;
        Ok(Watch { process, memory: record.cgroups.watch_oom()? })
    }
}

impl Watch {
    /// Waits for the next event, at most so long. Out of memory is told before the end that it may bring.
    pub fn next(&mut self, within: Duration) -> Result<Happening, Error> {
        let until = Instant::now().checked_add(within);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let (ended, memory) = self.wait(left)?;
            if (ended || memory)
                && let Some(watch) = &mut self.memory
                && watch.happened()?
            {
                return Ok(Happening::OutOfMemory);
            }
            if ended {
                return Ok(Happening::Ended);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Happening::Nothing);
            }
        }
    }

    /// Whether the process has ended, and whether there is something to read about its memory.
    fn wait(&self, left: Option<Duration>) -> Result<(bool, bool), Error> {
        // Rounded up: a wait that is too short would be one of many.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            let milliseconds = left.as_micros().div_ceil(1000);
            PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
        });
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(self.process.as_fd())];
        fds.extend(self.memory.iter().map(|memory| watch(memory.as_fd())));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => return Ok((false, false)),
            result => result.at("wait for", "events of the container")?,
        };
        let ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        Ok((ready(0), ready(1)))
    }
}
