//! create: from the configuration to a process that waits at the gate.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use oci_spec::runtime::{Linux, Spec};

use crate::cgroups::{Below, Cgroups, Place};
use crate::child::Child;
use crate::error::{Context, Error, Failure};
use crate::handshake::{self, CallerEnd, Gate, Go, Patience, Report};
use crate::identity::ProcessStat;
use crate::init::{self, InitPlan};
use crate::mounts::{self, PlannedMount};
use crate::namespaces::Namespaces;
use crate::options::{CreateOptions, Created};
use crate::process::{ProcessPlan, ProcessRequest, check_preserved};
use crate::procfs::ProcFs;
use crate::resctrl::Resctrl;
use crate::seccomp::Listener;
use crate::status::{State, Status};
use crate::store::{self, Folder, Record};
use crate::sys::ns;
use crate::{Runtime, config, devices, document, hooks, net_devices, rootfs, sys, validate};

/// A configuration that was read and checked, with what belongs to it.
struct Checked {
    spec: Spec,
    config: Vec<u8>,
    bundle: PathBuf,
    rootfs: PathBuf,
}

impl Runtime {
    /// Makes a container and leaves its process waiting, before its program is executed. When it fails,
    /// nothing of the container is left.
    pub fn create(&self, opts: CreateOptions) -> Result<Created, Error> {
        store::check_id(&opts.id)?;
        if opts.systemd_cgroup {
            return Err(Error::unsupported("--systemd-cgroup", "the systemd driver is not implemented; use cgroupfs"));
        }
        check_preserved(opts.listen_fds.saturating_add(opts.preserve_fds))?;
        let checked = self.read(&opts)?;
        let folder = Folder::create(self.root(), &opts.id)?;
        let mut record = Record::new(&opts.id, checked.bundle.clone(), checked.rootfs.clone(), &checked.spec);
        match self.create_in(&folder, &mut record, opts, &checked) {
            Ok(created) => Ok(created),
            Err(error) => Err(match self.clean_up(folder, &record, &checked.spec) {
                Ok(()) => error,
                Err(failure) => Error::Unclean { error: Box::new(error), cleanup: failure.to_string() },
            }),
        }
    }

    fn read(&self, opts: &CreateOptions) -> Result<Checked, Error> {
        let bundle = std::fs::canonicalize(&opts.bundle).at("open bundle", opts.bundle.display())?;
        let (spec, config) = if let Some(spec) = &opts.spec {
            let config = serde_json::to_vec(spec).map_err(|error| Error::invalid("spec", error.to_string()))?;
            (spec.clone(), config)
        } else {
            let path = bundle.join("config.json");
            let config = document::read_regular(&path)?;
            let (spec, unknown) = config::parse_spec(&config, &path)?;
            self.warn_of_capabilities(&unknown);
            (spec, config)
        };
        validate::check(&spec)?;
        check_console(opts, &spec)?;
        let rootfs = bundle.join(spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path()));
        Ok(Checked { spec, config, bundle, rootfs })
    }

    fn create_in(
        &self,
        folder: &Folder,
        record: &mut Record,
        opts: CreateOptions,
        checked: &Checked,
    ) -> Result<Created, Error> {
        let spec = &checked.spec;
        let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("linux", "it is missing"))?;
        let resources = linux.resources().as_ref();
        let place = Place::new(linux.cgroups_path().as_deref(), &opts.id)?;
        record.cgroups = Cgroups::plan(self.cgroup_layout()?, &place, resources)?;
        record.resctrl = Resctrl::plan(linux, &opts.id)?;
        let pid_file = opts.pid_file.clone();
        let (console, pidfd_socket) = (opts.console_socket.clone(), opts.pidfd_socket.clone());
        // From here on things are made: first the record of what will have to be removed.
        folder.write_record(record)?;
        record.cgroups.create(resources)?;
        // Says, by being there, that the cgroups are ours.
        folder.write_config(&checked.config)?;
        if let (Some(resctrl), Some(wanted)) = (&record.resctrl, linux.intel_rdt()) {
            resctrl.make(wanted)?;
        }

        let (caller, process) = handshake::pair()?;
        let mut plan = plan(self, record, folder, opts, checked, linux, process)?;
        record.own_pid_namespace = plan.namespaces.has_own_pid();
        let user = match &plan.namespaces {
            namespaces if namespaces.has_new_user() => InUser::New,
            namespaces if namespaces.joins_user() => InUser::Joined,
            _ => InUser::Host,
        };
        let (pid, pidfd) = clone(&mut plan)?;
        let mut child = Child::new(pid, pidfd);
        drop(plan);
        if let Some(path) = pidfd_socket {
            handshake::send_pidfd(&path, "standard", child.pidfd()?)?;
        }
        let terminal = accompany(&mut child, &caller, record, spec, linux, user)?;
        let terminal = hand_over(terminal, console.as_deref())?;

        record.pid = child.pid.as_raw();
        record.start_time = ProcessStat::read(record.pid).map_or(0, |stat| stat.start_time);
        folder.write_record(record)?;
        if let Some(path) = pid_file {
            store::publish(&path, record.pid.to_string().as_bytes())?;
        }
        caller.tell(Go::Recorded)?;
        child
            .keep()
            .map(|pidfd| Created { pid, pidfd, terminal, own_pid_namespace: record.own_pid_namespace })
            .ok_or_else(|| Error::InitDied("went away".to_owned()))
    }

    /// Undoes a create that failed; the process is gone already. As after any other life of a container its
    /// poststop hooks are run, if anything was made for it (OCI runtime specification, "Lifecycle").
    fn clean_up(&self, folder: Folder, record: &Record, spec: &Spec) -> Result<(), Failure> {
        folder.release_groups(record)?;
        // The record goes last, and only when there is nothing left that it would be needed for.
        self.remove(folder, record, spec.hooks().as_ref().filter(|_| record.is_written()))
    }
}

