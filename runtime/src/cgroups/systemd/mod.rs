//! The systemd driver: a container's groups are those of a scope, a unit that systemd makes for processes that somebody
//! else started (systemd.scope(5), org.freedesktop.systemd1(5)). systemd is told of the limits, so that it does not take
//! them back, and then they are set in the files, which know of more.

mod annotations;
mod bus;
mod gvariant;
mod holder;
mod name;
mod properties;
mod wire;
#[cfg(test)]
mod wire_tests;

pub(crate) use holder::Holder;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, Spec};
use serde::{Deserialize, Serialize};

use super::apply::Placed;
use super::detect::Layout;
use super::files::read_file;
use super::folders::sub_folders;
use super::{Cgroups, Group, Version, rootless};
use crate::error::{Context, Error, Failure};
use crate::identity::ProcessStat;
use bus::Connection;
use properties::Property;
use wire::Value;

/// Which systemd a unit is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Manager {
    System,
    User,
}

/// A container's scope. Kept in the container's state before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    manager: Manager,
    name: String,
    slice: String,
    /// The inode of its cgroup, by which it is told from a later unit of this name.
    inode: Option<u64>,
}

/// A scope that is to be made.
#[derive(Debug)]
pub(crate) struct Plan {
    unit: Unit,
    properties: Vec<(String, Value)>,
    /// Since version 253.
    oom_policy: Option<Value>,
}

impl Plan {
    /// Decides what to ask of which systemd, and asks nothing yet.
    pub(crate) fn new(spec: &Spec, linux: &Linux, id: &str, layout: &Layout) -> Result<Plan, Error> {
        if !Path::new("/run/systemd/system").is_dir() {
            let why = "this host was not booted by systemd (there is no /run/systemd/system); use cgroupfs";
            return Err(Error::unsupported("--systemd-cgroup", why));
        }
        let manager = if rootless::is_unprivileged() { Manager::User } else { Manager::System };
        let (slice, name) = name::names(linux.cgroups_path().as_deref(), id, manager)?;
        let mut properties = vec![
            ("Description".to_owned(), Value::Str(format!("orlop-runtime container {id}"))),
            ("Slice".to_owned(), Value::str(&slice)),
            // What is in the scope's cgroup is the container's own business.
            ("Delegate".to_owned(), Value::Bool(true)),
        ];
        let blkio = layout.v1().iter().flat_map(|hierarchy| &hierarchy.controllers).any(|name| name == "blkio");
        // Else systemd would not give the scope a cgroup of each controller.
        for kind in ["Memory", "CPU", if blkio { "BlockIO" } else { "IO" }, "Tasks"] {
            properties.push((format!("{kind}Accounting"), Value::Bool(true)));
        }
        // Not one of the units that end first at shutdown, or begin only when the system is up.
        properties.push(("DefaultDependencies".to_owned(), Value::Bool(false)));
        // A scope that failed is forgotten as others are.
        properties.push(("CollectMode".to_owned(), Value::str("inactive-or-failed")));
        if let Some(annotations) = spec.annotations() {
            properties.extend(annotations::properties(annotations)?);
        }
        let oom_policy = oom_policy(linux);
        Ok(Plan { unit: Unit { manager, name, slice, inode: None }, properties, oom_policy })
    }

    /// The unit, for the record.
    pub(crate) fn unit(&self) -> &Unit {
        &self.unit
    }

    /// Has systemd make the scope, with a process that holds it.
    pub(crate) fn start(&self) -> Result<Holder, Failure> {
        let holder = Holder::start()?;
        let pids = Value::Array("u".to_owned(), vec![Value::U32(holder.pid())]);
        let mut connection = Connection::open_with_processes(self.unit.manager)?;
        let oom_policy = self.oom_policy.clone().filter(|_| connection.version() >= 253);
        let oom_policy = oom_policy.map(|policy| ("OOMPolicy".to_owned(), policy));
        let all = oom_policy.into_iter().chain(self.properties.iter().cloned()).chain([("PIDs".to_owned(), pids)]);
        let name = &self.unit.name;
        let arguments = || start(name, all.clone());
        let mut started = connection.job(START, arguments());
        if started.as_ref().is_err_and(|refusal| refusal.is("UnitExists")) {
            // One that failed is there until somebody takes note of it; any other stays.
            let _ = connection.manager("ResetFailedUnit", vec![Value::str(name)]);
            started = connection.job(START, arguments());
        }
        match started {
            Ok(result) if result == "done" => Ok(holder),
            Ok(result) => {
                let _ = connection.manager("ResetFailedUnit", vec![Value::str(name)]);
                Err(Failure::refused("start unit", name, format!("the job ended as {result:?}")))
            }
            Err(refusal) if refusal.is("UnitExists") => {
                let note = "there is a unit of this name already; give each container its own linux.cgroupsPath";
                Err(Failure::refused("start unit", name, note))
            }
            Err(refusal) => Err(refusal.at("start unit", name)),
        }
    }

