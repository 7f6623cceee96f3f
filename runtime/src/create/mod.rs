//! create: from the configuration to a process that waits at the gate.

mod accompany;
mod plan;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::cgroups::{Below, Cgroups, Holder, Layout, Lenience, Place, UnitPlan};
use crate::child::Child;
use crate::error::{Context, Error, Failure};
use crate::handshake::{self, CallerEnd, Gate, Go};
use crate::identity::ProcessStat;
use crate::init::{self, InitPlan};
use crate::options::{CreateOptions, Created};
use crate::process::check_preserved;
use crate::resctrl::Resctrl;
use crate::start::Held;
use crate::store::{self, Folder, Record};
use crate::terminal::{hand_over, no_terminal};
use crate::user_namespace::hinder;
use crate::{Runtime, config, document, mounts, sys, user_namespace, validate};
use accompany::accompany;
pub(crate) use accompany::run_create_hooks;

/// A configuration that was read and checked, with what belongs to it.
pub(crate) struct Checked {
    pub(crate) spec: Spec,
    pub(crate) config: Vec<u8>,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
}

impl Runtime {
    /// Makes a container and leaves its process waiting, before its program is executed. When it fails,
    /// nothing of the container is left.
    pub fn create(&self, opts: CreateOptions) -> Result<Created, Error> {
        let (created, held) = self.make(opts, false)?;
        drop(held);
        Ok(created)
    }

    /// As [`Runtime::create`], for a caller that goes on with [`Runtime::start_held`] itself.
    pub fn create_held(&self, opts: CreateOptions) -> Result<(Created, Held), Error> {
        self.make(opts, true)
    }

    fn make(&self, opts: CreateOptions, to_hold: bool) -> Result<(Created, Held), Error> {
        store::check_id(&opts.id)?;
        check_preserved(opts.listen_fds.saturating_add(opts.preserve_fds))?;
        let checked = self.read(&opts)?;
        let folder = Folder::create(self.root(), &opts.id)?;
        let mut record = Record::new(&opts.id, checked.bundle.clone(), checked.rootfs.clone(), &checked.spec);
        match self.create_in(&folder, &mut record, opts, &checked, to_hold) {
            Ok((created, caller)) => {
                let hooks = checked.spec.hooks().clone();
                Ok((created, Held { record, hooks, caller }))
            }
            Err(error) => Err(match self.clean_up(folder, &record, &checked.spec) {
                Ok(()) => error,
                Err(failure) => Error::Unclean { error: Box::new(error), cleanup: failure.to_string() },
            }),
        }
    }

