//! exec: another process in a container that runs.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use crate::cgroups::{Below, Entrance};
use crate::child::Child;
use crate::error::{Context, Error, Failure};
use crate::handshake::{self, CallerEnd, Go, Patience, ProcessEnd, Report};
use crate::identity::open_process;
use crate::namespaces::ChildNamespaces;
use crate::options::{ExecOptions, Started};
use crate::path::Root;
use crate::process::{ProcessPlan, ProcessRequest, check_preserved};
use crate::procfs::ProcFs;
use crate::schedule::{self, Cpus, ExecCpus};
use crate::seccomp::Listener;
use crate::status::{State, Status};
use crate::store::{self, Edition, Record};
use crate::sys::{self, ns};
use crate::{Runtime, inherited, lifecycle, terminal, user_namespace, validate};

struct ExecPlan {
    process: ProcessPlan,
    entrance: Entrance,
    /// Whether it may begin where the container's first process is, when it cannot in the container's own group.
    follow_init: bool,
    /// The container's first process, whose namespaces are joined, and which of them.
    init: OwnedFd,
    namespaces: u64,
    /// The root of that process, when the container has no mount namespace whose root it would be.
    root: Option<OwnedFd>,
    /// Whether one of them is a user namespace.
    enters_user: bool,
    cpus: ExecCpus,
    caller: ProcessEnd,
    raw_output: bool,
}

impl Runtime {
    /// Starts another process in a container; when it returns the program runs.
    pub fn exec(&self, id: &str, opts: ExecOptions) -> Result<Started, Error> {
        validate::check_process(&opts.process)?;
        check_preserved(opts.preserve_fds)?;
        if opts.console_socket.is_some() && opts.process.terminal() != Some(true) {
            return Err(terminal::no_terminal());
        }
        let (record, edition, status) = self.alive_edition(id, "exec in")?;
        if status == Status::Paused && !opts.ignore_paused {
            return Err(Error::WrongStatus { verb: "exec in", id: id.to_owned(), status });
        }
        let config = store::read_config(&self.folder(id), &record)?;
        let init = open_process(record.pid, record.start_time).ok_or_else(|| Error::NotRunning(id.to_owned()))?;
        let (console, pid_file, pidfd_socket) =
            (opts.console_socket.clone(), opts.pid_file.clone(), opts.pidfd_socket.clone());
        // Frozen like the container, it says nothing until somebody resumes that.
        let silence = (!opts.ignore_paused).then_some(Duration::ZERO);
        let (caller, process) = handshake::pair()?;
        let mut plan = self.plan_exec(&record, &config, opts, init, process)?;
        if let Some(unit) = &record.unit {
            unit.admit_caller(&record.cgroups)?;
        }
        let (pid, pidfd) = clone(&record, &mut plan)?;
        self.tell_step(|| {
            format!("process {pid} enters {} and the namespaces of process {}", record.cgroups, record.pid)
        });
        let mut child = Child::new(pid, pidfd);
        drop(plan);
        if let Some(path) = pidfd_socket {
            handshake::send_pidfd(&path, "setns", child.pidfd()?)?;
        }
        let patience = Patience::new(child.pid.as_raw(), silence);
        let terminal = accompany(&mut child, patience, &caller, &record, &config, console.as_deref())?;
        self.tell_step(|| "the program runs".to_owned());
        self.catch_up(id, &record, edition)?;
        if let Some(path) = pid_file {
            store::publish(&path, pid.to_string().as_bytes())?;
        }
        child
            .keep()
            .map(|pidfd| Started { pid, pidfd, terminal })
            .ok_or_else(|| Error::InitDied("went away".to_owned()))
    }

    /// Moves the new process to groups that an update made since the record was read: it may have looked for the
    /// container's processes before this one was there. A lock would make each wait for the other.
    fn catch_up(&self, id: &str, record: &Record, edition: Edition) -> Result<(), Error> {
        if !record.cgroups.can_grow() || edition.is_current(&self.folder(id)) {
            return Ok(());
        }
        match self.record(id) {
            Ok(now) if now.start_time == record.start_time => Ok(now.cgroups.join_beyond(&record.cgroups)?),
            // It was deleted, with all of its processes.
            _ => Ok(()),
        }
    }

