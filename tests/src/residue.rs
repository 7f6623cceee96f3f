//! What pods leave on a node that goes on: when all pods are gone, nothing. The inventory compares the host before
//! and after a whole node; this looks at a living one, where a reset has not swept anything away yet.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command;
use crate::inventory::{Leftovers, entries};
use crate::node::Node;

/// Everything on `node` that belongs to a pod, present or past.
pub fn of_pods(node: &Node) -> Result<Leftovers> {
    let mut things = BTreeSet::new();
    let folders = ["cri/upper", "cri/containers", "cri/sandboxes", "cri/trash", "cni/results", "agent/pods"];
    let folders = folders.map(|name| node.state().join(name));
    for folder in folders.iter().chain(&[node.run().join("pods"), node.run().join("runtime"), node.logs()]) {
        things.extend(entries(folder)?.into_iter().map(|name| format!("{}/{name}", folder.display())));
    }
    for network in entries(&node.state().join("cni/networks"))? {
        let addresses = entries(&node.state().join("cni/networks").join(&network))?;
        let addresses = addresses.into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok());
        things.extend(addresses.map(|address| format!("address {address} of network {network}")));
    }
    let members = entries(&Path::new("/sys/class/net").join(node.bridge()).join("brif"))?;
    things.extend(members.into_iter().map(|name| format!("interface {name} on the bridge {}", node.bridge())));
    mounts(node, &mut things)?;
    elements(node, &mut things)?;
    cgroups(node, &mut things)?;
    Ok(Leftovers::new(things))
}

fn mounts(node: &Node, things: &mut BTreeSet<String>) -> Result<()> {
    let (state, run) = (node.state(), node.run());
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let point = line.split(' ').nth(4).context("a mount point in mountinfo")?;
        if Path::new(point).starts_with(&state) || Path::new(point).starts_with(&run) {
            things.insert(format!("mount {point}"));
        }
    }
    Ok(())
}

/// Host ports: the sets hold the networks' subnets, which stay, the maps what belongs to pods.
fn elements(node: &Node, things: &mut BTreeSet<String>) -> Result<()> {
    // The first pod makes the table.
    if !command::run("nft", ["list", "tables"])?.lines().any(|line| line == format!("table inet {}", node.nft_table()))
    {
        return Ok(());
    }
    let table = command::run("nft", ["--json", "list", "table", "inet", &node.nft_table()])?;
    let table: serde_json::Value = serde_json::from_str(&table)?;
    for object in table["nftables"].as_array().context("nft's list")? {
        let Some(map) = object.get("map") else { continue };
        let elements = map["elem"].as_array().into_iter().flatten();
        things.extend(elements.map(|element| format!("nftables {} {element}", map["name"])));
    }
    Ok(())
}

/// A pod's cgroup is `podUID`, at any depth below the node's.
fn cgroups(node: &Node, things: &mut BTreeSet<String>) -> Result<()> {
    let mut folders = Vec::new();
    for controller in entries(Path::new("/sys/fs/cgroup"))? {
        folders.push(Path::new("/sys/fs/cgroup").join(controller).join(node.cgroup_root().trim_start_matches('/')));
    }
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for name in entries(&folder)? {
            let path = folder.join(&name);
            if name.starts_with("pod") && path.is_dir() {
                things.insert(format!("cgroup {}", path.display()));
            } else {
                folders.push(path);
            }
        }
    }
    Ok(())
}
