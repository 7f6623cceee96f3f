//! Cgroups of a caller who may not make them all: an ordinary user, and root of a user namespace below the
//! host's. As with runc a container goes without those, as long as nobody asked for a place or for limits there.

use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::{Cgroups, Group, Version, folders, limits, place};
use crate::error::{Error, Failure};
use crate::procfs;
use crate::user_namespace::{Caller, is_nested};

/// Whether a container may go without cgroups that its caller may not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lenience {
    asked: Option<bool>,
    placed: bool,
}

impl Lenience {
    /// As `asked`, or by what the caller is; never when the configuration says where its cgroups are.
    pub(crate) fn new(asked: Option<bool>, cgroups_path: Option<&Path>) -> Lenience {
        Lenience { asked, placed: cgroups_path.is_some_and(|path| !path.as_os_str().is_empty()) }
    }

    /// None for a container whose place was made by systemd.
    pub(super) fn none() -> Lenience {
        Lenience { asked: Some(false), placed: true }
    }

    fn forgives(self, failure: &Failure) -> bool {
        !self.placed && is_denial(failure) && self.asked.unwrap_or_else(is_unprivileged)
    }

    pub(super) fn needs_none(self) -> bool {
        !self.placed && self.asked.unwrap_or_else(is_unprivileged)
    }
}

/// Whether the caller lacks rights over the host's devices and cgroups.
pub(super) fn is_unprivileged() -> bool {
    Caller::current().is_ordinary() || is_nested()
}

pub(super) fn is_denial(failure: &Failure) -> bool {
    [Errno::EPERM, Errno::EACCES, Errno::EROFS].iter().any(|errno| *errno as i32 == failure.errno)
}

impl Cgroups {
    /// Makes the groups and sets their limits. Returns the caller's own groups in those hierarchies where the
    /// container has none and stays: it may look at them.
    pub(crate) fn create(&mut self, resources: Option<&LinuxResources>, lenience: Lenience) -> Result<Cgroups, Error> {
        let mut lent = Vec::new();
        let mut made = Vec::new();
        for group in &self.0 {
            match folders::make(group) {
                Err(failure) if lenience.forgives(&failure) => {
                    require_no_limits(group, resources, failure)?;
                    lent.push(own(group));
                }
                Err(failure) if is_denial(&failure) && lenience.placed && is_unprivileged() => {
                    return Err(failure
                        .note("linux.cgroupsPath must be below a cgroup that is delegated to the user")
                        .into());
                }
                result => {
                    result?;
                    made.push(group.clone());
                }
            }
        }
        if !lent.is_empty() {
            self.0 = made;
        }
        match resources {
            // Without any group all limits were looked at already.
            Some(resources) if !self.0.is_empty() => self.apply(resources)?,
            _ => (),
        }
        self.set_devices(resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default(), false)?;
        Ok(Cgroups(lent))
    }
}

/// Refuses limits that belong into a group that cannot be made.
fn require_no_limits(group: &Group, resources: Option<&LinuxResources>, denied: Failure) -> Result<(), Error> {
    let Some(resources) = resources else { return Ok(()) };
    let unified =
        resources.unified().iter().flatten().next().map(|(file, _)| (format!("unified[{file:?}]"), "unified"));
    let limit = match group.version {
        Version::V1 => limits::v1(resources)?.into_iter().find(|setting| group.has(setting.controller)),
        Version::V2 => limits::v1(resources)?.into_iter().next(),
    };
    let unified = unified.filter(|_| group.version == Version::V2);
    match limit.map(|setting| (setting.field, setting.controller)).or(unified) {
        None => Ok(()),
        Some((field, controller)) => {
            let note = format!(
                "cannot set {controller} limit: container could not join or create cgroup; leave out \
                 linux.resources.{field}, or give linux.cgroupsPath below a cgroup that is delegated to the user"
            );
            Err(denied.note(note).into())
        }
    }
}

/// What an update is told of a container that has no cgroup at all.
pub(super) fn without_cgroups(controller: &str, field: &str) -> Error {
    Error::unsupported(
        format!("linux.resources.{field}"),
        format!(
            "cannot set {controller} limit: container could not join or create cgroup when it was created; give \
             linux.cgroupsPath below a cgroup that is delegated to the user"
        ),
    )
}

/// The group of the caller in the hierarchy of another group.
pub(super) fn own(group: &Group) -> Group {
    let groups = procfs::read_text("/proc/self/cgroup").unwrap_or_default();
    let own = place::own_group(&groups, &group.controllers).and_then(|own| own.strip_prefix("/").ok());
    let own = own.map(|own| group.mount.join(own)).filter(|own| own.is_dir());
    Group { folder: own.unwrap_or_else(|| group.mount.clone()), ..group.clone() }
}
