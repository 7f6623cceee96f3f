//! Programs of another OCI runtime that are at work; the loop goes on meanwhile.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use orlop_shim::protocol::{Answer, Failure, FailureKind};

use crate::container::{Container, Exec, Phase};
use crate::external::{Console, External, failure_of, pid_from, remove_files};
use crate::failure::{Step, failure};
use crate::family::Leader;
use crate::journal::note;
use crate::requests::{Handled, Outcome, Reply};
use crate::shim::Shim;
use crate::stdio::Outer;
use crate::sys::{self, Ended};

/// Hooks included.
const BOUND: Duration = Duration::from_mins(2);

/// What a program does, and what is to be done when it has.
#[derive(Debug)]
pub(crate) enum Work {
    Create {
        pid_file: PathBuf,
        stdio: CreateStdio,
    },
    Start {
        at: i64,
    },
    Freeze(Phase),
    Delete,
    /// As part of a shutdown, which answers for itself.
    LastDelete,
    Exec {
        exec_id: String,
        /// The process, and its number when it has one.
        files: [PathBuf; 2],
        console: Option<Console>,
    },
    /// Nothing more.
    Simple,
}

/// The shim's side of a container's stdio while it is made.
#[derive(Debug)]
pub(crate) enum CreateStdio {
    Pipes(Outer),
    Terminal(Console),
}

#[derive(Debug)]
struct Job {
    pid: i32,
    container: u32,
    asker: u32,
    work: Work,
    log: PathBuf,
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Jobs {
    running: Vec<Job>,
    /// Ended children that nobody knew, while a job may yet tell whose they were.
    strays: Vec<(i32, Ended)>,
}

impl Jobs {
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn concern(&self, container: u32) -> bool {
        self.running.iter().any(|job| job.container == container)
    }

    /// When the running ones are late.
    pub(crate) fn due(&self) -> impl Iterator<Item = Instant> + '_ {
        self.running.iter().map(|job| job.until)
    }

    pub(crate) fn remember_stray(&mut self, pid: i32, ended: Ended) {
        if !self.running.is_empty() {
            self.strays.push((pid, ended));
        }
    }

    fn take_stray(&mut self, pid: i32) -> Option<Ended> {
        let index = self.strays.iter().position(|(stray, _)| *stray == pid)?;
        Some(self.strays.swap_remove(index).1)
    }
}

impl Shim {
    /// Runs a command of a runtime for a container; one at a time.
    pub(crate) fn begin_job(&mut self, asker: u32, id: &str, mut command: Command, work: Work) -> Handled {
        let container = self.container(id)?;
        let serial = container.serial;
        let Some(log) = container.external.as_ref().map(External::log) else {
            return Err(failure(FailureKind::Invalid, format!("container {id} is of the built-in runtime")));
        };
        if self.jobs.concern(serial) {
            return Err(failure(FailureKind::WrongState, format!("another operation on container {id} is at work")));
        }
        let program = command.get_program().to_string_lossy().into_owned();
        // The log of the last operation has been read, or nobody wanted it.
        drop(std::fs::remove_file(&log));
        let child = command.spawn().step(format_args!("run {program}"))?;
        self.jobs.running.push(Job {
            pid: child.id() as i32,
            container: serial,
            asker,
            work,
            log,
            until: Instant::now() + BOUND,
        });
        Ok(Outcome::Later)
    }

    /// Kills those that take too long; their end is noticed as any other.
    pub(crate) fn end_late_jobs(&mut self, now: Instant) {
        for job in self.jobs.running.iter_mut().filter(|job| now >= job.until) {
            note!("killing an operation of another OCI runtime (process {}): not done after {BOUND:?}", job.pid);
            let killed = sys::open_pidfd(job.pid)
                .and_then(|pidfd| sys::signal_by_pidfd(std::os::fd::AsFd::as_fd(&pidfd), libc::SIGKILL));
            if let Err(errno) = killed {
                note!("kill process {}: {errno}", job.pid);
            }
            job.until = now + BOUND;
        }
    }

