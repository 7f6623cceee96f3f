//! Which namespaces a container makes and which it joins (namespaces(7)).

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxTimeOffset};

use crate::error::{Context, Error, Failure};
use crate::inherited;
use crate::sys::{self, ns};
use crate::user_namespace::Caller;

/// The namespaces of a new process.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Made by clone3.
    pub(crate) clone: u64,
    /// Made by the process itself, after it is in its cgroup: its group is the root of what it sees.
    pub(crate) new_cgroup: bool,
    /// The user namespace that is joined, before the others are made: it is to own them.
    pub(crate) user: Option<OwnedFd>,
    /// The caller's mount namespace, when the container is to have that: the process goes back there when it has
    /// mounted everything in the one made by clone3.
    pub(crate) mounts_of_caller: Option<OwnedFd>,
    /// Joined by the process, in this order.
    joined: Vec<(u64, OwnedFd)>,
    /// Joined by the caller for its child, since processes do not change these namespaces themselves.
    pid: Option<OwnedFd>,
    time: Option<OwnedFd>,
    /// Set in a time namespace before anything runs in it.
    time_offsets: Vec<String>,
    /// Whether the new process makes its time namespace itself, being allowed to as root of its user namespace.
    late_time: bool,
    /// The same of its IPC namespace: the root of its mqueue belongs to who makes it.
    late_ipc: bool,
}

pub(crate) fn flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => ns::MOUNT,
        LinuxNamespaceType::Cgroup => ns::CGROUP,
        LinuxNamespaceType::Uts => ns::UTS,
        LinuxNamespaceType::Ipc => ns::IPC,
        LinuxNamespaceType::User => ns::USER,
        LinuxNamespaceType::Pid => ns::PID,
        LinuxNamespaceType::Network => ns::NET,
        LinuxNamespaceType::Time => ns::TIME,
    }
}

