//! Control groups: cgroup v2, the version 1 hierarchies, and both at once (hybrid).
//!
//! What a container costs here is decided by two rules. A process joins its version 1 groups by writing `0`
//! to `tasks` from its only thread, and its version 2 group by being cloned into it: both avoid the kernel's
//! global lock that a write to `cgroup.procs` waits for. And a hierarchy is touched only if there is a reason.

mod apply;
mod detect;
mod devices;
mod entrance;
mod files;
mod folders;
mod limits;
mod oom;
mod place;
mod processes;
mod rootless;
mod stats;
mod systemd;
mod v1;
mod v1_devices;
mod v2;

pub(crate) use detect::Layout;
pub(crate) use entrance::{Below, Entrance};
#[cfg(fuzzing)]
pub(crate) use limits::understand;
pub(crate) use limits::unsupported;
pub(crate) use oom::OomWatch;
pub(crate) use place::Place;
pub(crate) use rootless::Lenience;
pub(crate) use systemd::{Holder, Plan as UnitPlan, Unit};

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Failure};
use detect::Mounted;
use place::group;
use systemd::Found;

/// How long a group may take to empty after its processes were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// Which interface a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Version {
    V1,
    V2,
}

/// The container's folder in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) version: Version,
    /// The version 1 controllers of the hierarchy; empty for version 2.
    pub(crate) controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub(crate) mount: PathBuf,
    /// The container's folder.
    pub(crate) folder: PathBuf,
    /// The topmost folder that did not exist before: it and what is between goes with the container.
    pub(crate) top: PathBuf,
}

impl Group {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// The groups of a container, one per hierarchy that matters to it. Kept in the container's state before the
/// first folder is made, so that they can be removed whenever the making was cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroups(pub(crate) Vec<Group>);

impl fmt::Display for Cgroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, group) in self.0.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "cgroup " } else { ", " }, group.folder.display())?;
        }
        if self.0.is_empty() { f.write_str("no cgroup") } else { Ok(()) }
    }
}

impl Cgroups {
    /// Whether an update could add a group: there is none to add beside the only hierarchy.
    pub(crate) fn can_grow(&self) -> bool {
        !matches!(&self.0[..], [only] if only.version == Version::V2)
    }

    /// Decides which hierarchies the container takes part in, and changes nothing.
    pub(crate) fn plan(
        layout: &Layout,
        place: &Place,
        resources: Option<&LinuxResources>,
        lenience: Lenience,
    ) -> Result<Cgroups, Error> {
        let mut groups = Vec::new();
        let limited = resources.map(limits::v1).transpose()?.unwrap_or_default();
        for hierarchy in layout.v1() {
            let relative = place.below(&hierarchy.mounted, &hierarchy.controllers)?;
            if v1::matters(hierarchy, &relative, &limited) {
                groups.push(group(Version::V1, &hierarchy.mounted.at, hierarchy.controllers.clone(), &relative));
            }
        }
        if let Some(mounted) = layout.v2() {
            let relative = place.below(mounted, &[])?;
            if groups.is_empty() || v2::matters_beside_v1(&mounted.at, layout, &relative, resources) {
                groups.push(group(Version::V2, &mounted.at, Vec::new(), &relative));
            }
        }
        if groups.is_empty() && !lenience.needs_none() {
            return Err(Error::unsupported("a host without cgroups", "mount cgroup2 at /sys/fs/cgroup"));
        }
        Ok(Cgroups(groups))
    }

    /// As [`Cgroups::plan`], for a unit that is there. Second, how many of the groups are systemd's: they come first, and
    /// the others are still to be made.
    pub(crate) fn plan_in_unit(
        layout: &Layout,
        found: &Found,
        resources: Option<&LinuxResources>,
    ) -> Result<(Cgroups, usize), Error> {
        let below = |mounted: &Mounted| {
            let path = Path::new("/").join(&found.relative);
            path.strip_prefix(&mounted.root).unwrap_or(&found.relative).to_owned()
        };
        let version2 = layout.v2().filter(|_| found.has(&[]));
        let version2 = version2.map(|mounted| group(Version::V2, &mounted.at, Vec::new(), &below(mounted)));
        let hierarchies = layout.systemd().into_iter().chain(layout.v1()).filter(|one| found.has(&one.controllers));
        let version1 =
            hierarchies.map(|one| group(Version::V1, &one.mounted.at, one.controllers.clone(), &below(&one.mounted)));
        let mut groups: Vec<Group> = version2.into_iter().chain(version1).collect();
        for group in &mut groups {
            // What is above a unit goes when systemd has it go.
            group.top.clone_from(&group.folder);
        }
        let made = groups.len();
        let planned = Cgroups::plan(layout, &Place::Root(found.relative.clone()), resources, Lenience::none())?.0;
        let missing = |group: &Group| !groups.iter().any(|made| made.mount == group.mount);
        let missing: Vec<Group> = planned.into_iter().filter(missing).collect();
        groups.extend(missing);
        Ok((Cgroups(groups), made))
    }

    /// Where the groups of a unit are: at one path in all hierarchies.
    pub(crate) fn place(&self) -> Place {
        let path = self.0.first().and_then(|group| group.folder.strip_prefix(&group.mount).ok());
        Place::Root(path.map(Path::to_owned).unwrap_or_default())
    }

    /// Whether one of the groups is in the hierarchy that /proc/PID/cgroup names so: its controllers, or nothing.
    pub(crate) fn names_one(&self, names: &str) -> bool {
        self.0.iter().any(|group| match group.version {
            Version::V1 => names.split(',').any(|name| group.has(name)),
            Version::V2 => names.is_empty(),
        })
    }

    /// Adds the groups that a container had where it was checkpointed: version 1 controllers and `name=NAME`, and
    /// no name for version 2. What this host does not have is left out.
    pub(crate) fn plan_also(&mut self, layout: &Layout, place: &Place, names: &[String]) -> Result<(), Failure> {
        for name in names {
            let (version, mounted, controllers) = match layout.hierarchy(name) {
                _ if self.0.iter().any(|group| group.has(name) || group.controllers.is_empty() && name.is_empty()) => {
                    continue;
                }
                Some(hierarchy) => (Version::V1, &hierarchy.mounted, hierarchy.controllers.clone()),
                None => match layout.v2().filter(|_| name.is_empty()) {
                    Some(mounted) => (Version::V2, mounted, Vec::new()),
                    None => continue,
                },
            };
            let relative = place.below(mounted, &controllers)?;
            self.0.push(group(version, &mounted.at, controllers, &relative));
        }
        Ok(())
    }
}
