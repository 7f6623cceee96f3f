//! What a user namespace and an ordinary user cannot have, found before anything is done.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};

use super::mapping::is_only;
use super::{Caller, uid};
use crate::error::Error;

/// Checks a configuration that passed the checks for everybody.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    let mut all = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref()).flatten();
    let has_user = all.any(|namespace| namespace.typ() == LinuxNamespaceType::User);
    // Most containers have none, and are root's.
    if has_user || uid() != 0 { check_for(spec, Caller::current()) } else { Ok(()) }
}

fn check_for(spec: &Spec, caller: Caller) -> Result<(), Error> {
    let Some(linux) = spec.linux().as_ref() else { return Ok(()) };
    let mut all = linux.namespaces().iter().flatten();
    let user = all.find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let Some(user) = user else {
        if caller.is_ordinary() {
            let reason = "rootless container requires user namespaces: add {\"type\": \"user\"}, uidMappings and \
                          gidMappings, as `spec --rootless` has them, or run as root";
            return Err(Error::invalid("linux.namespaces", reason));
        }
        return Ok(());
    };
    if caller.is_ordinary() {
        ordinary(linux)?;
    }
    if user.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
        // How ids are mapped there is not known here.
        return Ok(());
    }
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    process(spec, uids, gids)?;
    if caller.is_ordinary() && is_only(gids, caller.gid) {
        let user = spec.process().as_ref().map(|process| process.user().additional_gids());
        if user.is_some_and(|groups| groups.as_ref().is_some_and(|groups| !groups.is_empty())) {
            return Err(Error::invalid(
                "process.user.additionalGids",
                "cannot set any additional groups in a rootless container whose linux.gidMappings have the own group only",
            ));
        }
    }
    mounts(spec, uids, gids)
}

fn ordinary(linux: &Linux) -> Result<(), Error> {
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        let why = "network devices are not supported for rootless containers: only root of the host may move them";
        return Err(Error::unsupported("linux.netDevices", why));
    }
    Ok(())
}

/// Idmapped mounts take rights over the filesystem, which an ordinary user has not.
pub(crate) fn check_idmapped(field: String) -> Result<(), Error> {
    if uid() != 0 {
        let why = "id-mapped mounts are not supported for rootless containers: they need root, or a filesystem that \
                   was mounted in the caller's own user namespace";
        return Err(Error::unsupported(field, why));
    }
    Ok(())
}

fn process(spec: &Spec, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), Error> {
    let Some(user) = spec.process().as_ref().map(oci_spec::runtime::Process::user) else { return Ok(()) };
    require(uids, user.uid(), "process.user.uid", "linux.uidMappings")?;
    require(gids, user.gid(), "process.user.gid", "linux.gidMappings")?;
    let groups = user.additional_gids().iter().flatten();
    groups.copied().try_for_each(|group| require(gids, group, "process.user.additionalGids", "linux.gidMappings"))
}

fn require(mappings: &[LinuxIdMapping], id: u32, field: &str, by: &str) -> Result<(), Error> {
    match host_id(mappings, id) {
        Some(_) => Ok(()),
        None => Err(Error::invalid(field, format!("{id} is not mapped by {by}"))),
    }
}

/// The owners that mounts are to have. A devpts goes without a group that is not mapped: its terminals then have
/// the group of who opens them, and every common configuration asks for 5.
fn mounts(spec: &Spec, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), Error> {
    for mount in spec.mounts().iter().flatten() {
        for option in mount.options().iter().flatten() {
            let (mappings, by, id) = match option.split_once('=') {
                Some(("uid", id)) => (uids, "linux.uidMappings", id),
                Some(("gid", id)) if mount.typ().as_deref() != Some("devpts") => (gids, "linux.gidMappings", id),
                _ => continue,
            };
            if let Ok(number) = id.parse() {
                require(mappings, number, &format!("mounts[{}].options[{option}]", mount.destination().display()), by)?;
            }
        }
    }
    Ok(())
}

/// What an id of the container is on the host.
pub(crate) fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    let host = |map: &LinuxIdMapping| {
        let offset = id.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
        map.host_id().checked_add(offset)
    };
    mappings.iter().find_map(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ORDINARY: Caller = Caller { uid: 1000, gid: 1000 };
    const ROOT: Caller = Caller { uid: 0, gid: 0 };

    fn complaint(caller: Caller, change: impl FnOnce(&mut Value)) -> Option<String> {
        let own = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let mut spec = json!({
            "ociVersion": "1.3.0", "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["a"], "user": {"uid": 0, "gid": 0}},
            "mounts": [],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}], "uidMappings": own, "gidMappings": own}
        });
        change(&mut spec);
        let spec = serde_json::from_value(spec).expect("spec");
        check_for(&spec, caller).err().map(|error| error.to_string())
    }

    #[test]
    fn of_an_ordinary_user() {
        assert_eq!(complaint(ORDINARY, |_| ()), None);
        let none = |spec: &mut Value| spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
        assert!(complaint(ORDINARY, none).is_some_and(|text| text.contains("rootless container requires user")));
        assert_eq!(complaint(ROOT, none), None);
        let groups = |spec: &mut Value| spec["process"]["user"]["additionalGids"] = json!([0]);
        assert!(complaint(ORDINARY, groups).is_some_and(|text| text.contains("additionalGids")));
        assert_eq!(complaint(ROOT, groups), None);
        let devices = |spec: &mut Value| spec["linux"]["netDevices"] = json!({"eth0": {}});
        assert!(complaint(ORDINARY, devices).is_some_and(|text| text.contains("linux.netDevices")));
    }

    #[test]
    fn ids_that_are_not_mapped() {
        let user = |spec: &mut Value| spec["process"]["user"]["uid"] = json!(1);
        assert!(complaint(ROOT, user).is_some_and(|text| text.contains("process.user.uid: 1 is not mapped")));
        let mount = |kind: &str, option: &str| {
            let mount = json!([{"destination": "/x", "type": kind, "source": kind, "options": [option]}]);
            complaint(ROOT, |spec| spec["mounts"] = mount)
        };
        assert!(mount("tmpfs", "gid=5").is_some_and(|text| text.contains("mounts[/x].options[gid=5]")));
        assert_eq!(mount("tmpfs", "gid=0"), None);
        assert_eq!(mount("devpts", "gid=5"), None);
        assert!(mount("devpts", "uid=5").is_some());
    }

    #[test]
    fn ids_of_the_host() {
        let maps: Vec<LinuxIdMapping> = serde_json::from_value(json!([
            {"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 10}
        ]))
        .expect("mappings");
        assert_eq!([0, 1, 10, 11].map(|id| host_id(&maps, id)), [Some(1000), Some(100_000), Some(100_009), None]);
    }
}