    pub(crate) fn read(&self, opts: &CreateOptions) -> Result<Checked, Error> {
        let bundle = std::fs::canonicalize(&opts.bundle).at("open bundle", opts.bundle.display())?;
        let (mut spec, config) = if let Some(spec) = &opts.spec {
            let config = serde_json::to_vec(spec).map_err(|error| Error::invalid("spec", error.to_string()))?;
            (spec.clone(), config)
        } else {
            let path = bundle.join("config.json");
            let config = document::read_regular(&path)?;
            let (spec, unknown) = config::parse_spec(&config, &path)?;
            self.warn_of_capabilities(&unknown);
            (spec, config)
        };
        let rootfs = bundle.join(spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path()));
        for relative in config::resolve_destinations(&mut spec, &rootfs) {
            (self.warn)(&format!(
                "mounts[{}]: the destination is not absolute, which is deprecated",
                relative.display()
            ));
        }
        validate::check(&spec)?;
        check_console(opts, &spec)?;
        user_namespace::check(&spec)?;
        Ok(Checked { spec, config, bundle, rootfs })
    }

    fn create_in(
        &self,
        folder: &Folder,
        record: &mut Record,
        opts: CreateOptions,
        checked: &Checked,
        to_hold: bool,
    ) -> Result<(Created, CallerEnd), Error> {
        let spec = &checked.spec;
        let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("linux", "it is missing"))?;
        let resources = linux.resources().as_ref();
        let layout = self.cgroup_layout()?;
        record.resctrl = Resctrl::plan(linux, &opts.id)?;
        let pid_file = opts.pid_file.clone();
        let (console, pidfd_socket) = (opts.console_socket.clone(), opts.pidfd_socket.clone());
        let (by_systemd, rootless) = (opts.systemd_cgroup, opts.rootless);
        self.tell_step(|| format!("container {:?}, root filesystem {}", opts.id, checked.rootfs.display()));
        let (caller, process) = handshake::pair()?;
        let mut plan = plan::plan(self, record, opts, checked, linux, process)?;
        plan.gate = (!to_hold).then(|| Gate::new(folder.as_fd())).transpose()?;
        let in_new_user = plan.namespaces.has_new_user();
        if in_new_user {
            plan.process.give_pipes(linux.uid_mappings().as_deref().unwrap_or_default());
        }
        record.own_pid_namespace = plan.namespaces.has_own_pid();
        // From here on things are made: first the record of what will have to be removed.
        let mut holder = None;
        if by_systemd {
            let unit = UnitPlan::new(spec, linux, &record.id, layout)?;
            holder = Some(start_unit(folder, record, &unit, layout, resources)?);
        } else {
            let place = Place::new(linux.cgroups_path().as_deref(), &record.id)?;
            let lenience = Lenience::new(rootless, linux.cgroups_path().as_deref());
            record.cgroups = Cgroups::plan(layout, &place, resources, lenience)?;
            record.place = place.of_caller();
            folder.write_record(record)?;
            plan.cgroups.lent = record.cgroups.create(resources, lenience)?;
            if !plan.cgroups.lent.0.is_empty() {
                folder.write_record(record)?;
            }
        }
        // Says, by being there, that the cgroups are ours.
        folder.write_config(&checked.config)?;
        if let (Some(resctrl), Some(wanted)) = (&record.resctrl, linux.intel_rdt()) {
            resctrl.make(wanted)?;
        }
        self.tell_step(|| format!("in {}", record.cgroups));
        if record.cgroups.0.is_empty() && !record.own_pid_namespace {
            (self.warn)(
                "a container with neither a cgroup nor a process namespace of its own: processes that its own ones \
                 leave behind cannot be found and killed",
            );
        }
        mounts::prepare_idmapped(&mut plan.mounts, linux)?;
        mounts::open_sources(&mut plan.mounts, linux)?;
        plan.cgroups.own = record.cgroups.clone();
        plan.entrance = record.entrance(&Below::default())?;
        let mut child = clone(&mut plan)?;
        let pid = child.pid;
        self.tell_step(|| format!("process {pid} makes its namespaces and mounts"));
        drop(plan);
        // A limit of one process is one without the unit's holder.
        let held = holder.map(drop);
        let limited = match &record.unit {
            Some(unit) if held.is_some() => record.cgroups.limit_unit(unit, resources),
            _ => Ok(()),
        };
        if limited.is_err() && handshake::wait_readable(child.pidfd()?, 0).unwrap_or(false) {
            // The unit went with the process, which may have said why it ended.
            accompany(&mut child, &caller, record, spec, linux, false)?;
        }
        limited?;
        if let Some(path) = pidfd_socket {
            handshake::send_pidfd(&path, "standard", child.pidfd()?)?;
        }
        let terminal = accompany(&mut child, &caller, record, spec, linux, in_new_user)?;
        let terminal = hand_over(terminal, console.as_deref())?;

        record.pid = child.pid.as_raw();
        record.start_time = ProcessStat::read(record.pid).map_or(0, |stat| stat.start_time);
        folder.write_record(record)?;
        if let Some(path) = pid_file {
            store::publish(&path, record.pid.to_string().as_bytes())?;
        }
        if !to_hold {
            caller.tell(Go::Recorded)?;
        }
        self.tell_step(|| format!("process {pid} waits for start"));
        let pidfd = child.keep().ok_or_else(|| Error::InitDied("went away".to_owned()))?;
        Ok((Created { pid, pidfd, terminal, own_pid_namespace: record.own_pid_namespace }, caller))
    }

    /// Undoes a create that failed; the process is gone already. As after any other life of a container its
    /// poststop hooks are run, if anything was made for it (OCI runtime specification, "Lifecycle").
    pub(crate) fn clean_up(&self, folder: Folder, record: &Record, spec: &Spec) -> Result<(), Failure> {
        folder.release_groups(record)?;
        // The record goes last, and only when there is nothing left that it would be needed for.
        let hooks = spec.hooks().as_ref().filter(|_| folder.has_record());
        self.remove(folder, record, hooks)
    }
}

/// Has systemd make the container's unit, and makes what groups that has not.
pub(crate) fn start_unit(
    folder: &Folder,
    record: &mut Record,
    plan: &UnitPlan,
    layout: &Layout,
    resources: Option<&LinuxResources>,
) -> Result<Holder, Error> {
    let mut unit = plan.unit().clone();
    record.unit = Some(unit.clone());
    folder.write_record(record)?;
    let holder = plan.start()?;
    let (cgroups, made) = Cgroups::plan_in_unit(layout, &plan.find(&holder)?, resources)?;
    unit.identify(&cgroups)?;
    (record.cgroups, record.unit) = (cgroups, Some(unit.clone()));
    folder.write_record(record)?;
    record.cgroups.complete(made)?;
    unit.admit_caller(&record.cgroups)?;
    Ok(holder)
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

/// Clones the container's first process, which goes its own way; here it ends with the value.
fn clone(plan: &mut InitPlan) -> Result<Child, Error> {
    let guard = plan.namespaces.for_children()?;
    let object = "the container's process";
    if plan.namespaces.goes_ahead() {
        // Its new namespaces are to belong to a user namespace that is there already, or the caller could not come
        // back from where it goes.
        let fork = |plan: &InitPlan| sys::clone_process(0, plan.entrance.unified());
        let cloned = user_namespace::clone_ahead(plan, fork, plan.namespaces.clone, init::go_ahead, init::run);
        drop(guard);
        return cloned.at("clone", object)?.map(|(pid, pidfd)| Child::new(pid, pidfd));
    }
    let cloned = sys::clone_process(plan.namespaces.clone, plan.entrance.unified());
    match cloned.at("clone", object).map_err(|failure| why_not_cloned(failure, plan))? {
        Some((pid, pidfd)) => {
            drop(guard);
            Ok(Child::new(pid, pidfd))
        }
        None => init::run(plan),
    }
}

fn why_not_cloned(failure: Failure, plan: &InitPlan) -> Failure {
    // Only a group can be closed to who makes a process in it.
    if failure.errno == Errno::EACCES as i32 && plan.entrance.unified().is_some() {
        return failure.note(
            "its cgroup: the caller must be in a cgroup below one that is delegated to the user, and the container's \
             too",
        );
    }
    if plan.namespaces.has_new_user() { hinder(failure) } else { failure }
}
