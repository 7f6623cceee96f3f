//! Checks of a whole configuration before anything is done: what breaks the specification, and what this
//! runtime cannot do and says so. Each check is small and has a name; [`check`] is the list of them.

mod text;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use crate::cgroups;
use crate::error::{Context, Error};
use crate::hooks;
use crate::inherited;
use crate::net_devices;
use crate::resctrl;
use crate::schedule;

type Check = fn(&Spec) -> Result<(), Error>;

/// Checks a configuration for `create`.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    let checks: [Check; 13] = [
        text::no_nul,
        version,
        platform,
        process,
        namespaces,
        inherited::check,
        user_namespace,
        names,
        sysctls,
        network_devices,
        mounts,
        all_hooks,
        extensions,
    ];
    checks.into_iter().try_for_each(|check| check(spec))
}

fn linux(spec: &Spec) -> Option<&Linux> {
    spec.linux().as_ref()
}

fn has(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = linux(spec).and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == kind)
}

fn joins_by_path(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = linux(spec).and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        namespace.typ() == kind && namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())
    })
}

fn version(spec: &Spec) -> Result<(), Error> {
    match spec.version().split('.').next() {
        Some("1") => Ok(()),
        _ => Err(Error::invalid("ociVersion", format!("{:?} is not a version 1 specification", spec.version()))),
    }
}

fn platform(spec: &Spec) -> Result<(), Error> {
    if spec.root().is_none() {
        return Err(Error::invalid("root", "it is missing"));
    }
    if linux(spec).is_none() {
        return Err(Error::invalid("linux", "it is missing"));
    }
    if spec.vm().is_some() {
        return Err(Error::unsupported("vm", "this runtime makes no virtual machines"));
    }
    Ok(())
}

fn process(spec: &Spec) -> Result<(), Error> {
    match spec.process() {
        Some(process) => check_process(process),
        None => Err(Error::invalid("process", "it is missing")),
    }
}

/// Checks what does not need the host, for `create` and `exec`.
pub(crate) fn check_process(process: &Process) -> Result<(), Error> {
    text::in_process(process)?;
    if let Some(scheduler) = process.scheduler() {
        schedule::scheduler(scheduler)?;
    }
    schedule::exec_cpus(process.exec_cpu_affinity().as_ref()).map(drop)?;
    ids(process)?;
    match process.io_priority().as_ref().map(oci_spec::runtime::LinuxIOPriority::priority) {
        Some(level) if !(0..=7).contains(&level) => {
            Err(Error::invalid("process.ioPriority.priority", format!("{level} is not between 0 and 7")))
        }
        _ => Ok(()),
    }
}

/// To setresuid(2) and its like the highest number means "leave it as it is", and that is root.
fn ids(process: &Process) -> Result<(), Error> {
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().map(|gid| ("additionalGids", *gid));
    match [("uid", user.uid()), ("gid", user.gid())].into_iter().chain(groups).find(|(_, id)| *id == u32::MAX) {
        Some((name, id)) => Err(Error::invalid(format!("process.user.{name}"), format!("{id} is not an id"))),
        None => Ok(()),
    }
}

fn namespaces(spec: &Spec) -> Result<(), Error> {
    let list = linux(spec).and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (at, namespace) in list.iter().enumerate() {
        if list[..at].iter().any(|earlier| earlier.typ() == namespace.typ()) {
            return Err(Error::invalid("linux.namespaces", format!("{} is there twice", namespace.typ())));
        }
    }
    let offsets = linux(spec).and_then(|linux| linux.time_offsets().as_ref());
    if offsets.is_some_and(|offsets| !offsets.is_empty())
        && (!has(spec, LinuxNamespaceType::Time) || joins_by_path(spec, LinuxNamespaceType::Time))
    {
        return Err(Error::invalid("linux.timeOffsets", "they need a new time namespace"));
    }
    Ok(())
}

fn user_namespace(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = linux(spec) else { return Ok(()) };
    let mapped = |list: Option<usize>| list.is_some_and(|length| length > 0);
    let uids = mapped(linux.uid_mappings().as_ref().map(Vec::len));
    let gids = mapped(linux.gid_mappings().as_ref().map(Vec::len));
    let new = has(spec, LinuxNamespaceType::User) && !joins_by_path(spec, LinuxNamespaceType::User);
    match (new, uids && gids, uids || gids) {
        (true, false, _) => Err(Error::invalid("linux.uidMappings", "a new user namespace needs uid and gid mappings")),
        (false, _, true) if !has(spec, LinuxNamespaceType::User) => {
            Err(Error::invalid("linux.uidMappings", "mappings need a new user namespace"))
        }
        _ => Ok(()),
    }
}

fn names(spec: &Spec) -> Result<(), Error> {
    let uts = has(spec, LinuxNamespaceType::Uts);
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if name.as_ref().is_some_and(|name| !name.is_empty()) && !uts {
            return Err(Error::invalid(field, "it needs a UTS namespace"));
        }
    }
    Ok(())
}

