//! The mounts of a container: the usual filesystems, the pod's files, and what the request names.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use orlop_proto::v1::{self, MountPropagation, NamespaceMode};

use super::Inputs;
use crate::error::{Context, Error, Kind, Result};

/// Hidden unless the container is privileged (the kubelet's list for procMount Default).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Read-only unless the container is privileged.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// An image to be mounted.
#[derive(Debug, Clone)]
pub(crate) struct ImageVolume {
    /// Top first; never empty.
    pub(crate) layers: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    /// Wide enough for the widest propagation among the mounts.
    pub(super) rootfs_propagation: Option<String>,
}

pub(super) fn masked_paths(security: &v1::LinuxContainerSecurityContext) -> Vec<String> {
    paths(security.privileged, &security.masked_paths, &MASKED)
}

pub(super) fn readonly_paths(security: &v1::LinuxContainerSecurityContext) -> Vec<String> {
    paths(security.privileged, &security.readonly_paths, &READ_ONLY)
}

/// A request with an empty list gets the usual one: Unmasked is only for pods with a user namespace, which are
/// refused, and clients other than the kubelet leave the list out.
fn paths(privileged: bool, asked: &[String], usual: &[&str]) -> Vec<String> {
    if privileged {
        return Vec::new();
    }
    if asked.is_empty() { usual.iter().map(|&path| path.to_owned()).collect() } else { asked.to_vec() }
}

