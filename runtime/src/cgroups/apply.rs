//! Setting and changing limits.

use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxMemory, LinuxResources};

use super::detect::Mounted;
use super::devices::DevicePolicy;
use super::files::{read_file, write_file};
use super::limits::{self, Setting};
use super::{Cgroups, Group, Layout, Place, Unit, Version, folders, place, rootless, v1, v1_devices, v2};
use crate::error::{Error, Failure};

impl Cgroups {
    /// Adds the groups of hierarchies that the container stayed out of, since nothing was limited there, and
    /// that `resources` are now about. Where they are says the `place` that the container was given; without one
    /// they are as the first. Changes nothing on the host; `false` when there are none.
    pub(crate) fn extend(
        &mut self,
        layout: &Layout,
        place: Option<&Place>,
        resources: &LinuxResources,
    ) -> Result<bool, Error> {
        let Some(first) = self.0.first().and_then(|group| group.folder.strip_prefix(&group.mount).ok()) else {
            return Ok(false);
        };
        let first = first.to_path_buf();
        let relative = |mounted: &Mounted, controllers: &[String]| match place {
            Some(place) => place.below(mounted, controllers),
            None => Ok(first.clone()),
        };
        let limited = limits::v1(resources)?;
        let before = self.0.len();
        for hierarchy in layout.v1() {
            let has = |name: &str| hierarchy.controllers.iter().any(|known| known == name);
            let joined = self.0.iter().any(|group| group.mount == hierarchy.mounted.at);
            if !joined && limited.iter().any(|setting| has(setting.controller)) {
                let relative = relative(&hierarchy.mounted, &hierarchy.controllers)?;
                self.0.push(place::group(Version::V1, &hierarchy.mounted.at, hierarchy.controllers.clone(), &relative));
            }
        }
        let unified = resources.unified().as_ref().is_some_and(|unified| !unified.is_empty());
        let joined = self.0.iter().any(|group| group.version == Version::V2);
        if let Some(mounted) = layout.v2().filter(|_| unified && !joined) {
            self.0.push(place::group(Version::V2, &mounted.at, Vec::new(), &relative(mounted, &[])?));
        }
        Ok(self.0.len() > before)
    }

    /// Makes those groups of a new unit that systemd has not made, from this one on.
    pub(crate) fn complete(&self, made: usize) -> Result<(), Failure> {
        self.0[..made].iter().filter(|group| group.version == Version::V2).try_for_each(v2::enable)?;
        self.0[made..].iter().try_for_each(folders::make)
    }

    /// Makes the groups from this one on and moves the container's processes there.
    pub(crate) fn join_from(&self, first: usize) -> Result<(), Failure> {
        for group in &self.0[first..] {
            folders::make(group)?;
            self.move_into(group)?;
        }
        Ok(())
    }

    /// Moves the container's processes to the groups that were not `known`. One that is not there is being made,
    /// and who makes it moves them.
    pub(crate) fn join_beyond(&self, known: &Cgroups) -> Result<(), Failure> {
        for group in self.0.iter().filter(|group| !known.0.contains(group)) {
            match self.move_into(group) {
                Err(failure) if failure.errno == Errno::ENOENT as i32 => (),
                result => result?,
            }
        }
        Ok(())
    }

    fn move_into(&self, group: &Group) -> Result<(), Failure> {
        let list = group.folder.join("cgroup.procs");
        // What is forked while we are at it begins where its parent was: until nobody is missing.
        let mut moved = Vec::new();
        loop {
            let missing: Vec<_> = self.pids()?.into_iter().filter(|pid| !moved.contains(pid)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            for pid in missing {
                match write_file(&list, &pid.to_string()) {
                    Err(failure) if failure.errno != Errno::ESRCH as i32 => return Err(failure),
                    _ => moved.push(pid),
                }
            }
        }
    }

    /// Changes the limits that are given, of which systemd is told first when it made the groups.
    pub(crate) fn update(&self, resources: &LinuxResources, unit: Option<&Unit>) -> Result<(), Error> {
        let devices = resources.devices().as_deref().filter(|rules| !rules.is_empty());
        let Some(unit) = unit else {
            self.apply(resources)?;
            return devices.map_or(Ok(()), |rules| self.set_devices(rules, true));
        };
        // systemd empties the list of version 1 before it fills it again, and an access in between would be denied.
        let freeze = devices.is_some() && self.0.iter().any(|group| group.has("devices")) && !self.is_frozen();
        if freeze {
            self.freeze(true)?;
        }
        let updated = self.update_unit(unit, resources, devices);
        let thawed = if freeze { self.freeze(false) } else { Ok(()) };
        updated.and(thawed)
    }

    /// Sets the limits of a new container whose groups systemd made.
    pub(crate) fn limit_unit(&self, unit: &Unit, resources: Option<&LinuxResources>) -> Result<(), Error> {
        let none = LinuxResources::default();
        let resources = resources.unwrap_or(&none);
        self.update_unit(unit, resources, Some(resources.devices().as_deref().unwrap_or_default()))
    }

    fn update_unit(
        &self,
        unit: &Unit,
        resources: &LinuxResources,
        devices: Option<&[LinuxDeviceCgroup]>,
    ) -> Result<(), Error> {
        let mut settings = self.settings(resources)?;
        unit.set(&mut settings, devices)?;
        write_all(settings, swap(resources))?;
        devices.map_or(Ok(()), |rules| self.set_devices(rules, false))
    }

    pub(super) fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        write_all(self.settings(resources)?, swap(resources))
    }