    fn plan_exec(
        &self,
        record: &Record,
        config: &Spec,
        opts: ExecOptions,
        init: OwnedFd,
        caller: ProcessEnd,
    ) -> Result<ExecPlan, Error> {
        let linux = config.linux().as_ref();
        let request = ProcessRequest {
            id: &record.id,
            process: &opts.process,
            seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
            personality: linux.and_then(|linux| linux.personality().as_ref()),
            memory_policy: linux.and_then(|linux| linux.memory_policy().as_ref()),
            stdio: opts.stdio,
            preserve_fds: opts.preserve_fds,
            listen_fds: 0,
            new_keyring: !opts.no_new_keyring,
            // Here execve tells it as soon.
            find_program: false,
        };
        let process = ProcessPlan::new(request, self.warn)?;
        let below = Below::plan(opts.cgroup.as_deref(), &opts.controller_cgroups)?;
        let root = match linux {
            Some(linux) if inherited::has_mounts_of_host(linux) => Some(inherited::root_of(record.pid, &init)?),
            _ => None,
        };
        let namespaces = other_namespaces(record.pid)?;
        Ok(ExecPlan {
            process,
            root,
            follow_init: opts.cgroup.is_none(),
            entrance: record.entrance(&below)?,
            init,
            namespaces,
            enters_user: namespaces & ns::USER != 0,
            cpus: schedule::exec_cpus(opts.process.exec_cpu_affinity().as_ref())?,
            caller,
            raw_output: opts.raw_output,
        })
    }
}

/// Listens to the new process until it executed its program.
fn accompany(
    child: &mut Child,
    mut patience: Patience,
    caller: &CallerEnd,
    record: &Record,
    config: &Spec,
    console: Option<&Path>,
) -> Result<Option<OwnedFd>, Error> {
    let terminal = loop {
        match caller.report(&mut patience)? {
            Some((Report::Ready, master)) => break terminal::hand_over(master, console)?,
            Some((Report::Listener, Some(filter))) => {
                listen(&filter, child.pid, record, config)?;
                caller.tell(Go::Listened)?;
            }
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            Some((report, _)) => return Err(unexpected(&report)),
            None => return Err(Error::InitDied(child.fate())),
        }
    };
    match caller.report(&mut patience)? {
        None => Ok(terminal),
        Some((Report::Failed(failure), _)) => Err(failure.into()),
        Some((report, _)) => Err(unexpected(&report)),
    }
}

/// Hands a filter that asks somebody to its listener.
fn listen(filter: &OwnedFd, pid: nix::unistd::Pid, record: &Record, config: &Spec) -> Result<(), Error> {
    let seccomp = config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    match seccomp.map(Listener::plan).transpose()?.flatten() {
        Some(listener) => Ok(listener.tell(filter, pid.as_raw(), &State::of(record, lifecycle::status(record)))?),
        None => Err(unexpected(&Report::Listener)),
    }
}

fn unexpected(report: &Report) -> Error {
    Failure::refused("exec", "", format!("unexpected report {report:?}")).into()
}

/// The namespaces of a process that are not the caller's own. The process namespace is not among them: the
/// caller joins that one for its child.
fn other_namespaces(pid: i32) -> Result<u64, Failure> {
    const ALL: [(&str, u64); 7] = [
        ("user", ns::USER),
        ("mnt", ns::MOUNT),
        ("net", ns::NET),
        ("ipc", ns::IPC),
        ("uts", ns::UTS),
        ("cgroup", ns::CGROUP),
        ("time", ns::TIME),
    ];
    let mut flags = 0;
    for (name, flag) in ALL {
        if !is_own(pid, name)? {
            flags |= flag;
        }
    }
    Ok(flags)
}

fn is_own(pid: i32, name: &str) -> Result<bool, Failure> {
    use std::os::unix::fs::MetadataExt;
    let identity = |who: &str| {
        let path = format!("/proc/{who}/ns/{name}");
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
            // A kernel that has no such namespaces.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && who == "self" => Ok(None),
            Err(error) => Err(error).at("open namespace", path),
        }
    };
    match identity("self")? {
        None => Ok(true),
        own => Ok(own == identity(&pid.to_string())?),
    }
}

