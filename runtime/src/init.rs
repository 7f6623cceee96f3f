//! The container's first process, from the clone to the program: a list of steps.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Hooks;

use crate::cgroups::Entrance;
use crate::devices::{self, Node};
use crate::error::{Context, Failure};
use crate::handshake::{Gate, Go, ProcessEnd, Report};
use crate::hooks;
use crate::inherited;
use crate::mounts::{self, CgroupView, LateReadOnly, PlannedMount};
use crate::namespaces::Namespaces;
use crate::path::Root;
use crate::process::ProcessPlan;
use crate::procfs::ProcFs;
use crate::rootfs;
use crate::schedule;
use crate::status::{State, Status};
use crate::sys::{self, ns};
use crate::user_namespace;

/// All that the first process needs, prepared and checked by its parent.
#[derive(Debug)]
pub(crate) struct InitPlan {
    pub(crate) process: ProcessPlan,
    pub(crate) namespaces: Namespaces,
    /// Whether an ordinary user looks after the process, who may look into none that is closed: it is in a new
    /// user namespace, joins nothing of others, and is mapped and entered by that user.
    pub(crate) open: bool,
    pub(crate) entrance: Entrance,
    pub(crate) cgroups: CgroupView,
    pub(crate) rootfs: PathBuf,
    pub(crate) detached: Option<OwnedFd>,
    pub(crate) read_only: bool,
    pub(crate) no_pivot: bool,
    pub(crate) propagation: Option<(u64, bool)>,
    pub(crate) mounts: Vec<PlannedMount>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) masked: Vec<String>,
    pub(crate) protected: Vec<String>,
    pub(crate) sysctl: Vec<(String, String)>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    /// Whether network devices come from the caller.
    pub(crate) net_devices: bool,
    pub(crate) hooks: Hooks,
    /// For the hooks that run in here.
    pub(crate) state: State,
    /// Where it waits for its start; nowhere if its caller starts it.
    pub(crate) gate: Option<Gate>,
    pub(crate) caller: ProcessEnd,
}

impl InitPlan {
    fn fds(&self) -> Vec<RawFd> {
        let mut fds = vec![self.caller.as_fd().as_raw_fd()];
        fds.extend(self.gate.iter().map(|gate| gate.as_fd().as_raw_fd()));
        fds.extend(self.entrance.fds());
        fds.extend(self.namespaces.fds().map(AsRawFd::as_raw_fd));
        fds.extend(self.detached.iter().map(AsRawFd::as_raw_fd));
        fds.extend(self.mounts.iter().filter_map(PlannedMount::fd).map(AsRawFd::as_raw_fd));
        fds
    }

    /// Whether somebody has to do something between the mounts and pivot_root.
    pub(crate) fn has_early_hooks(hooks: &Hooks) -> bool {
        #[allow(deprecated)]
        let prestart = hooks.prestart();
        [prestart, hooks.create_runtime(), hooks.create_container()].into_iter().flatten().any(|list| !list.is_empty())
    }
}

/// Runs in the clone and does not return.
pub(crate) fn run(plan: &mut InitPlan) -> ! {
    match set_up(plan) {
        Ok(terminal) => finish(plan, terminal),
        Err(failure) => {
            let _ = plan.caller.report(&Report::Failed(failure), None);
            sys::exit_now(1)
        }
    }
}

/// What a process does that goes ahead into a user namespace which is there already.
pub(crate) fn go_ahead(plan: &mut InitPlan) -> Result<(), Failure> {
    plan.process.take_from_host(&ProcFs::open()?)?;
    sys::set_dumpable(false).at("protect", "the new process")?;
    plan.namespaces.go_ahead()
}

/// Everything up to the gate; returns the terminal's master.
fn set_up(plan: &mut InitPlan) -> Result<Option<OwnedFd>, Failure> {
    plan.process.begin(plan.fds(), plan.open)?;
    let proc = ProcFs::open()?;
    plan.entrance.enter()?;
    schedule::leave_callers_cpus();
    enter_namespaces(plan, &proc)?;
    if !plan.namespaces.has_new_user() && !plan.namespaces.joins_user() {
        plan.process.set_oom_score(&proc)?;
    }
    set_names(plan)?;
    rootfs::isolate(plan.propagation, &plan.rootfs)?;
    let root = rootfs::attach(&plan.rootfs, plan.detached.take())?;
    let late = mount_all(plan, &root)?;
    let terminal = plan.process.open_terminal(&root, true)?;
    set_sysctls(plan, &proc)?;
    mounts::protect_paths(&root, &plan.protected)?;
    mounts::mask_paths(&root, &plan.masked)?;
    late.apply()?;
    run_early_hooks(plan, &root)?;
    if plan.read_only {
        rootfs::make_read_only(&root)?;
    }
    match &plan.namespaces.mounts_of_caller {
        Some(host) => inherited::go_back(&root, host)?,
        None if plan.no_pivot => rootfs::move_over(&root, &plan.rootfs, plan.propagation)?,
        None => rootfs::pivot(&root, plan.propagation)?,
    }
    drop(root);
    plan.entrance = Entrance::default();
    plan.namespaces = Namespaces::default();
    plan.process.settle(&proc, &plan.caller)?;
    if plan.open {
        // A change of the user closed it.
        sys::set_dumpable(true).at("open", "the new process")?;
    }
    Ok(terminal)
}