/// All mounts, parents before what lies below them.
pub(super) fn of(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Mounts> {
    let mut asked = Vec::new();
    let mut propagation = None;
    for (place, mount) in inputs.config.mounts.iter().enumerate() {
        asked.push(requested(mount, inputs.volumes.get(&place))?);
        propagation = propagation.max(rootfs_propagation(mount));
    }
    let mut list = filesystems(inputs, security)?;
    list.extend(pod_files(inputs, security)?);
    list.retain(|usual| !asked.iter().any(|mount| mount.destination() == usual.destination()));
    list.extend(asked);
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(Mounts {
        list,
        rootfs_propagation: propagation.map(|propagation| match propagation {
            MountPropagation::PropagationBidirectional => "rshared".to_owned(),
            _ => "rslave".to_owned(),
        }),
    })
}

fn filesystems(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let access = if security.privileged { "rw" } else { "ro" };
    let mut list = vec![
        filesystem("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        filesystem("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        filesystem("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])?,
        filesystem("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        filesystem("/sys", "sysfs", &["nosuid", "noexec", "nodev", access])?,
        filesystem("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])?,
    ];
    if inputs.sandbox.namespace_options().ipc() == NamespaceMode::Node {
        list.retain(|mount| mount.destination() != Path::new("/dev/mqueue"));
        list.push(bind("/dev/mqueue", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"])?);
    }
    Ok(list)
}

fn pod_files(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let files = inputs.pod_dir.join("files");
    let access = if security.readonly_rootfs { "ro" } else { "rw" };
    let file = |name: &str| bind(Path::new("/etc").join(name), files.join(name), &["rbind", "rprivate", access]);
    let mut list = vec![file("resolv.conf")?, file("hostname")?];
    if inputs.sandbox.host_network() {
        list.push(bind("/etc/hosts", "/etc/hosts", &["rbind", "rprivate", "ro"])?);
    } else {
        list.push(file("hosts")?);
    }
    let shm = if inputs.sandbox.namespace_options().ipc() == NamespaceMode::Node {
        PathBuf::from("/dev/shm")
    } else {
        files.join("shm")
    };
    list.push(bind("/dev/shm", shm, &["rbind", "nosuid", "nodev", "noexec", "rw"])?);
    Ok(list)
}

fn filesystem(destination: &str, kind: &str, options: &[&str]) -> Result<Mount> {
    mount(Path::new(destination), kind, Path::new(kind), options)
}

fn bind(destination: impl AsRef<Path>, source: impl AsRef<Path>, options: &[&str]) -> Result<Mount> {
    mount(destination.as_ref(), "bind", source.as_ref(), options)
}

fn mount(destination: &Path, kind: &str, source: &Path, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        .step(|| format!("make the OCI spec: mount {}", destination.display()))
}

/// One mount of the request.
fn requested(mount: &v1::Mount, image: Option<&ImageVolume>) -> Result<Mount> {
    let destination = destination(&mount.container_path)?;
    if let Some(image) = image {
        return image_mount(&destination, mount, image);
    }
    let mut options = vec!["rbind"];
    options.push(match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    });
    if mount.recursive_read_only {
        if !mount.readonly || mount.propagation() != MountPropagation::PropagationPrivate {
            return Err(Error::invalid(format!(
                "mount {}: recursive_read_only needs readonly and private propagation",
                mount.container_path
            )));
        }
        options.push("rro");
    }
    options.push(if mount.readonly { "ro" } else { "rw" });
    bind(destination, source(&mount.host_path)?, &options)
}

/// An absolute path without `..`; the runtime resolves links inside the root filesystem.
fn destination(path: &str) -> Result<PathBuf> {
    let absolute: PathBuf = Path::new("/").join(path);
    if path.is_empty() || absolute == Path::new("/") || absolute.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!("the mount path {path:?} is not a path below / without ..")));
    }
    Ok(absolute.components().collect())
}

/// Where the host path leads to. A folder that is missing is made, as Docker and containerd do.
fn source(host_path: &str) -> Result<PathBuf> {
    let path = Path::new(host_path);
    if !path.is_absolute() {
        return Err(Error::invalid(format!("the host path {host_path:?} is not absolute")));
    }
    let step = || format!("look at the host path {host_path}");
    match fs::canonicalize(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .step(|| format!("make the host path {host_path}"))?;
            fs::canonicalize(path).context(Kind::InvalidArgument, step)
        }
        other => other.context(Kind::InvalidArgument, step),
    }
}

fn image_mount(destination: &Path, asked: &v1::Mount, image: &ImageVolume) -> Result<Mount> {
    if !asked.image_sub_path.is_empty() {
        return Err(Error::unimplemented(format!("mount {}: image_sub_path is not supported", asked.container_path)));
    }
    match image.layers.as_slice() {
        [] => Err(Error::invalid(format!("mount {}: the image has no layers", asked.container_path))),
        [only] => bind(destination, only, &["rbind", "rprivate", "ro", "nosuid", "nodev"]),
        layers => {
            let escaped: Vec<String> = layers
                .iter()
                .map(|layer| layer.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,"))
                .collect();
            let lower = format!("lowerdir={}", escaped.join(":"));
            mount(destination, "overlay", Path::new("overlay"), &["ro", "nosuid", "nodev", &lower])
        }
    }
}

/// Ordered by width.
fn rootfs_propagation(mount: &v1::Mount) -> Option<MountPropagation> {
    Some(mount.propagation()).filter(|propagation| *propagation != MountPropagation::PropagationPrivate)
}

/// The images named by mounts, by their place in the list.
pub(crate) fn image_mounts(config: &v1::ContainerConfig) -> HashMap<usize, String> {
    config
        .mounts
        .iter()
        .enumerate()
        .filter_map(|(place, mount)| {
            let image = mount.image.as_ref().map(|spec| spec.image.clone())?;
            (!image.is_empty()).then_some((place, image))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{ImageVolume, destination, paths, requested};
    use orlop_proto::v1;
    use std::path::{Path, PathBuf};

    #[test]
    fn destinations_stay_below_the_root() {
        for path in ["", "/", "/..", "/../../etc", "a/../b", "."] {
            assert!(destination(path).is_err(), "{path:?}");
        }
        assert_eq!(destination("data//x/").unwrap(), Path::new("/data/x"));
    }

    #[test]
    fn recursive_read_only_needs_read_only() {
        let mut mount = v1::Mount {
            container_path: "/x".to_owned(),
            host_path: "/tmp".to_owned(),
            recursive_read_only: true,
            ..Default::default()
        };
        assert!(requested(&mount, None).is_err());
        mount.readonly = true;
        let options = requested(&mount, None).unwrap().options().clone().unwrap();
        assert_eq!(options, ["rbind", "rprivate", "rro", "ro"]);
        mount.host_path = "relative".to_owned();
        assert!(requested(&mount, None).is_err());
    }

    #[test]
    fn images_are_mounted_read_only() {
        let mount = v1::Mount { container_path: "/m".to_owned(), ..Default::default() };
        let image = |names: &[&str]| ImageVolume { layers: names.iter().map(PathBuf::from).collect() };
        let one = requested(&mount, Some(&image(&["/l/a"]))).unwrap();
        assert!(one.options().as_ref().unwrap().contains(&"ro".to_owned()));
        let two = requested(&mount, Some(&image(&["/l/a", "/l:b"]))).unwrap();
        assert_eq!(two.typ().as_deref(), Some("overlay"));
        assert!(two.options().as_ref().unwrap().contains(&"lowerdir=/l/a:/l\\:b".to_owned()));
        assert!(requested(&mount, Some(&image(&[]))).is_err());
    }

    #[test]
    fn an_empty_list_is_the_usual_one_unless_privileged() {
        assert_eq!(paths(false, &[], &["/a"]), ["/a"]);
        assert_eq!(paths(false, &["/b".to_owned()], &["/a"]), ["/b"]);
        assert!(paths(true, &["/b".to_owned()], &["/a"]).is_empty());
    }
}
