//! The end of processes: reaped, recorded, told.

use std::time::{Duration, Instant};

use orlop_runtime::Signal;
use orlop_shim::protocol::{Event, ExitStatus};

use crate::clock;
use crate::container::{Phase, record_exit};
use crate::journal::note;
use crate::shim::Shim;
use crate::sys::{self, Ended};

/// How long the end of a container may wait for output that somebody still holds open. Kubernetes issue
/// 92057 is what happens without a bound.
const DRAIN: Duration = Duration::from_secs(1);
/// Reads from each output when a container has ended; as much as its pipe holds.
const DRAIN_READS: usize = 8;

impl Shim {
    /// Reaps all that has ended. Nothing else waits for children meanwhile: the runtime's own are gone when
    /// its calls return, as everything here is one thread.
    pub(crate) fn reap_children(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Some((pid, ended)) = sys::reap() {
            self.process_ended(pid, ended);
        }
    }

    fn process_ended(&mut self, pid: i32, ended: Ended) {
        let first = |container: &crate::container::Container| container.pid == pid && !container.is_over();
        if let Some(index) = self.containers.iter().position(first) {
            self.container_ended(index, ended);
        } else if self.exec_ended(pid, ended) || self.job_ended(pid, ended) {
        } else if self.reaper.as_ref().is_some_and(|reaper| reaper.pid().as_raw() == pid) {
            note!("the pod's PID 1 was killed, and every process of its PID namespace with it");
        } else {
            // An orphan, or the first process of a container that another runtime has not told of yet.
            self.jobs.remember_stray(pid, ended);
        }
    }

    pub(crate) fn container_ended(&mut self, index: usize, ended: Ended) {
        let now = Instant::now();
        let container = &mut self.containers[index];
        let status =
            ExitStatus { code: ended.code, signal: ended.signal, oom: container.oom_kills() > 0, at: clock::now() };
        container.phase = Phase::Draining { status, until: now + DRAIN };
        let (serial, external) = (container.serial, container.external.is_some());
        if !external {
            self.kill_rest(index);
        }
        self.notice_oom(serial);
        self.containers[index].outputs.drain(DRAIN_READS, &mut self.scratch);
        self.settle(index, now);
    }

    /// In a PID namespace that is shared, what a container started outlives its first process.
    fn kill_rest(&self, index: usize) {
        let id = &self.containers[index].id;
        let rest = self.runtime.pids(id).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        if let Err(error) = self.runtime.kill(id, Signal::KILL, true) {
            note!("container {id} ended, kill what it has left running: {error}");
        }
    }

    pub(crate) fn exec_ended(&mut self, pid: i32, ended: Ended) -> bool {
        for container in &mut self.containers {
            let oom_kills = container.oom_kills();
            let running = container.execs.iter_mut().find(|exec| exec.leader.pid == pid && exec.exit.is_none());
            let Some(exec) = running else { continue };
            let oom = ended.signal == Some(libc::SIGKILL) && oom_kills > exec.oom_kills;
            let status = ExitStatus { code: ended.code, signal: ended.signal, oom, at: clock::now() };
            exec.exit = Some(status);
            exec.terminal = None;
            let event = Event::Exit { id: container.id.clone(), exec_id: Some(exec.id.clone()), status };
            container.forget_old_execs();
            self.connections.tell(&event);
            return true;
        }
        false
    }

    /// Records and tells the end of a container once its output has been read, or has been waited for.
    pub(crate) fn settle(&mut self, index: usize, now: Instant) {
        let container = &mut self.containers[index];
        let Phase::Draining { status, until } = container.phase else { return };
        if !container.outputs.is_finished() && now < until {
            return;
        }
        container.phase = Phase::Ended(status);
        if let Err(error) = record_exit(&container.bundle, &status) {
            note!("record the end of container {}: {error}", container.id);
        }
        let event = Event::Exit { id: container.id.clone(), exec_id: None, status };
        self.connections.tell(&event);
    }

    pub(crate) fn notice_oom(&mut self, serial: u32) {
        let Some(index) = self.index(serial) else { return };
        let container = &mut self.containers[index];
        if container.oom.as_mut().is_some_and(crate::oom::OomWatch::news) {
            self.connections.tell(&Event::Oom { id: container.id.clone() });
        }
    }
}