    /// What has to be written where.
    fn settings(&self, resources: &LinuxResources) -> Result<Vec<Placed<'_>>, Error> {
        let unified = self.0.iter().find(|group| group.version == Version::V2);
        let mut unplaced = None;
        let mut placed = Vec::new();
        for setting in limits::v1(resources)? {
            match self.0.iter().find(|group| group.has(setting.controller)) {
                Some(group) => placed.push((group, v1::named_by_scheduler(&group.folder, setting))),
                None if setting.optional => (),
                None => unplaced = unplaced.or(Some(setting)),
            }
        }
        match (unified, unplaced, resources.unified().iter().flatten().next()) {
            (None, Some(setting), _) if self.0.is_empty() => {
                return Err(rootless::without_cgroups(setting.controller, &setting.field));
            }
            (None, None, Some((file, _))) if self.0.is_empty() => {
                return Err(rootless::without_cgroups("unified", &format!("unified[{file:?}]")));
            }
            (None, Some(setting), _) => return Err(no_controller(&setting)),
            (None, None, Some((file, _))) => {
                let field = format!("linux.resources.unified[{file:?}]");
                return Err(Error::unsupported(field, "this host has no cgroup2 mounted"));
            }
            _ => (),
        }
        let Some(unified) = unified else { return Ok(placed) };
        let v1: Vec<&str> = self.0.iter().flat_map(|group| &group.controllers).map(String::as_str).collect();
        if !v1.contains(&"memory") {
            v2::check_usage(&unified.folder, resources)?;
        }
        let present = |file: &str| read_file(&unified.folder.join(file)).ok().map(|text| text.trim().to_owned());
        let settings = limits::v2(resources, &present, &|controller| {
            !v1.contains(&if controller == "io" { "blkio" } else { controller })
        })?;
        placed.extend(settings.into_iter().map(|setting| (unified, setting)));
        Ok(placed)
    }

    /// Sets the device list: of new groups, or of groups whose processes must not lose for a moment what they keep.
    pub(super) fn set_devices(&self, rules: &[LinuxDeviceCgroup], in_use: bool) -> Result<(), Error> {
        let policy = DevicePolicy::new(rules)?;
        let v1 = self.0.iter().find(|group| group.has("devices"));
        let set = match (v1, self.0.iter().find(|group| group.version == Version::V2)) {
            (Some(group), _) => {
                let wanted = v1_devices::DeviceList::new(&policy)?;
                if in_use { wanted.change(&group.folder) } else { wanted.set(&group.folder) }
            }
            (None, Some(group)) => v2::set_devices(&group.folder, &policy),
            (None, None) if rootless::is_unprivileged() => return Ok(()),
            (None, None) => {
                return Err(Error::unsupported(
                    "device control",
                    "this host has neither the devices controller nor cgroup2 mounted",
                ));
            }
        };
        match set {
            // Devices are the host's: who has no rights over them needs no list to be kept from them.
            Err(failure) if rootless::is_denial(&failure) && rootless::is_unprivileged() => Ok(()),
            set => Ok(set?),
        }
    }
}

/// A setting, and the group it is for.
pub(super) type Placed<'a> = (&'a Group, Setting);

/// The limit on memory and swap together, as given.
fn swap(resources: &LinuxResources) -> Option<i64> {
    resources.memory().as_ref().and_then(LinuxMemory::swap).filter(|swap| *swap != 0)
}

/// Writes all settings in their order. What the kernel takes of quota, period, burst and real time depends on
/// the others of them: what it refuses is tried once more when the others are set.
fn write_all(settings: Vec<Placed<'_>>, swap: Option<i64>) -> Result<(), Error> {
    let mut again = Vec::new();
    for (group, setting) in settings {
        let written = match setting.file.as_str() {
            v1::MEMORY if group.version == Version::V1 => v1::set_memory(&group.folder, &setting, swap),
            _ => write_setting(&group.folder, &setting),
        };
        match written {
            Err(error) if setting.controller == "cpu" && error.errno() == Some(Errno::EINVAL as i32) => {
                again.push((group, setting));
            }
            result => result?,
        }
    }
    again.into_iter().try_for_each(|(group, setting)| write_setting(&group.folder, &setting))
}

fn no_controller(setting: &Setting) -> Error {
    let (file, controller) = (&setting.file, setting.controller);
    Error::unsupported(
        format!("linux.resources.{}", setting.field),
        format!("this host has no {file}, a file of the {controller} controller"),
    )
}

pub(super) fn write_setting(folder: &Path, setting: &Setting) -> Result<(), Error> {
    let named = |failure: Failure| -> Error {
        let note = if failure.errno == Errno::EBUSY as i32 && setting.controller == "memory" {
            "the container uses more than that already".to_owned()
        } else {
            Errno::from_raw(failure.errno).desc().to_owned()
        };
        failure.note(format!("linux.resources.{}: {note}", setting.field)).into()
    };
    match write_file(&folder.join(&setting.file), &setting.value) {
        Err(failure) if failure.errno == Errno::ENOENT as i32 && setting.optional => Ok(()),
        Err(failure) if failure.errno == Errno::ENOENT as i32 => Err(no_controller(setting)),
        Err(failure) => Err(named(failure)),
        Ok(()) if setting.file == "cpu.shares" => check_shares(folder, setting),
        Ok(()) => Ok(()),
    }
}

/// The kernel takes any number of shares and keeps the nearest that there can be.
fn check_shares(folder: &Path, setting: &Setting) -> Result<(), Error> {
    let kept = read_file(&folder.join(&setting.file))?;
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let (wanted, kept) = (number(&setting.value), number(&kept));
    let reason = match wanted.cmp(&kept) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Greater => format!("{wanted}: the maximum allowed cpu-shares is {kept}"),
        std::cmp::Ordering::Less => format!("{wanted}: the minimum allowed cpu-shares is {kept}"),
    };
    Err(Error::invalid("linux.resources.cpu.shares", reason))
}
