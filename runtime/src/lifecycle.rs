//! What happens to a container after its start: kill, delete, and the questions about it.

use std::path::PathBuf;

use nix::unistd::Pid;
use oci_spec::runtime::{Hooks, LinuxResources, Spec};

use crate::error::{Context, Error, Failure};
use crate::identity::{ProcessStat, open_process};
use crate::status::{State, Status};
use crate::store::{self, Edition, Folder, Record};
use crate::{Runtime, Signal, cgroups, hooks, kin, sys};

/// How long a process may take to end after SIGKILL, in milliseconds.
const DEATH_WITHIN: u32 = 10_000;

impl Runtime {
    /// The container's state; the status is read from the kernel.
    pub fn state(&self, id: &str) -> Result<State, Error> {
        let record = self.record(id)?;
        let status = status(&record);
        Ok(State::of(&record, status))
    }

    /// The state of every container, by name. One that cannot be read is left out and warned about.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        let mut states = Vec::new();
        for id in store::names(self.root())? {
            match self.state(&id) {
                Ok(state) => states.push(state),
                Err(Error::NotFound(_)) => (),
                Err(error) => (self.warn)(&format!("container {id:?} is left out: {error}")),
            }
        }
        Ok(states)
    }

    /// Sends a signal to the container's process, or to `all` processes of the container. Without a process
    /// namespace of its own, SIGKILL to a container is for all of them: they would outlive the first.
    pub fn kill(&self, id: &str, signal: Signal, all: bool) -> Result<(), Error> {
        let record = self.record(id)?;
        if record.pid == 0 {
            // Whose processes are in its cgroups is not known yet.
            return Err(Error::NotRunning(id.to_owned()));
        }
        let process = open_process(record.pid, record.start_time);
        self.tell_step(|| match &process {
            Some(_) => format!("signal {} goes to process {}", signal.number(), record.pid),
            None => format!("process {} has ended", record.pid),
        });
        let everybody = all || (signal == Signal::KILL && !record.own_pid_namespace);
        if everybody && record.cgroups.0.is_empty() {
            // Who has ended has left its number, perhaps to a stranger.
            let signalled = if process.is_some() { kin::signal(&record, signal.number()) } else { Ok(0) };
            return match signalled.at("kill", format!("the processes of container {id:?}"))? {
                0 => Err(Error::NotRunning(id.to_owned())),
                _ => Ok(()),
            };
        }
        if everybody {
            return match (record.cgroups.pids()?.is_empty(), signal) {
                (true, _) => Err(Error::NotRunning(id.to_owned())),
                (false, Signal::KILL) => Ok(record.cgroups.kill_all()?),
                (false, signal) => Ok(record.cgroups.signal(signal.number())?),
            };
        }
        let Some(process) = process else { return Err(Error::NotRunning(id.to_owned())) };
        match sys::pidfd_send_signal(&process, signal.number()) {
            Ok(()) if signal == Signal::KILL => Ok(record.cgroups.thaw_the_killed()?),
            Ok(()) => Ok(()),
            Err(nix::errno::Errno::ESRCH) => Err(Error::NotRunning(id.to_owned())),
            Err(errno) => Err(Failure::new("kill", format!("process {}", record.pid), errno).into()),
        }
    }

    /// Removes all that `create` made. With `force` a living container is killed and a missing one is fine.
    /// What cannot be removed does not keep the rest, and the next delete tries it again.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let folder = match Folder::open_to_remove(self.root(), id) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            result => result?,
        };
        let record = match folder.record(id) {
            Err(Error::NotFound(_)) => return self.go_on_removing(folder, id),
            result => result?,
        };
        match status(&record) {
            // Nobody is creating it any more: we hold the lock.
            Status::Stopped | Status::Created | Status::Creating => (),
            _ if force => (),
            status => return Err(Error::WrongStatus { verb: "delete", id: id.to_owned(), status }),
        }
        let hooks = store::read_hooks(folder.path()).ok().flatten();
        self.tell_step(|| format!("ending process {}, removing {}", record.pid, record.cgroups));
        let ended = end_process(&record);
        let released = folder.release_groups(&record);
        ended.and(released)?;
        Ok(self.remove(folder, &record, hooks.as_ref())?)
    }

    /// What is left to do where there is no record: either create was cut off before it made anything else, or
    /// a delete after it had released everything, and perhaps before the hooks were run.
    fn go_on_removing(&self, folder: Folder, id: &str) -> Result<(), Error> {
        let Ok(record) = folder.withdrawn_record(id) else { return Ok(folder.remove()?) };
        let hooks = store::read_hooks(folder.path()).ok().flatten();
        Ok(self.remove(folder, &record, hooks.as_ref())?)
    }

    /// Forgets a container that holds nothing any more. The poststop hooks, for which there is no such container
    /// by then, come before the folder goes: when they are cut off, the next delete runs them again.
    pub(crate) fn remove(&self, folder: Folder, record: &Record, hooks: Option<&Hooks>) -> Result<(), Failure> {
        if let Some(poststop) = hooks.and_then(|all| all.poststop().as_ref()).filter(|list| !list.is_empty()) {
            folder.withdraw_record()?;
            self.tell_step(|| format!("running {} poststop hooks", poststop.len()));
            hooks::run_all("poststop", Some(poststop), &State::of(record, Status::Stopped), self.warn);
        }
        self.tell_step(|| format!("removing {}", folder.path().display()));
        folder.remove()
    }

    /// Changes the limits of a container; what is not given stays.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), Error> {
        cgroups::unsupported(resources)?;
        let folder = Folder::open(self.root(), id, "update")?;
        self.alive(id, "update")?;
        let mut record = folder.record(id)?;
        let joined = record.cgroups.0.len();
        if record.cgroups.extend(self.cgroup_layout()?, record.place.as_ref(), resources)? {
            // First what will have to be removed, then what is made.
            folder.write_record(&record)?;
            record.cgroups.join_from(joined)?;
        }
        record.cgroups.update(resources, record.unit.as_ref())
    }

    /// Changes what a container's class of service may use (Intel RDT), by lines as in `linux.intelRdt`. That it
    /// has none is an error.
    pub fn update_intel_rdt(&self, id: &str, l3_cache: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
        let _folder = Folder::open(self.root(), id, "update")?;
        match self.alive(id, "update")?.resctrl {
            Some(resctrl) => resctrl.update(l3_cache, bandwidth),
            None => Err(Error::unsupported("linux.intelRdt", "the container was created without it")),
        }
    }

    /// Freezes all processes of a container. One that waits for `start` is not `created` then, but `paused`, and
    /// cannot be started: frozen, it could not answer.
    pub fn pause(&self, id: &str) -> Result<(), Error> {
        let folder = Folder::open(self.root(), id, "pause")?;
        self.alive(id, "pause")?;
        let mut record = folder.record(id)?;
        if status(&record) == Status::Created {
            record.paused_early = true;
            folder.write_record(&record)?;
        }
        record.cgroups.freeze(true)
    }

    /// Lets a paused container go on.
    pub fn resume(&self, id: &str) -> Result<(), Error> {
        let folder = Folder::open(self.root(), id, "resume")?;
        self.alive(id, "resume")?;
        folder.record(id)?.cgroups.freeze(false)
    }

    /// The processes in the container's cgroup, as the caller sees them.
    pub fn pids(&self, id: &str) -> Result<Vec<Pid>, Error> {
        let record = self.record(id)?;
        if record.cgroups.0.is_empty() {
            let lives = open_process(record.pid, record.start_time).is_some();
            return Ok(if lives { kin::pids(&record) } else { Vec::new() });
        }
        Ok(record.cgroups.pids()?)
    }

    /// What a container that has a process uses, as `runc events` shows it below `data`.
    pub fn stats(&self, id: &str) -> Result<serde_json::Value, Error> {
        let record = self.alive(id, "read the statistics of")?;
        let mut stats = record.cgroups.stats();
        if let Some(resctrl) = &record.resctrl {
            stats["intel_rdt"] = resctrl.stats();
        }
        Ok(stats)
    }

    /// The configuration that a container was created with. Unknown capabilities are left out, with a warning.
    pub fn config(&self, id: &str) -> Result<Spec, Error> {
        let record = self.record(id)?;
        let (config, unknown) = store::read_config_and_unknown(&self.folder(id), &record)?;
        self.warn_of_capabilities(&unknown);
        Ok(config)
    }

    /// The record of a container that has a process.
    pub(crate) fn alive(&self, id: &str, verb: &'static str) -> Result<Record, Error> {
        Ok(self.alive_edition(id, verb)?.0)
    }

    /// Likewise, with which edition of the record it is, and the status.
    pub(crate) fn alive_edition(&self, id: &str, verb: &'static str) -> Result<(Record, Edition, Status), Error> {
        store::check_id(id)?;
        let (record, edition) = store::read_edition(&self.folder(id), id)?;
        match status(&record) {
            status @ (Status::Created | Status::Running | Status::Paused) => Ok((record, edition, status)),
            Status::Stopped => Err(Error::NotRunning(id.to_owned())),
            status @ Status::Creating => Err(Error::WrongStatus { verb, id: id.to_owned(), status }),
        }
    }

    pub(crate) fn record(&self, id: &str) -> Result<Record, Error> {
        store::check_id(id)?;
        store::read_record(&self.folder(id), id)
    }

    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.root().join(id)
    }
}