fn clone(record: &Record, plan: &mut ExecPlan) -> Result<(nix::unistd::Pid, OwnedFd), Error> {
    let mut guard = None;
    // Whether the process namespace is closed to the caller, and open to root of the user namespace.
    let mut closed = false;
    if !is_own(record.pid, "pid")? {
        let path = format!("/proc/{}/ns/pid", record.pid);
        let namespace = File::open(&path).at("open namespace", path)?;
        match ChildNamespaces::join_pid(&namespace.into()) {
            Err(failure) if failure.errno == Errno::EPERM as i32 && plan.enters_user => closed = true,
            joined => guard = Some(joined?),
        }
    }
    let cpus = plan.cpus.initial.as_ref().map(Cpus::lend).transpose()?;
    if closed {
        return clone_closed(record, plan);
    }
    let mut cloned = sys::clone_process(0, plan.entrance.unified());
    if plan.follow_init && matches!(cloned, Err(Errno::EBUSY)) {
        // A group of version 2 that has handed its controllers to groups below takes no process any more: the
        // container manages cgroups itself, as systemd does. Where it has put its first process there is room.
        plan.entrance.unify(&record.cgroups.unified_group_of(record.pid)?)?;
        cloned = sys::clone_process(0, plan.entrance.unified());
    }
    match cloned.at("clone", "a process for the container")? {
        Some(child) => {
            drop((guard, cpus));
            Ok(child)
        }
        None => run(plan),
    }
}

/// Clones a process for a container that only root of its user namespace may enter, as an ordinary user is.
fn clone_closed(record: &Record, plan: &mut ExecPlan) -> Result<(nix::unistd::Pid, OwnedFd), Error> {
    let enter = |plan: &mut ExecPlan| {
        plan.process.take_from_host(&ProcFs::open()?)?;
        sys::set_dumpable(false).at("protect", "the new process")?;
        plan.namespaces &= !ns::USER;
        sys::setns(&plan.init, ns::USER | ns::PID).at("join", "the container's user and process namespaces")
    };
    let fork = |plan: &ExecPlan| sys::clone_process(0, plan.entrance.unified());
    let mut cloned = user_namespace::clone_ahead(plan, fork, 0, enter, run);
    if plan.follow_init && matches!(cloned, Err(Errno::EBUSY)) {
        plan.entrance.unify(&record.cgroups.unified_group_of(record.pid)?)?;
        cloned = user_namespace::clone_ahead(plan, fork, 0, enter, run);
    }
    cloned.at("clone", "a process for the container")?
}

/// Runs in the clone and does not return.
fn run(plan: &mut ExecPlan) -> ! {
    let failure = match set_up(plan) {
        Ok(()) => plan.process.execute(),
        Err(failure) => failure,
    };
    let _ = plan.caller.report(&Report::Failed(failure), None);
    sys::exit_now(1)
}

fn set_up(plan: &mut ExecPlan) -> Result<(), Failure> {
    let mut keep = vec![plan.init.as_raw_fd(), plan.caller.as_fd().as_raw_fd()];
    keep.extend(plan.entrance.fds());
    keep.extend(plan.root.iter().map(AsRawFd::as_raw_fd));
    plan.process.begin(keep, false)?;
    let proc = ProcFs::open()?;
    plan.entrance.enter()?;
    match &plan.cpus {
        ExecCpus { last: Some(cpus), .. } => cpus.apply()?,
        ExecCpus { initial: None, .. } => schedule::leave_callers_cpus(),
        ExecCpus { .. } => (),
    }
    if !plan.enters_user {
        plan.process.set_oom_score(&proc)?;
    } else if plan.namespaces & ns::USER != 0 {
        // Else who went ahead did it.
        plan.process.take_from_host(&proc)?;
    }
    if plan.namespaces != 0 {
        sys::setns(&plan.init, plan.namespaces).at("join", "the container's namespaces")?;
    }
    if plan.enters_user {
        user_namespace::become_root(&proc)?;
        sys::set_dumpable(false).at("protect", "the new process")?;
    }
    if let Some(root) = plan.root.take() {
        inherited::enter(&root)?;
    }
    let terminal = open_terminal(plan)?;
    plan.process.settle(&proc, &plan.caller)?;
    plan.caller.report(&Report::Ready, terminal.as_ref().map(AsFd::as_fd))
}

fn open_terminal(plan: &mut ExecPlan) -> Result<Option<OwnedFd>, Failure> {
    if !plan.process.wants_terminal() {
        return Ok(None);
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(Path::new("/"), flags, Mode::empty()).at("open", "/")?;
    let master = plan.process.open_terminal(&Root::new(root), false)?;
    if let (true, Some(master)) = (plan.raw_output, &master) {
        terminal::pass_output_raw(master).at("set", "terminal")?;
    }
    Ok(master)
}