    /// Where the unit is below the hierarchies' mount points, found by where systemd put the process, and the lines of
    /// that process's /proc/PID/cgroup.
    pub(crate) fn find(&self, holder: &Holder) -> Result<Found, Failure> {
        let list = format!("/proc/{}/cgroup", holder.pid());
        let text = read_file(Path::new(&list))?;
        let paths: Vec<(Vec<String>, PathBuf)> = text
            .lines()
            .filter_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let names = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                Some((names, PathBuf::from(path.trim_start_matches('/'))))
            })
            .collect();
        let expected = self.unit.folder();
        // The unit's own is in the hierarchy that systemd keeps its units in: version 2, or else the named one.
        let own = |(names, path): &&(Vec<String>, PathBuf)| {
            (names.is_empty() || *names == ["name=systemd"]) && path.ends_with(&expected)
        };
        let Some((_, relative)) = paths.iter().find(own) else {
            let note = format!("systemd has not put its process into {}", expected.display());
            return Err(Failure::refused("find the cgroup of unit", &self.unit.name, note));
        };
        Ok(Found { relative: relative.clone(), paths })
    }
}

/// Where a scope is.
#[derive(Debug)]
pub(crate) struct Found {
    pub(super) relative: PathBuf,
    /// The controllers of each hierarchy, and where in it the process is.
    paths: Vec<(Vec<String>, PathBuf)>,
}

impl Found {
    /// Whether systemd made the group in the hierarchy of version 1 with these controllers, or in that of version 2.
    pub(super) fn has(&self, controllers: &[String]) -> bool {
        self.paths.iter().any(|(names, path)| {
            path == &self.relative
                && names.len() == controllers.len()
                && controllers.iter().all(|name| names.contains(name))
        })
    }
}

impl Unit {
    /// Takes note of which unit of this name it is.
    pub(crate) fn identify(&mut self, cgroups: &Cgroups) -> Result<(), Failure> {
        let Some(Group { folder, .. }) = cgroups.0.first() else { return Ok(()) };
        self.inode = Some(std::fs::metadata(folder).at("look at cgroup", folder.display())?.ino());
        Ok(())
    }

    /// Sees to it that the caller may put a process into the unit's cgroup. An ordinary user may only from below a group
    /// that is the user's (cgroups(7), "Cgroup delegation containment"), and the one of a login is not: the caller gets a
    /// scope of its own then.
    pub(crate) fn admit_caller(&self, cgroups: &Cgroups) -> Result<(), Failure> {
        let unified = cgroups.0.iter().find(|group| group.version == Version::V2);
        let Some(group) = unified.filter(|_| self.manager == Manager::User) else { return Ok(()) };
        let mut shared = rootless::own(group).folder;
        while !group.folder.starts_with(&shared) && shared.pop() {}
        if std::fs::OpenOptions::new().write(true).open(shared.join("cgroup.procs")).is_ok() {
            return Ok(());
        }
        let pid = std::process::id();
        // Of a caller of the same number what it left running may still be in its scope.
        let start_time = ProcessStat::read(pid as i32).map_or(0, |stat| stat.start_time);
        let name = format!("orlop-runtime-{pid}-{start_time}.scope");
        let pids = ("PIDs".to_owned(), Value::Array("u".to_owned(), vec![Value::U32(pid)]));
        let collect = ("CollectMode".to_owned(), Value::str("inactive-or-failed"));
        let mut connection = Connection::open_with_processes(self.manager)?;
        match connection.job(START, start(&name, [pids, collect].into_iter())) {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => Err(Failure::refused("start unit", name, format!("the job ended as {result:?}"))),
            Err(refusal) => Err(refusal.at("start unit", &name)),
        }
    }

