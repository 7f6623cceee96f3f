//! What each request does.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use oci_spec::runtime::LinuxResources;
use orlop_runtime::Signal;
use orlop_shim::protocol::{Answer, Failure, FailureKind, Listed, Request, VERSION};

use crate::clock;
use crate::container::Phase;
use crate::failure::{Step, failure, no_container, runtime_failure};
use crate::jobs::Work;
use crate::shim::Shim;
use crate::stdio::{Stdin, prepare_attached};
use crate::sys;

/// An answer and the descriptors that go with it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        Reply { answer, descriptors: Vec::new() }
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Reply),
    /// It is answered when what was begun is done.
    Later,
    /// The connection is for events from now on.
    Subscribe,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Outcome {
        Outcome::Reply(answer.into())
    }
}

pub(crate) type Handled = Result<Outcome, Failure>;

/// The signal of a request.
pub(crate) fn signal_of(number: i32) -> Result<Signal, Failure> {
    Signal::new(number).ok_or_else(|| failure(FailureKind::Invalid, format!("{number} is not a signal")))
}

impl Shim {
    /// `asker` is the connection that the request came from.
    pub(crate) fn handle(&mut self, asker: u32, request: Request, descriptors: Vec<OwnedFd>) -> Handled {
        let starts_something = matches!(request, Request::Create(_) | Request::Start { .. } | Request::Exec(_));
        if starts_something && self.shutdown.is_some() {
            return Err(failure(FailureKind::WrongState, "the pod is being shut down"));
        }
        match request {
            Request::Init(_) => Err(failure(FailureKind::WrongState, "the pod has been made already")),
            Request::Create(create) => self.create(asker, create),
            Request::Start { id } => self.start(asker, &id),
            Request::Kill { id, signal, all } => self.kill(asker, &id, signal, all),
            Request::Delete { id } => self.delete(asker, &id),
            Request::Pause { id } => self.freeze(asker, &id, true),
            Request::Resume { id } => self.freeze(asker, &id, false),
            Request::Update { id, resources } => self.update(asker, &id, &resources),
            Request::Exec(exec) => self.exec(asker, exec, descriptors),
            Request::KillExec { id, exec_id, signal } => self.kill_exec(&id, &exec_id, signal),
            Request::Attach { id, stdin } => self.attach(&id, stdin, descriptors),
            Request::Resize { id, exec_id, width, height } => self.resize(&id, exec_id.as_deref(), width, height),
            Request::CloseStdin { id } => self.close_stdin(&id),
            Request::ReopenLog { id } => self.reopen_log(&id),
            Request::Socket { ipv6 } => pod_socket(ipv6),
            Request::List => Ok(self.list().into()),
            Request::Subscribe => Ok(Outcome::Subscribe),
            Request::Shutdown => self.begin_shutdown(asker),
        }
    }

    fn start(&mut self, asker: u32, id: &str) -> Handled {
        let runtime = self.runtime.clone();
        let container = self.container(id)?;
        if !matches!(container.phase, Phase::Created) {
            return Err(failure(FailureKind::WrongState, format!("container {id} is not in the state created")));
        }
        if let Some(external) = container.external.clone() {
            let at = clock::now();
            return self.begin_job(asker, id, external.command(&["start"], id), Work::Start { at });
        }
        runtime.start(id).map_err(|error| runtime_failure(&error))?;
        let at = clock::now();
        container.phase = Phase::Running;
        container.started_at = Some(at);
        Ok(Answer::Started { at }.into())
    }

    fn kill(&mut self, asker: u32, id: &str, signal: i32, all: bool) -> Handled {
        let runtime = self.runtime.clone();
        let signal = signal_of(signal)?;
        let container = self.container(id)?;
        if container.is_over() {
            return Ok(Answer::Done.into());
        }
        if let Some(external) = container.external.clone() {
            let mut command = external.command(if all { &["kill", "--all"] } else { &["kill"] }, id);
            command.arg(signal.number().to_string());
            return self.begin_job(asker, id, command, Work::Simple);
        }
        match runtime.kill(id, signal, all) {
            // It has ended, and will be reaped in a moment.
            Err(orlop_runtime::Error::NotRunning(_)) | Ok(()) => Ok(Answer::Done.into()),
            Err(error) => Err(runtime_failure(&error)),
        }
    }

    fn delete(&mut self, asker: u32, id: &str) -> Handled {
        let Ok(container) = self.container(id) else {
            // What a create that was cut off has left.
            return match self.runtime.delete(id, true) {
                Ok(()) | Err(orlop_runtime::Error::NotFound(_)) => Ok(Answer::Done.into()),
                Err(error) => Err(runtime_failure(&error)),
            };
        };
        if !container.is_deletable() {
            return Err(failure(FailureKind::WrongState, format!("container {id} has not ended; kill it first")));
        }
        if let Some(external) = container.external.clone() {
            return self.begin_job(asker, id, external.command(&["delete", "--force"], id), Work::Delete);
        }
        self.runtime.delete(id, true).map_err(|error| runtime_failure(&error))?;
        self.containers.retain(|container| container.id != id);
        Ok(Answer::Done.into())
    }

