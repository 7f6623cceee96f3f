//! Idmapped mounts: the ids of the files of a bind mount, mapped by a user namespace that is made for nothing
//! else (mount_setattr(2), `MOUNT_ATTR_IDMAP`). It takes rights over the filesystem, so the caller makes such a
//! mount, and the container's process only attaches it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount};

use super::{Kind, PlannedMount, borrow};
use crate::child::Child;
use crate::error::{Context, Error, Failure};
use crate::sys::{self, MountAttr, attr, ns};
use crate::user_namespace;

/// Whose mapping a mount gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// The contents of `uid_map` and `gid_map`.
    Own(String, String),
    /// That of the container's user namespace.
    Container,
}

/// Understands the mappings of a mount and its option `idmap` or `ridmap`.
pub(super) fn mapping(mount: &Mount, option: Option<bool>, is_bind: bool) -> Result<Option<Mapping>, Error> {
    let field = |name: &str| format!("mounts[{}].{name}", mount.destination().display());
    let list =
        |mappings: &Option<Vec<LinuxIdMapping>>| mappings.as_deref().map(lines).filter(|lines| !lines.is_empty());
    let mapping = match (list(mount.uid_mappings()), list(mount.gid_mappings()), option) {
        (None, None, None) => return Ok(None),
        (None, None, Some(_)) => Mapping::Container,
        (Some(uids), Some(gids), _) => Mapping::Own(uids, gids),
        (None, Some(_), _) => return Err(Error::invalid(field("uidMappings"), "it goes together with gidMappings")),
        (Some(_), None, _) => return Err(Error::invalid(field("gidMappings"), "it goes together with uidMappings")),
    };
    if !is_bind {
        return Err(Error::invalid(field("uidMappings"), "only bind mounts can be idmapped"));
    }
    Ok(Some(mapping))
}

/// Mappings as `uid_map` and `gid_map` take them (user_namespaces(7)).
pub(crate) fn lines(mappings: &[LinuxIdMapping]) -> String {
    use std::fmt::Write;
    mappings.iter().fold(String::new(), |mut lines, map| {
        let _ = writeln!(lines, "{} {} {}", map.container_id(), map.host_id(), map.size());
        lines
    })
}

/// Makes the mounts that are idmapped, in the caller.
pub(crate) fn prepare(mounts: &mut [PlannedMount], linux: &Linux) -> Result<(), Error> {
    let mut made: Vec<(Mapping, OwnedFd)> = Vec::new();
    for mount in mounts {
        let Some(mapping) = mount.mapping.clone() else { continue };
        user_namespace::check_idmapped(format!("mounts[{}].uidMappings", mount.destination.display()))?;
        let known = made.iter().position(|(known, _)| *known == mapping);
        let at = if let Some(at) = known {
            at
        } else {
            let namespace = namespace(&mapping, mount, linux)?;
            made.push((mapping, namespace));
            made.len() - 1
        };
        let tree = map(mount, &made[at].1)?;
        // With this the host is to see what is mounted in there.
        if !matches!(linux.rootfs_propagation().as_deref(), Some("shared" | "rshared")) {
            borrow::cut_off(&tree, mount)?;
        }
        mount.tree = Some(tree);
    }
    Ok(())
}

fn map(mount: &PlannedMount, namespace: &OwnedFd) -> Result<OwnedFd, Failure> {
    use std::os::fd::AsRawFd;
    let object = || format!("{} at {}", mount.source.display(), mount.destination.display());
    let recursive = matches!(mount.kind, Kind::Bind { recursive: true });
    let tree = sys::clone_tree(&mount.source, recursive).at("mount", object())?;
    let attr = MountAttr { set: attr::IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..MountAttr::default() };
    match sys::set_mount_attr(&tree, &attr, mount.options.idmap == Some(true)).at("map the ids of", object()) {
        Err(failure) if failure.errno == Errno::EINVAL as i32 => {
            Err(failure.note("with this kernel its filesystem may not be one whose ids can be mapped"))
        }
        mapped => mapped.map(|()| tree),
    }
}

fn namespace(mapping: &Mapping, mount: &PlannedMount, linux: &Linux) -> Result<OwnedFd, Error> {
    match mapping {
        Mapping::Own(uids, gids) => Ok(make_namespace(uids, gids)?),
        Mapping::Container => container_namespace(linux)?.ok_or_else(|| {
            let field = format!("mounts[{}].options", mount.destination.display());
            Error::invalid(field, "idmap needs uidMappings and gidMappings, or a user namespace of the container")
        }),
    }
}

/// A user namespace with the mapping of the container's.
fn container_namespace(linux: &Linux) -> Result<Option<OwnedFd>, Failure> {
    let mut namespaces = linux.namespaces().iter().flatten();
    let Some(user) = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User) else { return Ok(None) };
    if let Some(path) = user.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
        return open(path).map(Some);
    }
    let list = |mappings: &Option<Vec<LinuxIdMapping>>| lines(mappings.as_deref().unwrap_or_default());
    make_namespace(&list(linux.uid_mappings()), &list(linux.gid_mappings())).map(Some)
}

/// A user namespace without processes: the one that made it has ended when this returns.
fn make_namespace(uids: &str, gids: &str) -> Result<OwnedFd, Failure> {
    let step = "make user namespace of";
    let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).at(step, "a mount")?;
    let Some((pid, pidfd)) = sys::clone_process(ns::USER, None).at(step, "a mount")? else {
        // Ends with its caller: when nobody has the other end of the pipe any more.
        drop(theirs);
        let _ = nix::unistd::read(&ours, &mut [0]);
        sys::exit_now(0);
    };
    let _child = Child::new(pid, pidfd);
    drop(ours);
    for (file, lines) in [("uid_map", uids), ("gid_map", gids)] {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        std::fs::write(&path, lines).at("write mapping of a mount to", path.display())?;
    }
    let namespace = open(Path::new(&format!("/proc/{pid}/ns/user")))?;
    drop(theirs);
    Ok(namespace)
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    Ok(std::fs::File::open(path).at("open namespace", path.display())?.into())
}
