//! Device nodes, and the list of devices that the cgroup allows.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use orlop_proto::v1;

use super::Inputs;
use crate::error::{Context, Error, Kind, Result};

/// Folders and files of /dev that a container has of its own.
const OWN: [&str; 5] = ["pts", "shm", "mqueue", "fd", "console"];

/// The nodes to make, and the rules. The runtime adds the default devices to both.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

pub(super) fn of(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Devices> {
    let mut devices = Devices::default();
    if security.privileged {
        let dev = Path::new("/dev");
        walk(dev, dev, &mut devices.nodes).step(|| "list /dev".to_owned())?;
        devices.rules.push(rule(true, None, "rwm")?);
        return Ok(devices);
    }
    devices.rules.push(rule(false, None, "rwm")?);
    for device in &inputs.config.devices {
        add(device, &mut devices)?;
    }
    Ok(devices)
}

fn add(device: &v1::Device, devices: &mut Devices) -> Result<()> {
    let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
    if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(Error::invalid(format!(
            "device {}: permissions {access:?} are not made of r, w, m",
            device.host_path
        )));
    }
    let host = Path::new(&device.host_path);
    let inside = if device.container_path.is_empty() { host } else { Path::new(&device.container_path) };
    let real =
        fs::canonicalize(host).context(Kind::InvalidArgument, || format!("look at the device {}", host.display()))?;
    let before = devices.nodes.len();
    walk(&real, inside, &mut devices.nodes)
        .context(Kind::InvalidArgument, || format!("look at the device {}", host.display()))?;
    if devices.nodes.len() == before {
        return Err(Error::invalid(format!("{} is no device and holds none", host.display())));
    }
    for node in &devices.nodes[before..] {
        devices.rules.push(rule(true, Some(node), access)?);
    }
    Ok(())
}

/// Adds the node at `host`, or those below it, under the name `inside`.
fn walk(host: &Path, inside: &Path, nodes: &mut Vec<LinuxDevice>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(host)?;
    let kind = metadata.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        nodes.extend(node(inside.to_owned(), &metadata));
    } else if kind.is_dir() {
        for entry in fs::read_dir(host)? {
            let name = entry?.file_name();
            if host == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
                continue;
            }
            match walk(&host.join(&name), &inside.join(&name), nodes) {
                // A device that went away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn node(path: PathBuf, metadata: &fs::Metadata) -> Option<LinuxDevice> {
    let kind = if metadata.file_type().is_block_device() { LinuxDeviceType::B } else { LinuxDeviceType::C };
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(major(metadata.rdev()) as i64)
        .minor(minor(metadata.rdev()) as i64)
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .ok()
}

fn rule(allow: bool, node: Option<&LinuxDevice>, access: &str) -> Result<LinuxDeviceCgroup> {
    let mut builder = LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    if let Some(node) = node {
        builder = builder.typ(node.typ()).major(node.major()).minor(node.minor());
    }
    builder.build().step(|| "make the OCI spec: device rule".to_owned())
}