/// The user namespace of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InUser {
    Host,
    New,
    Joined,
}

/// Answers the new process until it is ready.
fn accompany(
    child: &mut Child,
    caller: &CallerEnd,
    record: &Record,
    spec: &Spec,
    linux: &Linux,
    user: InUser,
) -> Result<Option<OwnedFd>, Error> {
    if user != InUser::Host {
        if user == InUser::New {
            map_user(child.pid, linux)?;
        }
        if let Some(score) = spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj) {
            // Only the host's root may write this file of a process that others may not look into.
            ProcFs::open()?.write(&format!("{}/oom_score_adj", child.pid), &score.to_string())?;
        }
        if user == InUser::New {
            caller.tell(Go::Mapped)?;
        }
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
                    let state = State { pid: child.pid.as_raw(), ..state_of(record, Status::Creating) };
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
fn run_create_hooks(pid: Pid, record: &Record, spec: &Spec) -> Result<(), Failure> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    let state = State { pid: pid.as_raw(), ..state_of(record, Status::Creating) };
    hooks::run("prestart", all.prestart().as_ref(), &state)?;
    hooks::run("createRuntime", all.create_runtime().as_ref(), &state)
}

/// The state of a container as its record and a status make it.
pub(crate) fn state_of(record: &Record, status: Status) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        status,
        pid: if status == Status::Stopped { 0 } else { record.pid },
        bundle: record.bundle.clone(),
        rootfs: record.rootfs.clone(),
        created: record.created.clone(),
        owner: record.owner.clone(),
        annotations: record.annotations.clone(),
    }
}

/// A terminal and somebody who holds its master belong together.
fn check_console(opts: &CreateOptions, spec: &Spec) -> Result<(), Error> {
    let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    match (terminal, &opts.console_socket) {
        (true, None) if opts.detached => {
            Err(Error::invalid("process.terminal", "nobody is to hold the terminal; give a console socket"))
        }
        (false, Some(_)) => Err(no_terminal()),
        _ => Ok(()),
    }
}

fn plan(
    runtime: &Runtime,
    record: &Record,
    folder: &Folder,
    opts: CreateOptions,
    checked: &Checked,
    linux: &Linux,
    caller: handshake::ProcessEnd,
) -> Result<InitPlan, Error> {
    let spec = &checked.spec;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "it is missing"))?;
    let request = ProcessRequest {
        id: &opts.id,
        process,
        seccomp: linux.seccomp().as_ref(),
        personality: linux.personality().as_ref(),
        memory_policy: linux.memory_policy().as_ref(),
        stdio: opts.stdio,
        preserve_fds: opts.listen_fds.saturating_add(opts.preserve_fds),
        listen_fds: opts.listen_fds,
        new_keyring: !opts.no_new_keyring,
    };
    let process = ProcessPlan::new(request, runtime.warn)?;
    let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
    let mounts = spec.mounts().iter().flatten().map(|mount| PlannedMount::new(mount, &checked.bundle, label));
    let mut mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    mounts::prepare_idmapped(&mut mounts, linux)?;
    let pairs = linux.sysctl().iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    if opts.no_pivot && linux.rootfs_propagation().as_deref() == Some("shared") {
        let why = "without pivot_root the host's mounts would change; use another linux.rootfsPropagation";
        return Err(Error::unsupported("--no-pivot with shared propagation", why));
    }
    let propagation = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty());
    Ok(InitPlan {
        process,
        namespaces: Namespaces::plan(linux)?,
        entrance: record.entrance(&Below::default())?,
        cgroups: record.cgroups.clone(),
        rootfs: checked.rootfs.clone(),
        detached: rootfs::mount_detached(&opts.rootfs)?,
        read_only: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
        propagation: propagation.map(mounts::rootfs_propagation).transpose()?,
        mounts,
        nodes: devices::plan(linux.devices().as_deref().unwrap_or_default())?,
        no_pivot: opts.no_pivot,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        protected: linux.readonly_paths().clone().unwrap_or_default(),
        sysctl: pairs.collect(),
        hostname: given(spec.hostname()),
        domainname: given(spec.domainname()),
        net_devices: net_devices::wanted(linux),
        hooks: spec.hooks().clone().unwrap_or_default(),
        state: state_of(record, Status::Creating),
        gate: Gate::new(folder.as_fd())?,
        caller,
    })
}