fn enter_namespaces(plan: &InitPlan, proc: &ProcFs) -> Result<(), Failure> {
    if plan.namespaces.has_new_user() {
        plan.caller.wait_for(Go::Mapped)?;
    }
    plan.namespaces.join()?;
    if plan.namespaces.has_new_user() || plan.namespaces.joins_user() {
        user_namespace::become_root(proc)?;
        plan.namespaces.make_late()?;
        if !plan.open {
            sys::set_dumpable(false).at("protect", "the new process")?;
        }
    }
    if plan.net_devices {
        plan.caller.wait_for(Go::Equipped)?;
    }
    if plan.namespaces.has_new_network() {
        // Of a network of its own this is all that a container has to begin with; the peers set it up too.
        sys::raise_loopback().at("set up", "the loopback device")?;
    }
    if plan.namespaces.new_cgroup {
        sys::unshare(ns::CGROUP).at("make", "cgroup namespace")?;
    }
    Ok(())
}

fn set_names(plan: &InitPlan) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name).at("set hostname", name)?;
    }
    if let Some(name) = &plan.domainname {
        sys::set_domainname(name).at("set domainname", name)?;
    }
    Ok(())
}

fn mount_all(plan: &InitPlan, root: &Root) -> Result<LateReadOnly, Failure> {
    let mut late = LateReadOnly::default();
    for mount in &plan.mounts {
        mounts::mount(root, mount, &plan.cgroups, &mut late)?;
    }
    // A /dev that is bound from elsewhere has what its owner put there.
    let foreign_dev = plan.mounts.iter().any(|mount| mount.is_bind() && mount.destination() == Path::new("/dev"));
    if !foreign_dev {
        devices::make(root, &plan.nodes)?;
    }
    let cwd = plan.process.cwd();
    if cwd != Path::new("/") {
        // A read-only root without the folder, or a path through `..` or a file: chdir has the last word.
        let _ = root.make_dir_all(cwd);
    }
    Ok(late)
}

fn set_sysctls(plan: &InitPlan, proc: &ProcFs) -> Result<(), Failure> {
    for (name, value) in &plan.sysctl {
        proc.write(&format!("sys/{}", name.replace('.', "/")), value)?;
    }
    Ok(())
}

fn run_early_hooks(plan: &InitPlan, root: &Root) -> Result<(), Failure> {
    if !InitPlan::has_early_hooks(&plan.hooks) {
        return Ok(());
    }
    plan.caller.report(&Report::MountsReady, None)?;
    plan.caller.wait_for(Go::HooksDone)?;
    // As in runc, these begin in the container's root, which is not `/` yet, and the host's environment is not for them.
    nix::unistd::fchdir(root).at("chdir to", "rootfs")?;
    hooks::run("createContainer", plan.hooks.create_container().as_ref(), &hooks::inside(&plan.state), Some(&[]))
}

/// Reports, waits for its start, and becomes the program.
fn finish(plan: &InitPlan, terminal: Option<OwnedFd>) -> ! {
    let opened = plan.caller.report(&Report::Ready, terminal.as_ref().map(AsFd::as_fd)).and_then(|()| {
        drop(terminal);
        match &plan.gate {
            Some(gate) => gate.wait(&plan.caller).map(Some),
            None => plan.caller.wait_for(Go::Start).map(|()| None),
        }
    });
    let Ok(knocked) = opened else { sys::exit_now(1) };
    let starter = knocked.as_ref().unwrap_or(&plan.caller);
    let state = State { status: Status::Created, ..hooks::inside(&plan.state) };
    let failure =
        match hooks::run("startContainer", plan.hooks.start_container().as_ref(), &state, Some(plan.process.env())) {
            Ok(()) => plan.process.execute(),
            Err(failure) => failure,
        };
    let _ = starter.report(&Report::Failed(failure), None);
    sys::exit_now(1)
}
