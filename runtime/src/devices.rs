//! The nodes and links of /dev.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::error::{Context, Error, Failure};
use crate::path::Root;
use crate::sys;

/// A node to make.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    path: PathBuf,
    kind: SFlag,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What every container has (OCI runtime specification, "Default Devices"); console and ptmx come otherwise.
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Where nodes are: those of the spec, and the default ones.
pub(crate) fn paths(devices: &[LinuxDevice]) -> impl Iterator<Item = PathBuf> {
    let own = devices.iter().map(|device| device.path().clone());
    own.chain(DEFAULT.into_iter().map(|(path, ..)| PathBuf::from(path)))
}

/// The nodes of the spec and the default ones that it does not have.
pub(crate) fn plan(devices: &[LinuxDevice]) -> Result<Vec<Node>, Error> {
    let mut nodes = devices.iter().map(node).collect::<Result<Vec<_>, _>>()?;
    for (path, major, minor) in DEFAULT {
        if !nodes.iter().any(|node| node.path == Path::new(path)) {
            let path = PathBuf::from(path);
            nodes.push(Node { path, kind: SFlag::S_IFCHR, major, minor, mode: 0o666, uid: 0, gid: 0 });
        }
    }
    Ok(nodes)
}

fn node(device: &LinuxDevice) -> Result<Node, Error> {
    let invalid = |reason: &str| Error::invalid(format!("linux.devices[{}]", device.path().display()), reason);
    if !device.path().is_absolute() {
        return Err(invalid("the path must be absolute"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(invalid("the type must be c, b, u or p")),
    };
    // The kernel has 12 and 20 bits for them, and would take the lowest ones of more: another device.
    let number = |number: i64, bits: u32| {
        let fits = u64::try_from(number).ok().filter(|number| number >> bits == 0);
        fits.ok_or_else(|| invalid("major must be between 0 and 4095, minor between 0 and 1048575"))
    };
    Ok(Node {
        path: device.path().clone(),
        kind,
        major: number(device.major(), 12)?,
        minor: number(device.minor(), 20)?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes the nodes and links.
pub(crate) fn make(root: &Root, nodes: &[Node]) -> Result<(), Failure> {
    // A link in the image at /dev would put the nodes elsewhere (CVE-2026-41579).
    let dev = root.make_dir_without_links(Path::new("/dev")).at("open", "/dev")?;
    // The mode is whole from the start: a chmod afterwards, by name, could be led to another file by whoever
    // shares a volume with this container.
    let umask = nix::sys::stat::umask(Mode::empty());
    let made = nodes.iter().try_for_each(|node| make_node(root, &dev, node));
    nix::sys::stat::umask(umask);
    made?;
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => (),
            Err(errno) => return Err(Failure::new("link", format!("/dev/{name}"), errno)),
        }
    }
    Ok(())
}

/// Shows the host's node of the same path, if it is the one that is wanted; its owner and mode are the host's.
fn bind_node(root: &Root, node: &Node) -> Result<(), Failure> {
    let step = "bind device";
    let object = || node.path.display().to_string();
    let tree = sys::clone_tree(&node.path, false).at(step, object())?;
    let stat = fstat(&tree).at(step, object())?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind != node.kind || stat.st_rdev != makedev(node.major, node.minor) {
        let (major, minor) = (node.major, node.minor);
        let note = format!("devices cannot be made in a user namespace, and the host's is not {major}:{minor}");
        return Err(Failure::refused(step, object(), note));
    }
    let target = root.make_file(&node.path).at(step, object())?;
    sys::attach_mount(&tree, &target).at(step, object())
}

fn make_node(root: &Root, dev: &OwnedFd, node: &Node) -> Result<(), Failure> {
    let step = "make device";
    let object = || node.path.display().to_string();
    let parent;
    let (folder, name) = if node.path.parent() == Some(Path::new("/dev")) {
        (dev, node.path.file_name().ok_or(Errno::EINVAL).at(step, object())?)
    } else {
        let (folder, name) = root.make_parent(&node.path).at(step, object())?;
        parent = folder;
        (&parent, name)
    };
    match mknodat(folder, name, node.kind, Mode::from_bits_truncate(node.mode), makedev(node.major, node.minor)) {
        Ok(()) => {
            if (node.uid, node.gid) != (0, 0) {
                let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
                let owned = fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
                owned.at("give device", object())?;
            }
            Ok(())
        }
        Err(Errno::EEXIST) => Ok(()),
        // In a user namespace devices cannot be made: show the host's.
        Err(Errno::EPERM) => bind_node(root, node),
        Err(errno) => Err(errno).at(step, object()),
    }
}