    pub(crate) fn job_ended(&mut self, pid: i32, ended: Ended) -> bool {
        let Some(index) = self.jobs.running.iter().position(|job| job.pid == pid) else { return false };
        let job = self.jobs.running.swap_remove(index);
        let (asker, last) = (job.asker, matches!(job.work, Work::LastDelete));
        let answer = self.conclude(job, ended);
        if self.jobs.running.is_empty() {
            self.jobs.strays = Vec::new();
        }
        match answer {
            Err(failure) if last => note!("shut down: {failure}"),
            _ if last => {}
            answer => self.connections.answer(asker, answer),
        }
        true
    }

    fn conclude(&mut self, job: Job, ended: Ended) -> Result<Reply, Failure> {
        let Job { container: serial, work, log, .. } = job;
        let Some(index) = self.index(serial) else {
            return Err(failure(FailureKind::NotFound, "the container is gone"));
        };
        let worked = if ended.code == 0 { Ok(()) } else { Err(failure_of(&log, ended)) };
        match work {
            Work::Create { pid_file, stdio } => {
                let mut container = self.containers.remove(index);
                let created = worked.and_then(|()| self.created(&mut container, &pid_file, stdio));
                remove_files(&[pid_file]);
                if created.is_err() {
                    container.phase = Phase::Broken;
                }
                let (pid, answer) = (container.pid, Answer::Created { pid: container.pid });
                self.containers.push(container);
                created?;
                if let Some(ended) = self.jobs.take_stray(pid) {
                    self.container_ended(self.containers.len() - 1, ended);
                }
                Ok(answer.into())
            }
            Work::Start { at } => {
                worked?;
                let container = &mut self.containers[index];
                container.started_at = Some(at);
                if matches!(container.phase, Phase::Created) {
                    container.phase = Phase::Running;
                }
                Ok(Answer::Started { at }.into())
            }
            Work::Freeze(phase) => {
                worked?;
                let container = &mut self.containers[index];
                if !container.is_over() {
                    container.phase = phase;
                }
                Ok(Answer::Done.into())
            }
            Work::Delete | Work::LastDelete => {
                worked?;
                self.containers.remove(index);
                Ok(Answer::Done.into())
            }
            Work::Exec { exec_id, files, console } => {
                let pid = worked.and_then(|()| pid_from(&files[1]));
                remove_files(&files);
                let (pid, master) = (pid?, terminal(console)?);
                let leader = Leader::of(&self.proc, pid);
                let container = &mut self.containers[index];
                let oom_kills = container.oom_kills();
                container.execs.push(Exec { id: exec_id, leader, terminal: None, oom_kills, exit: None });
                let reply = container.give_terminal(pid, master)?;
                if let Some(ended) = self.jobs.take_stray(pid) {
                    self.exec_ended(pid, ended);
                }
                Ok(reply)
            }
            Work::Simple => worked.map(|()| Answer::Done.into()),
        }
    }

    fn created(
        &self,
        container: &mut Container,
        pid_file: &std::path::Path,
        stdio: CreateStdio,
    ) -> Result<(), Failure> {
        container.pid = pid_from(pid_file)?;
        container.cgroup = self.proc.read(&format!("{}/cgroup", container.pid)).unwrap_or_default();
        container.phase = Phase::Created;
        match stdio {
            CreateStdio::Pipes(outer) => self.adopt_pipes(container, outer)?,
            CreateStdio::Terminal(console) => self.adopt_terminal(container, console.receive()?)?,
        }
        // Its process may have ended by now, and its cgroup with it: then there is nothing to watch.
        if let Err(error) = self.watch_oom(container) {
            note!("container {}: {error}", container.id);
        }
        Ok(())
    }
}

fn terminal(console: Option<Console>) -> Result<Option<OwnedFd>, Failure> {
    console.map(|console| console.receive()).transpose()
}