/// Where a container is in its life, from what the kernel knows of its process.
pub(crate) fn status(record: &Record) -> Status {
    if record.pid == 0 {
        return Status::Creating;
    }
    match ProcessStat::read(record.pid) {
        Some(stat) if stat.start_time != record.start_time || stat.has_ended() => Status::Stopped,
        Some(stat) if stat.not_executed && !record.restored && !(record.paused_early && record.cgroups.is_frozen()) => {
            Status::Created
        }
        Some(_) if record.cgroups.is_frozen() => Status::Paused,
        Some(_) => Status::Running,
        None => Status::Stopped,
    }
}

/// Kills all that a container has; what cannot be killed now is left to delete.
pub(crate) fn end(record: &Record) {
    let _ = end_process(record).and_then(|()| record.cgroups.kill_all());
}

/// Kills the first process and waits until it ended.
fn end_process(record: &Record) -> Result<(), Failure> {
    let Some(process) = open_process(record.pid, record.start_time) else { return Ok(()) };
    if record.cgroups.0.is_empty() && !record.own_pid_namespace {
        // What its first process leaves behind is found nowhere later.
        let _ = kin::signal(record, libc::SIGKILL);
    }
    match sys::pidfd_send_signal(&process, libc::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => (),
        Err(errno) => return Err(Failure::new("kill", format!("process {}", record.pid), errno)),
    }
    record.cgroups.thaw_the_killed()?;
    hooks::wait_for_exit(&process, DEATH_WITHIN, record.pid)
}