/// Clones the container's first process, which goes its own way.
fn clone(plan: &mut InitPlan) -> Result<(Pid, OwnedFd), Error> {
    let guard = plan.namespaces.for_children()?;
    if plan.namespaces.joins_user() {
        let cloned = clone_in_user_namespace(plan);
        drop(guard);
        return cloned;
    }
    let cloned = sys::clone_process(plan.namespaces.clone, plan.entrance.unified());
    match cloned.at("clone", "the container's process")? {
        Some(child) => {
            drop(guard);
            Ok(child)
        }
        None => init::run(plan),
    }
}

/// Clones the container's first process in a user namespace that is there already, so that its new namespaces
/// belong to that one. Nobody comes back from there, so a process goes ahead: the container's is its sibling.
fn clone_in_user_namespace(plan: &mut InitPlan) -> Result<(Pid, OwnedFd), Error> {
    let (caller, process) = handshake::pair()?;
    let cloned = sys::clone_process(0, plan.entrance.unified());
    let Some((pid, pidfd)) = cloned.at("clone", "the container's process")? else {
        drop(caller);
        let joined = plan.namespaces.user.as_ref().map_or(Ok(()), |user| sys::setns(user, ns::USER));
        let cloned = joined.at("join", "user namespace").and_then(|()| {
            sys::clone_sibling(plan.namespaces.clone).at("clone", "the container's process in its user namespace")
        });
        let _ = match cloned {
            Ok(None) => init::run(plan),
            Ok(Some((_, pidfd))) => process.report(&Report::Ready, Some(pidfd.as_fd())),
            Err(failure) => process.report(&Report::Failed(failure), None),
        };
        sys::exit_now(0)
    };
    let mut ahead = Child::new(pid, pidfd);
    drop(process);
    match caller.report(&mut Patience::new(pid.as_raw(), Some(Duration::ZERO)))? {
        Some((Report::Ready, Some(pidfd))) => Ok((process_of(&pidfd)?, pidfd)),
        Some((Report::Failed(failure), _)) => Err(failure.into()),
        _ => Err(Error::InitDied(ahead.fate())),
    }
}

/// The number that the process of a pidfd has here: who made it may be in another process namespace.
fn process_of(pidfd: &OwnedFd) -> Result<Pid, Failure> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(&path).at("read", &path)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).filter(|pid| *pid > 0);
    number.map(Pid::from_raw).ok_or_else(|| Failure::refused("read", path, "the container's process has ended"))
}

/// Writes the mappings of a new user namespace (user_namespaces(7)).
fn map_user(pid: Pid, linux: &Linux) -> Result<(), Failure> {
    for (file, mappings) in [("uid_map", linux.uid_mappings()), ("gid_map", linux.gid_mappings())] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, mounts::id_map_lines(mappings.as_deref().unwrap_or_default())).at("write", &path)?;
    }
    Ok(())
}

/// Gives the terminal's master to whoever is to have it.
pub(crate) fn hand_over(terminal: Option<OwnedFd>, console: Option<&Path>) -> Result<Option<OwnedFd>, Error> {
    match (terminal, console) {
        (Some(master), Some(console)) => {
            handshake::send_console(console, master.as_fd())?;
            Ok(None)
        }
        (terminal, None) => Ok(terminal),
        (None, Some(_)) => Err(no_terminal()),
    }
}

pub(crate) fn no_terminal() -> Error {
    Error::invalid("console-socket", "the process has no terminal (process.terminal)")
}
