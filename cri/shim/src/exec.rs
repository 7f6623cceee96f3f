//! More processes in a container, and their end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use orlop_runtime::{ExecOptions, Stdio};
use orlop_shim::protocol::{Answer, Exec as ExecRequest, Failure, FailureKind};

use crate::container::{Container, Exec, Phase};
use crate::failure::{Step, failure, runtime_failure};
use crate::family::{self, Leader};
use crate::requests::{Handled, Outcome, Reply, no_exec, signal_of};
use crate::shim::Shim;
use crate::stdio::Inner;

/// Processes of `Exec` that may run in a container at a time.
const MOST: usize = 256;

impl Shim {
    pub(crate) fn exec(&mut self, asker: u32, request: ExecRequest, descriptors: Vec<OwnedFd>) -> Handled {
        let ExecRequest { id, exec_id, mut process, tty } = request;
        let runtime = self.runtime.clone();
        let container = self.container(&id)?;
        check(container, &exec_id)?;
        let stdio = stdio(tty, descriptors)?;
        process.set_terminal(Some(tty));
        if container.external.is_some() {
            return self.exec_external(asker, &id, exec_id, &process, stdio);
        }
        let mut options = ExecOptions::new(*process);
        options.stdio = match stdio {
            Some(Inner { stdin, stdout, stderr }) => Stdio::Fds { stdin, stdout, stderr },
            None => Stdio::Terminal,
        };
        let oom_kills = container.oom_kills();
        let started = runtime.exec(&id, options).map_err(|error| runtime_failure(&error))?;
        let pid = started.pid.as_raw();
        let leader = Leader::of(&self.proc, pid);
        let container = self.container(&id)?;
        container.execs.push(Exec { id: exec_id, leader, terminal: None, oom_kills, exit: None });
        container.give_terminal(pid, started.terminal).map(Outcome::Reply)
    }

    pub(crate) fn kill_exec(&mut self, id: &str, exec_id: &str, signal: i32) -> Handled {
        let signal = signal_of(signal)?.number();
        let container = self.container(id)?;
        let Some(exec) = container.exec(exec_id) else { return Err(no_exec(id, exec_id)) };
        let (leader, cgroup) = (exec.leader, container.cgroup.clone());
        let external = container.external.is_some();
        let candidates = || {
            if external {
                return self.processes_in(&cgroup);
            }
            match self.runtime.pids(id) {
                Ok(pids) => Ok(pids.into_iter().map(orlop_runtime::Pid::as_raw).collect()),
                Err(error) => Err(runtime_failure(&error)),
            }
        };
        family::signal(&self.proc, leader, signal, candidates)?;
        Ok(Answer::Done.into())
    }

    /// The processes of another runtime's container, by the text of /proc/PID/cgroup of its first one.
    fn processes_in(&self, cgroup: &str) -> Result<Vec<i32>, Failure> {
        let entries = fs::read_dir("/proc").step("list /proc")?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let within = |pid: &i32| self.proc.read(&format!("{pid}/cgroup")).is_ok_and(|of| is_within(&of, cgroup));
        Ok(pids.filter(within).collect())
    }
}

/// Whether a process is, in every hierarchy, in the cgroup of the other one or below.
fn is_within(cgroup: &str, of: &str) -> bool {
    let below = |(inner, outer): (&str, &str)| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !of.is_empty() && cgroup.lines().count() == of.lines().count() && cgroup.lines().zip(of.lines()).all(below)
}

impl Container {
    /// The answer to an exec: the terminal's master, of which a copy stays for its size.
    pub(crate) fn give_terminal(&mut self, pid: i32, master: Option<OwnedFd>) -> Result<Reply, Failure> {
        if let (Some(master), Some(exec)) = (&master, self.execs.iter_mut().find(|exec| exec.leader.pid == pid)) {
            exec.terminal = Some(master.as_fd().try_clone_to_owned().step("copy the terminal's master")?);
        }
        Ok(Reply { answer: Answer::Execed { pid }, descriptors: master.into_iter().collect() })
    }
}

fn check(container: &mut Container, exec_id: &str) -> Result<(), Failure> {
    let id = &container.id;
    if !matches!(container.phase, Phase::Running) {
        return Err(failure(FailureKind::WrongState, format!("container {id} is not running")));
    }
    if container.execs.iter().filter(|exec| exec.exit.is_none()).count() >= MOST {
        return Err(failure(FailureKind::Limit, format!("container {id}: {MOST} execs are running")));
    }
    if container.execs.iter().any(|exec| exec.id == exec_id) {
        return Err(failure(FailureKind::AlreadyExists, format!("container {id} has a process {exec_id}")));
    }
    Ok(())
}

fn stdio(tty: bool, descriptors: Vec<OwnedFd>) -> Result<Option<Inner>, Failure> {
    match (tty, <[OwnedFd; 3]>::try_from(descriptors)) {
        (true, Err(none)) if none.is_empty() => Ok(None),
        (false, Ok([stdin, stdout, stderr])) => Ok(Some(Inner { stdin, stdout, stderr })),
        (true, _) => Err(failure(FailureKind::Invalid, "exec with a terminal takes no descriptors")),
        (false, Err(_)) => Err(failure(FailureKind::Invalid, "exec needs descriptors for stdin, stdout and stderr")),
    }
}

#[cfg(test)]
mod tests {
    use super::is_within;

    #[test]
    fn processes_are_told_by_their_cgroups() {
        let container = "2:cpu,cpuacct:/pod/a\n1:name=systemd:/pod/a\n";
        assert!(is_within(container, container));
        assert!(is_within("2:cpu,cpuacct:/pod/a\n1:name=systemd:/pod/a/inner\n", container));
        assert!(!is_within("2:cpu,cpuacct:/pod/a\n1:name=systemd:/pod/ab\n", container));
        assert!(!is_within("2:cpu,cpuacct:/\n1:name=systemd:/\n", container));
        assert!(!is_within(container, ""));
    }
}
