//! What the caller does for the container's process while that makes its surroundings.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::Pid;
use oci_spec::runtime::{Linux, Spec};

use crate::child::Child;
use crate::error::{Error, Failure};
use crate::handshake::{CallerEnd, Go, Patience, Report};
use crate::process::Rlimits;
use crate::procfs::ProcFs;
use crate::seccomp::Listener;
use crate::status::{State, Status};
use crate::store::Record;
use crate::user_namespace::Caller;
use crate::{hooks, net_devices, user_namespace};

/// Answers the new process until it is ready.
pub(super) fn accompany(
    child: &mut Child,
    caller: &CallerEnd,
    record: &Record,
    spec: &Spec,
    linux: &Linux,
    in_new_user: bool,
) -> Result<Option<OwnedFd>, Error> {
    if in_new_user {
        user_namespace::map(child.pid, linux, Caller::current())?;
        if let Some(process) = spec.process() {
            Rlimits::plan(process)?.raise(child.pid.as_raw())?;
        }
        if let Some(score) = spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj) {
            // Only the host's root may lower it, or write this file of a process that others may not look into.
            let written = ProcFs::open()?.write(&format!("{}/oom_score_adj", child.pid), &score.to_string());
            written.map_err(|failure| failure.note("process.oomScoreAdj: lowering it needs CAP_SYS_RESOURCE"))?;
        }
        caller.tell(Go::Mapped)?;
    }
    if net_devices::wanted(linux) {
        net_devices::move_all(linux, child.pid)?;
        caller.tell(Go::Equipped)?;
    }
    let mut patience = Patience::new(child.pid.as_raw(), Some(Duration::ZERO));
    loop {
        match caller.report(&mut patience)? {
            Some((Report::MountsReady, _)) => {
                run_create_hooks(child.pid, record, spec)?;
                let inside = spec.hooks().as_ref().and_then(|all| all.create_container().as_ref());
                patience = Patience::new(child.pid.as_raw(), hooks::time(inside));
                caller.tell(Go::HooksDone)?;
            }
            Some((Report::Listener, filter)) => {
                let listener = linux.seccomp().as_ref().map(Listener::plan).transpose()?.flatten();
                if let (Some(listener), Some(filter)) = (listener, filter) {
                    let state = State { pid: child.pid.as_raw(), ..State::of(record, Status::Creating) };
                    listener.tell(&filter, state.pid, &state)?;
                }
                caller.tell(Go::Listened)?;
            }
            Some((Report::Ready, terminal)) => return Ok(terminal),
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            None => return Err(Error::InitDied(child.fate())),
        }
    }
}

#[allow(deprecated)]
pub(crate) fn run_create_hooks(pid: Pid, record: &Record, spec: &Spec) -> Result<(), Failure> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    let state = State { pid: pid.as_raw(), ..State::of(record, Status::Creating) };
    hooks::run("prestart", all.prestart().as_ref(), &state, None)?;
    hooks::run("createRuntime", all.create_runtime().as_ref(), &state, None)
}