    /// Tells systemd of limits and, if given, of the device list.
    pub(super) fn set(&self, settings: &mut [Placed<'_>], devices: Option<&[LinuxDeviceCgroup]>) -> Result<(), Error> {
        let mut wanted: Vec<Property> = devices.map(properties::devices).transpose()?.unwrap_or_default();
        wanted.extend(properties::limits(settings));
        if wanted.is_empty() {
            return Ok(());
        }
        let mut connection = Connection::open(self.manager)?;
        if wanted.iter().any(|property| property.since > 0) {
            let version = connection.version();
            wanted.retain(|property| property.since <= version);
        }
        let all = wanted.into_iter().map(|property| (property.name.to_owned(), property.value));
        // Not kept for a unit of this name after the next boot.
        let arguments = vec![Value::str(&self.name), Value::Bool(true), list(all)];
        let set = connection.manager("SetUnitProperties", arguments);
        Ok(set.map(drop).map_err(|refusal| refusal.at("set the limits of unit", &self.name))?)
    }

    /// Kills what is in the unit, has systemd forget it, and removes what is left of its groups. Of a unit that was not
    /// `made` to its end the process that held it is gone; one that has processes is somebody else's.
    pub(crate) fn release(&self, cgroups: &Cgroups, made: bool) -> Result<(), Failure> {
        if !made {
            let stopped = self.stop_empty();
            return cgroups.remove_unused().and(stopped);
        }
        let there = cgroups.0.first().and_then(|group| std::fs::metadata(&group.folder).ok());
        let Some(there) = there else {
            // It went with its last process. If the configuration had it stay because it failed, it goes now.
            if let Ok(mut connection) = Connection::open(self.manager) {
                let _ = connection.manager("ResetFailedUnit", vec![Value::str(&self.name)]);
            }
            return cgroups.remove();
        };
        if Some(there.ino()) != self.inode {
            // As above, and then somebody else made one of this name.
            return Ok(());
        }
        let killed = cgroups.kill_all();
        let stopped = self.stop();
        let removed = cgroups.remove();
        killed.and(stopped).and(removed)
    }

    /// Where it is below a hierarchy's mount point, as the system's manager has it.
    fn folder(&self) -> PathBuf {
        name::expand(&self.slice).unwrap_or_default().join(&self.name)
    }

    /// Stops the unit if it has no process: systemd may not have seen the one end that it was made for, which ends when
    /// create is killed. That may be just now.
    fn stop_empty(&self) -> Result<(), Failure> {
        let layout = Layout::detect()?;
        let Some(mounted) = layout.v2().or(layout.systemd().map(|named| &named.mounted)) else { return Ok(()) };
        // Nobody who could have made it, or who could be asked: a user's units go with the user's systemd.
        let Ok(mut connection) = Connection::open(self.manager) else { return Ok(()) };
        let group = match connection.cgroup_of_scope(&self.name) {
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(()),
            Err(refusal) => return Err(refusal.at("find the cgroup of unit", &self.name)),
            // It has not begun, and will not without the process.
            Ok(group) if group.is_empty() => return Ok(()),
            Ok(group) => mounted.at.join(group.trim_start_matches('/')),
        };
        let deadline = Instant::now() + Duration::from_secs(2);
        while group.is_dir() {
            if is_empty(&group) {
                return self.stop();
            }
            if Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), Failure> {
        let mut connection = Connection::open(self.manager)?;
        match connection.job("StopUnit", vec![Value::str(&self.name), Value::str("replace")]) {
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(()),
            Err(refusal) => return Err(refusal.at("stop unit", &self.name)),
            Ok(_) => (),
        }
        let _ = connection.manager("ResetFailedUnit", vec![Value::str(&self.name)]);
        Ok(())
    }
}

/// Whether no process is in a group nor below it: a unit of somebody else's may have handed its group on. One that
/// systemd removes meanwhile is not empty, but gone.
fn is_empty(group: &Path) -> bool {
    if let Ok(events) = read_file(&group.join("cgroup.events")) {
        return events.lines().any(|line| line == "populated 0");
    }
    sub_folders(group).is_empty() && read_file(&group.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

const START: &str = "StartTransientUnit";

fn start(name: &str, properties: impl Iterator<Item = (String, Value)>) -> Vec<Value> {
    let none = Value::Array("(sa(sv))".to_owned(), Vec::new());
    vec![Value::str(name), Value::str("replace"), list(properties), none]
}

/// Properties as D-Bus has them: `a(sv)`.
fn list(all: impl Iterator<Item = (String, Value)>) -> Value {
    let pair = |(name, value)| Value::Struct(vec![Value::Str(name), Value::Variant(Box::new(value))]);
    Value::Array("(sv)".to_owned(), all.map(pair).collect())
}

/// systemd sets `memory.oom.group` by this, and lets it be given only when the unit is made.
fn oom_policy(linux: &Linux) -> Option<Value> {
    let unified = linux.resources().as_ref()?.unified().as_ref()?;
    let policy = match unified.get("memory.oom.group")?.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    Some(Value::str(policy))
}