/// Kernel parameters that exist once per namespace. Others are the host's, as are those of a namespace of its own.
fn sysctls(spec: &Spec) -> Result<(), Error> {
    const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    for name in linux(spec).and_then(|linux| linux.sysctl().as_ref()).into_iter().flat_map(|all| all.keys()) {
        let field = || format!("linux.sysctl[{name:?}]");
        if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/".contains(letter))
            || name.split(['.', '/']).any(str::is_empty)
        {
            return Err(Error::invalid(field(), "it is not the name of a kernel parameter"));
        }
        let dotted = name.replace('/', ".");
        let needs = match dotted.as_str() {
            dotted if dotted.starts_with("net.") => LinuxNamespaceType::Network,
            dotted if dotted.starts_with("fs.mqueue.") => LinuxNamespaceType::Ipc,
            dotted if dotted.strip_prefix("kernel.").is_some_and(|rest| IPC.contains(&rest)) => LinuxNamespaceType::Ipc,
            "kernel.domainname" => LinuxNamespaceType::Uts,
            "kernel.hostname" => return Err(Error::invalid(field(), "use the property hostname")),
            _ => return Err(Error::invalid(field(), "it belongs to the whole host, not to a namespace")),
        };
        if !has(spec, needs) || is_of_caller(spec, needs)? {
            return Err(Error::invalid(field(), format!("it needs a {needs} namespace of the container's own")));
        }
    }
    Ok(())
}

/// Whether the namespace of this kind is one to join, and the caller's own.
fn is_of_caller(spec: &Spec, kind: LinuxNamespaceType) -> Result<bool, Error> {
    let namespaces = linux(spec).and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let path = namespaces.filter(|namespace| namespace.typ() == kind).find_map(|namespace| namespace.path().as_ref());
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(false) };
    let file = match kind {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Ipc => "ipc",
        _ => "uts",
    };
    let identity = |path: &Path| -> Result<_, Error> {
        let meta = std::fs::metadata(path).at("open namespace", path.display())?;
        Ok((meta.dev(), meta.ino()))
    };
    Ok(identity(path)? == identity(Path::new(&format!("/proc/self/ns/{file}")))?)
}

fn network_devices(spec: &Spec) -> Result<(), Error> {
    let devices = linux(spec).and_then(|linux| linux.net_devices().as_ref()).filter(|devices| !devices.is_empty());
    let Some(devices) = devices else { return Ok(()) };
    if !has(spec, LinuxNamespaceType::Network) {
        return Err(Error::invalid("linux.netDevices", "they need a network namespace of the container's own"));
    }
    net_devices::check(devices)
}

/// Whether the kernel labels files and processes by SELinux.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn mounts(spec: &Spec) -> Result<(), Error> {
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        if destination.as_os_str().is_empty() {
            return Err(Error::invalid("mounts.destination", "it must not be empty"));
        }
    }
    Ok(())
}

#[allow(deprecated)]
fn all_hooks(spec: &Spec) -> Result<(), Error> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    let lists = [
        ("prestart", all.prestart()),
        ("createRuntime", all.create_runtime()),
        ("createContainer", all.create_container()),
        ("startContainer", all.start_container()),
        ("poststart", all.poststart()),
        ("poststop", all.poststop()),
    ];
    lists.into_iter().try_for_each(|(kind, list)| hooks::check(kind, list.as_ref()))
}

fn extensions(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = linux(spec) else { return Ok(()) };
    resctrl::check(linux)?;
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) && !has_selinux() {
        return Err(Error::unsupported("linux.mountLabel", "SELinux is not enabled on this host"));
    }
    linux.resources().as_ref().map_or(Ok(()), cgroups::unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(linux: &str, more: &str) -> Spec {
        let json = format!(
            r#"{{"ociVersion":"1.3.0","root":{{"path":"rootfs"}},"process":{{"cwd":"/","args":["a"],"user":{{"uid":0,"gid":0}}}},
                "linux":{{"namespaces":[{{"type":"mount"}}{linux}}}{more}}}"#
        );
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    fn field(spec: &Spec) -> Option<String> {
        match check(spec) {
            Ok(()) => None,
            Err(Error::InvalidSpec { field, .. }) => Some(field),
            Err(Error::Unsupported { feature, .. }) => Some(feature),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn plain() {
        assert_eq!(field(&spec("]", "")), None);
    }

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let sysctl = |name: &str| field(&spec(&format!(r#",{{"type":"ipc"}}],"sysctl":{{"{name}":"1"}}"#), ""));
        assert_eq!(sysctl("kernel.shmmax"), None);
        assert_eq!(sysctl("fs.mqueue.msg_max"), None);
        for name in
            ["kernel.core_pattern", "net.ipv4.ip_forward", "kernel.hostname", "kernel.shmmax/../x", "vm.swappiness"]
        {
            assert!(sysctl(name).is_some(), "{name}");
        }
    }

    #[test]
    fn refused() {
        assert_eq!(field(&spec(r#",{"type":"mount"}]"#, "")).as_deref(), Some("linux.namespaces"));
        assert_eq!(field(&spec(r#",{"type":"user"}]"#, "")).as_deref(), Some("linux.uidMappings"));
        assert_eq!(field(&spec("]", r#","hostname":"web""#)).as_deref(), Some("hostname"));
        assert_eq!(field(&spec(r#"],"intelRdt":{}"#, "")).as_deref(), Some("linux.intelRdt"));
        assert!(field(&spec("]", r#","hooks":{"poststop":[{"path":"rel"}]}"#)).is_some());
    }
}
