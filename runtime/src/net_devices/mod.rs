//! `linux.netDevices`: network devices of the caller's network namespace that become the container's, with
//! their addresses, and perhaps with another name. When the container's namespace goes, the kernel puts
//! hardware back into the first one and removes what is virtual.

mod netlink;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxNetDevice};

use crate::error::{Context, Error, Failure};
use crate::sys::{self, ns};
use netlink::Netlink;

/// `IFNAMSIZ`, with the NUL at the end.
const NAME_SIZE: usize = 16;

/// Whether any device is to be moved.
pub(crate) fn wanted(linux: &Linux) -> bool {
    linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())
}

/// Checks names before anything is done.
pub(crate) fn check(devices: &HashMap<String, LinuxNetDevice>) -> Result<(), Error> {
    let mut taken: Vec<&str> = Vec::new();
    for (name, device) in devices {
        let field = || format!("linux.netDevices[{name:?}]");
        let target = target(name, device);
        for name in [name, target] {
            if !is_name(name) {
                return Err(Error::invalid(field(), format!("{name:?} is not the name of a network device")));
            }
        }
        if taken.contains(&target) {
            return Err(Error::invalid(field(), format!("another device becomes {target:?} too")));
        }
        taken.push(target);
    }
    Ok(())
}

fn target<'a>(name: &'a str, device: &'a LinuxNetDevice) -> &'a str {
    device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(name)
}

/// What the kernel takes as a name.
fn is_name(name: &str) -> bool {
    let strange = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace() || byte == 0x0b;
    !name.is_empty() && name.len() < NAME_SIZE && name != "." && name != ".." && !name.bytes().any(strange)
}

/// Moves the devices into the network namespace of the new process `pid`, or that which it will join.
pub(crate) fn move_all(linux: &Linux, pid: Pid) -> Result<(), Error> {
    let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else { return Ok(()) };
    let namespaces = linux.namespaces().iter().flatten();
    let mut networks = namespaces.filter(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    let path = networks.next().and_then(|network| network.path().clone()).filter(|path| !path.as_os_str().is_empty());
    let path = path.unwrap_or_else(|| format!("/proc/{pid}/ns/net").into());
    let namespace = open(&path)?;
    let host = Netlink::open().at("open", "netlink socket")?;
    let inside = inside(&namespace)?;
    // By name, so that what fails first does not change from run to run.
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_unstable_by_key(|(name, _)| *name);
    for (name, device) in devices {
        move_one(&host, &inside, &namespace, name, target(name, device))?;
    }
    Ok(())
}

fn move_one(host: &Netlink, inside: &Netlink, namespace: &OwnedFd, name: &str, target: &str) -> Result<(), Failure> {
    let object = || format!("linux.netDevices[{name:?}]");
    let index = host.index(name).at("find", object())?;
    if inside.index(target).is_ok() {
        return Err(Failure::refused("move", object(), format!("the container has a device {target:?} already")));
    }
    let addresses = host.addresses(index).at("read addresses of", object())?;
    // A device that is up can be neither moved nor named anew by every driver, and loses its addresses in any case.
    host.set_up(index, false).at("take down", object())?;
    host.move_to(index, namespace.as_raw_fd(), target).at("move", object())?;
    let index = inside.index(target).at("find in the container", object())?;
    for address in &addresses {
        inside.add_address(index, address).at("give its address to", object())?;
    }
    inside.set_up(index, true).at("bring up", object())
}

/// A socket in another network namespace: sockets stay where they were made. The caller comes back in any case.
fn inside(namespace: &OwnedFd) -> Result<Netlink, Failure> {
    let own = open(Path::new("/proc/self/ns/net"))?;
    sys::setns(namespace, ns::NET).at("join", "network namespace of the container")?;
    let made = Netlink::open().at("open", "netlink socket of the container");
    sys::setns(&own, ns::NET).at("go back to", "own network namespace")?;
    made
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    Ok(File::open(path).at("open namespace", path.display())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(json: &str) -> HashMap<String, LinuxNetDevice> {
        serde_json::from_str(json).expect("json")
    }

    #[test]
    fn names() {
        assert!(check(&devices(r#"{"eth1":{},"eth2":{"name":"eth0"},"eth0":{"name":""} }"#)).is_err());
        check(&devices(r#"{"eth1":{},"eth2":{"name":"eth0"}}"#)).expect("names");
        for name in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-letters-", "a\u{0}"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