    fn freeze(&mut self, asker: u32, id: &str, freeze: bool) -> Handled {
        let runtime = self.runtime.clone();
        let container = self.container(id)?;
        let (verb, phase) = if freeze { ("pause", Phase::Paused) } else { ("resume", Phase::Running) };
        if !matches!((freeze, container.phase), (true, Phase::Running) | (false, Phase::Paused)) {
            return Err(failure(FailureKind::WrongState, format!("container {id}: nothing to {verb}")));
        }
        if let Some(external) = container.external.clone() {
            return self.begin_job(asker, id, external.command(&[verb], id), Work::Freeze(phase));
        }
        let done = if freeze { runtime.pause(id) } else { runtime.resume(id) };
        done.map_err(|error| runtime_failure(&error))?;
        container.phase = phase;
        Ok(Answer::Done.into())
    }

    fn update(&mut self, asker: u32, id: &str, resources: &LinuxResources) -> Handled {
        let runtime = self.runtime.clone();
        let container = self.container(id)?;
        if container.is_over() {
            return Err(failure(FailureKind::WrongState, format!("container {id} has ended")));
        }
        if let Some(external) = &container.external {
            let command = external.update_command(id, resources)?;
            return self.begin_job(asker, id, command, Work::Simple);
        }
        runtime.update(id, resources).map_err(|error| runtime_failure(&error))?;
        Ok(Answer::Done.into())
    }

    fn attach(&mut self, id: &str, stdin: bool, descriptors: Vec<OwnedFd>) -> Handled {
        let (poller, serial) = (self.poller.clone(), self.serial());
        let container = self.container(id)?;
        if container.is_over() {
            return Err(failure(FailureKind::WrongState, format!("container {id} has ended")));
        }
        if descriptors.is_empty() || descriptors.len() > 2 {
            return Err(failure(
                FailureKind::Invalid,
                "attach needs a descriptor for stdout, and may have one for stderr",
            ));
        }
        descriptors.iter().try_for_each(|fd| prepare_attached(fd.as_fd()))?;
        let mut given = descriptors.into_iter();
        let copies = [given.next(), given.next().filter(|_| !container.tty)];
        let input = match &container.terminal {
            _ if !stdin => None,
            Some(master) => Some(master.try_clone().step("copy the terminal's master")?),
            None => container.stdin.take().step("copy the write end of stdin")?,
        };
        container.outputs.attach(&poller, serial, copies).step("wait for who attached to leave")?;
        let answer = Answer::Attached { tty: container.tty };
        Ok(Outcome::Reply(Reply { answer, descriptors: input.into_iter().collect() }))
    }

    fn resize(&mut self, id: &str, exec_id: Option<&str>, width: u16, height: u16) -> Handled {
        let container = self.container(id)?;
        let master = match exec_id {
            None => &container.terminal,
            Some(exec_id) => match container.exec(exec_id) {
                Some(exec) => &exec.terminal,
                None => return Err(no_exec(id, exec_id)),
            },
        };
        let Some(master) = master else {
            return Err(failure(FailureKind::WrongState, format!("container {id}: no terminal to resize")));
        };
        sys::set_window_size(master.as_fd(), width, height).step("set the terminal's size")?;
        Ok(Answer::Done.into())
    }

    fn close_stdin(&mut self, id: &str) -> Handled {
        self.container(id)?.stdin = Stdin::Closed;
        Ok(Answer::Done.into())
    }

    fn reopen_log(&mut self, id: &str) -> Handled {
        self.container(id)?.outputs.reopen_log().step(format_args!("open the log of container {id} again"))?;
        Ok(Answer::Done.into())
    }

    fn list(&self) -> Answer {
        Answer::Listed(Listed {
            id: self.init.id.clone(),
            pid: std::process::id() as i32,
            version: VERSION,
            containers: self.containers.iter().map(crate::container::Container::info).collect(),
        })
    }
}

pub(crate) fn no_exec(id: &str, exec_id: &str) -> Failure {
    let Failure { kind, .. } = no_container(id);
    failure(kind, format!("no process {exec_id} in container {id}"))
}

/// The shim lives in the pod's network namespace, and a socket stays in the one it was made in.
fn pod_socket(ipv6: bool) -> Handled {
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None).step("make a socket in the pod")?;
    Ok(Outcome::Reply(Reply { answer: Answer::Socket, descriptors: vec![socket] }))
}