impl Namespaces {
    /// Opens what is joined.
    pub(crate) fn plan(linux: &Linux) -> Result<Namespaces, Error> {
        let mut plan = Namespaces::default();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = flag(namespace.typ());
            let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
            match (kind, path) {
                (ns::CGROUP, None) => plan.new_cgroup = true,
                (ns::PID, Some(path)) => plan.pid = Some(open(path)?),
                (ns::USER, Some(path)) => plan.user = Some(open(path)?),
                (ns::TIME, Some(path)) => plan.time = Some(open(path)?),
                (kind, Some(path)) => {
                    let namespace = open(path)?;
                    if kind == ns::MOUNT {
                        inherited::check_joined(&namespace)?;
                    }
                    plan.joined.push((kind, namespace));
                }
                (kind, None) => plan.clone |= kind,
            }
        }
        if inherited::has_mounts_of_host(linux) {
            plan.mounts_of_caller = Some(inherited::mounts_of_caller()?);
            plan.clone |= ns::MOUNT;
        }
        plan.time_offsets = offsets(linux.time_offsets().as_ref())?;
        // The mount namespace changes what paths mean.
        if let Some(at) = plan.joined.iter().position(|(kind, _)| *kind == ns::MOUNT) {
            let mounts = plan.joined.remove(at);
            plan.joined.push(mounts);
        }
        Ok(plan)
    }

    /// Whether the container's first process is the first of its process namespace.
    pub(crate) fn has_own_pid(&self) -> bool {
        self.clone & ns::PID != 0
    }

    /// Whether the new process waits for its ids to be mapped.
    pub(crate) fn has_new_user(&self) -> bool {
        self.clone & ns::USER != 0
    }

    /// Whether a process is put into namespaces of others before or while it becomes the container's.
    pub(crate) fn joins_any(&self) -> bool {
        self.fds().next().is_some()
    }

    pub(crate) fn has_new_network(&self) -> bool {
        self.clone & ns::NET != 0
    }

    /// Puts the caller's children into the process and time namespaces, until the guard goes.
    ///
    /// With a user namespace, what belongs to that one and is closed to the caller is left to its root: to the
    /// process that goes ahead, and to the new process.
    pub(crate) fn for_children(&mut self) -> Result<ChildNamespaces, Failure> {
        let mut guard = ChildNamespaces::default();
        self.late_ipc = self.clone & ns::IPC != 0 && (self.has_new_user() || self.joins_user());
        if self.late_ipc {
            self.clone &= !ns::IPC;
        }
        if self.has_new_user() {
            self.join_early(&mut guard)?;
        }
        if let Some(pid) = self.pid.take() {
            match join_for_a_while(&pid, ns::PID, "pid")? {
                Joined::Until(back) => guard.pid = Some(back),
                Joined::NoWayBack if self.has_new_user() => return Err(no_way_back(ns::PID)),
                // For the process that goes ahead, which does not come back.
                Joined::NoWayBack => self.pid = Some(pid),
                Joined::NotAllowed if self.joins_user() => self.pid = Some(pid),
                Joined::NotAllowed => return Err(Failure::new("join", name(ns::PID), Errno::EPERM)),
            }
        }
        if let Some(time) = self.time.take() {
            match join_for_a_while(&time, ns::TIME, "time")? {
                Joined::Until(back) => guard.time = Some(back),
                Joined::NoWayBack if self.has_new_user() => return Err(no_way_back(ns::TIME)),
                Joined::NoWayBack => self.joined.insert(0, (ns::TIME, time)),
                Joined::NotAllowed if self.joins_user() => self.joined.insert(0, (ns::TIME, time)),
                Joined::NotAllowed => return Err(Failure::new("join", name(ns::TIME), Errno::EPERM)),
            }
        }
        if self.clone & ns::TIME != 0 && !self.time_offsets.is_empty() {
            self.clone &= !ns::TIME;
            let back = own("time")?;
            match sys::unshare(ns::TIME) {
                Err(Errno::EPERM) if self.joins_user() || self.has_new_user() => self.late_time = true,
                result => {
                    result.at("make", "time namespace")?;
                    guard.time = Some(back);
                    self.set_time_offsets()?;
                }
            }
        }
        Ok(guard)
    }

    /// Joins what the caller may join and root of a new user namespace may not: what belongs to the user namespace
    /// of the caller. The new process is born there.
    fn join_early(&mut self, guard: &mut ChildNamespaces) -> Result<(), Failure> {
        for (kind, namespace) in std::mem::take(&mut self.joined) {
            let file = match kind {
                ns::NET => "net",
                ns::IPC => "ipc",
                ns::UTS => "uts",
                // The others change what paths mean to the caller, or where it is for others.
                _ => {
                    self.joined.push((kind, namespace));
                    continue;
                }
            };
            match join_for_a_while(&namespace, kind, file)? {
                Joined::Until(back) => guard.others.push((kind, back)),
                Joined::NotAllowed => self.joined.push((kind, namespace)),
                Joined::NoWayBack => return Err(no_way_back(kind)),
            }
        }
        Ok(())
    }

    fn set_time_offsets(&self) -> Result<(), Failure> {
        let path = "/proc/self/timens_offsets";
        std::fs::write(path, self.time_offsets.concat()).at("write", path)
    }

    /// Joins the user namespace, and the process namespace for children if the caller could not.
    pub(crate) fn go_ahead(&self) -> Result<(), Failure> {
        if let Some(user) = &self.user {
            sys::setns(user, ns::USER).at("join", "user namespace")?;
        }
        match &self.pid {
            Some(pid) => sys::setns(pid, ns::PID).at("join", "process namespace"),
            None => Ok(()),
        }
    }

    /// Joins what the new process joins, and makes what it must make itself.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        for (kind, fd) in &self.joined {
            sys::setns(fd, *kind).at("join", name(*kind)).map_err(|failure| match failure.errno {
                errno if errno == Errno::EPERM as i32 => {
                    failure.note("it belongs to another user namespace; join that one too, by its path")
                }
                _ => failure,
            })?;
        }
        if self.late_time {
            sys::unshare(ns::TIME).at("make", "time namespace")?;
            self.set_time_offsets()?;
            let own = open(Path::new("/proc/self/ns/time_for_children"))?;
            sys::setns(own, ns::TIME).at("join", "its own time namespace")?;
        }
        Ok(())
    }

    /// Makes what belongs to root of the user namespace, which the process has become.
    pub(crate) fn make_late(&self) -> Result<(), Failure> {
        if self.late_ipc { sys::unshare(ns::IPC).at("make", "IPC namespace") } else { Ok(()) }
    }

    pub(crate) fn joins_user(&self) -> bool {
        self.user.is_some()
    }

    /// Whether a process goes ahead into namespaces from which the caller could not come back.
    pub(crate) fn goes_ahead(&self) -> bool {
        self.joins_user() || self.pid.is_some()
    }

    /// Every descriptor that this value owns: the new process drops it.
    pub(crate) fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.joined
            .iter()
            .map(|(_, fd)| fd)
            .chain(&self.pid)
            .chain(&self.time)
            .chain(&self.user)
            .chain(&self.mounts_of_caller)
    }
}

