//! The end of the pod.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use orlop_shim::protocol::{Answer, Failure, FailureKind};

use crate::container::{Container, Phase};
use crate::failure::{Step, failure, runtime_failure};
use crate::jobs::Work;
use crate::journal::note;
use crate::requests::{Handled, Outcome};
use crate::shim::Shim;
use crate::sys;

/// For every process to be gone after SIGKILL; one that hangs in the kernel may take longer.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Shutdown {
    asker: u32,
    pub(crate) until: Instant,
    done: bool,
}

impl Shutdown {
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

impl Shim {
    pub(crate) fn begin_shutdown(&mut self, asker: u32) -> Handled {
        if self.shutdown.is_some() {
            return Err(failure(FailureKind::WrongState, "the pod is being shut down"));
        }
        for container in &self.containers {
            if let Err(error) = self.kill_for_good(container) {
                note!("shut down, kill container {}: {error}", container.id);
            }
        }
        self.shutdown = Some(Shutdown { asker, until: Instant::now() + BOUND, done: false });
        Ok(Outcome::Later)
    }

    fn kill_for_good(&self, container: &Container) -> Result<(), Failure> {
        let Container { id, pid, phase, .. } = container;
        if container.is_over() || *pid == 0 {
            return Ok(());
        }
        if container.external.is_none() {
            let killed = self.runtime.kill(id, orlop_runtime::Signal::KILL, true);
            // What is frozen dies when it thaws.
            let thawed = if matches!(phase, Phase::Paused) { self.runtime.resume(id) } else { Ok(()) };
            return match killed.and(thawed) {
                Err(orlop_runtime::Error::NotRunning(_)) | Ok(()) => Ok(()),
                Err(error) => Err(runtime_failure(&error)),
            };
        }
        // Not reaped yet, so the number is its own. Its runtime's `delete --force` follows.
        match sys::open_pidfd(*pid).and_then(|pidfd| sys::signal_by_pidfd(pidfd.as_fd(), libc::SIGKILL)) {
            Err(Errno::ESRCH) | Ok(()) => Ok(()),
            other => other.step(format_args!("kill process {pid}")),
        }
    }

    /// Deletes what has ended; when nothing is left, clears the folder and answers.
    pub(crate) fn go_on_shutting_down(&mut self, now: Instant) {
        let Some(Shutdown { asker, until, done: false }) = self.shutdown else { return };
        if let Err(failure) = self.delete_ended(asker) {
            return self.give_up(asker, failure);
        }
        if self.containers.is_empty() && self.jobs.is_empty() {
            self.finish(asker);
        } else if now >= until {
            let left: Vec<&str> = self.containers.iter().map(|container| container.id.as_str()).collect();
            let message = format!("after SIGKILL and {BOUND:?} these are not gone: {}", left.join(", "));
            self.give_up(asker, failure(FailureKind::Timeout, message));
        }
    }

    fn delete_ended(&mut self, asker: u32) -> Result<(), Failure> {
        for index in (0..self.containers.len()).rev() {
            let container = &self.containers[index];
            let id = container.id.clone();
            match (&container.phase, container.external.clone()) {
                (Phase::Ended(_) | Phase::Broken, None) => {
                    self.runtime.delete(&id, true).map_err(|error| runtime_failure(&error))?;
                    self.containers.remove(index);
                }
                (Phase::Ended(_) | Phase::Broken, Some(external)) if !self.jobs.concern(container.serial) => {
                    self.begin_job(asker, &id, external.command(&["delete", "--force"], &id), Work::LastDelete)?;
                }
                // It was being created when the shutdown began.
                (Phase::Created, Some(_)) => self.kill_for_good(container)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The pod stays, and may be shut down again.
    fn give_up(&mut self, asker: u32, failure: Failure) {
        self.shutdown = None;
        self.connections.answer(asker, Err(failure));
    }

    fn finish(&mut self, asker: u32) {
        self.reaper = None;
        let cleared = self.folder.clear().step("unpin the pod's namespaces");
        if let Err(error) = &cleared {
            note!("shut down: {error}");
        }
        self.connections.answer(asker, cleared.map(|()| Answer::Done.into()));
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.done = true;
        }
    }
}