/// What became of the caller's joining a namespace for its children.
enum Joined {
    /// It is there; this leads back.
    Until(OwnedFd),
    NotAllowed,
    NoWayBack,
}

/// Joins a namespace that is to be left again. Root of a user namespace may be kept from coming back to what
/// belongs to the host, even to its own: that is asked before, by joining what it is in already.
fn join_for_a_while(namespace: &OwnedFd, kind: u64, file: &str) -> Result<Joined, Failure> {
    let back = own(file)?;
    match sys::setns(&back, kind) {
        // An ordinary user is root nowhere, and may join nothing.
        Err(Errno::EPERM) if Caller::current().is_ordinary() => return Ok(Joined::NotAllowed),
        Err(Errno::EPERM) => return Ok(Joined::NoWayBack),
        result => result.at("join", format!("its own {}", name(kind)))?,
    }
    match sys::setns(namespace, kind) {
        Err(Errno::EPERM) => Ok(Joined::NotAllowed),
        result => result.at("join", name(kind)).map(|()| Joined::Until(back)),
    }
}

fn no_way_back(kind: u64) -> Failure {
    let why = "the caller may not come back to its own, which belongs to another user namespace: join a user namespace \
               by its path, or none";
    Failure::refused("join", format!("{} beside a new user namespace", name(kind)), why)
}

fn name(kind: u64) -> &'static str {
    match kind {
        ns::PID => "process namespace",
        ns::MOUNT => "mount namespace",
        ns::NET => "network namespace",
        ns::IPC => "IPC namespace",
        ns::UTS => "UTS namespace",
        ns::CGROUP => "cgroup namespace",
        ns::TIME => "time namespace",
        _ => "namespace",
    }
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    Ok(File::open(path).at("open namespace", path.display())?.into())
}

fn own(name: &str) -> Result<OwnedFd, Failure> {
    open(Path::new(&format!("/proc/self/ns/{name}")))
}

fn offsets(offsets: Option<&HashMap<String, LinuxTimeOffset>>) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(
                format!("linux.timeOffsets[{clock:?}]"),
                "only monotonic and boottime have one",
            ));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        lines.push(format!("{clock} {seconds} {nanoseconds}\n"));
    }
    Ok(lines)
}

/// Puts the caller's children back into its own namespaces.
#[derive(Debug, Default)]
pub(crate) struct ChildNamespaces {
    pid: Option<OwnedFd>,
    time: Option<OwnedFd>,
    others: Vec<(u64, OwnedFd)>,
}

impl ChildNamespaces {
    /// The namespace of processes started in a container that runs.
    pub(crate) fn join_pid(pid_namespace: &OwnedFd) -> Result<ChildNamespaces, Failure> {
        let guard = ChildNamespaces { pid: Some(own("pid")?), time: None, others: Vec::new() };
        sys::setns(pid_namespace, ns::PID).at("join", "process namespace")?;
        Ok(guard)
    }
}

impl Drop for ChildNamespaces {
    fn drop(&mut self) {
        // That these may be gone back to was asked before they were left.
        if let Some(pid) = &self.pid {
            let _ = sys::setns(pid, ns::PID);
        }
        if let Some(time) = &self.time {
            let _ = sys::setns(time, ns::TIME);
        }
        for (kind, back) in &self.others {
            let _ = sys::setns(back, *kind);
        }
    }
}
