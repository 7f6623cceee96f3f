//! `portmap`: ports of the host that lead to the container, as elements of the node's nftables maps.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Command, Error, Request, nft_table};
use crate::attachment::{PortMapping, Protocol};
use crate::netlink::{Route, forget_udp_flows};
use crate::nftables::HostPort;
use crate::result::CniResult;

pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    let table = nft_table(&request.config)?;
    match request.command {
        Command::Add => add(request).map(Some),
        Command::Del => {
            forget_udp_flows(&udp_ports(&table.unmap_ports(&owner(request)?)?))?;
            Ok(None)
        }
        Command::Check => check(request).map(|()| None),
        Command::Gc => {
            let prefix = format!("{}/", request.network()?);
            let valid = request.valid_attachments()?;
            let valid: Vec<String> =
                valid.iter().map(|id| format!("{prefix}{}/{}", id.container_id, id.ifname)).collect();
            let stale = |owner: &str| owner.starts_with(&prefix) && !valid.iter().any(|v| v == owner);
            forget_udp_flows(&udp_ports(&table.unmap_ports_if(stale)?))?;
            Ok(None)
        }
        Command::Status => refuse_unsupported(request).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn add(request: &Request) -> Result<Value, Error> {
    refuse_unsupported(request)?;
    let previous = request.need_prev_result()?;
    let ports = host_ports(request, &previous)?;
    let table = nft_table(&request.config)?;
    if ports.is_empty() {
        // A repeated ADD whose ports were taken away meanwhile.
        table.unmap_ports(&owner(request)?)?;
    } else {
        prepare_links(&previous)?;
        let addresses = ports.iter().map(|p| p.container_ip).collect::<Vec<_>>();
        table.map_ports(&owner(request)?, &ports, &subnets(&previous, &addresses))?;
        forget_udp_flows(&udp_ports(&ports))?;
    }
    // As it came: the result may have parts of other plugins that we know nothing of.
    Ok(request.config.get("prevResult").cloned().unwrap_or_else(|| json!({})))
}

fn check(request: &Request) -> Result<(), Error> {
    let previous = request.need_prev_result()?;
    let mut wanted = host_ports(request, &previous)?;
    let mut found = nft_table(&request.config)?.ports(&owner(request)?)?;
    wanted.sort();
    found.sort();
    if wanted == found {
        return Ok(());
    }
    Err(Error::check("the host ports", format!("in force are {found:?}")))
}

/// Who an element of the maps belongs to: its comment.
fn owner(request: &Request) -> Result<String, Error> {
    Ok(format!("{}/{}/{}", request.network()?, request.container_id, request.ifname))
}

/// What other implementations do by keys that we would have to ignore.
fn refuse_unsupported(request: &Request) -> Result<(), Error> {
    const KEYS: [(&str, &str); 6] = [
        ("snat", "only snat: true is done, which is the default"),
        ("masqAll", "remove it: connections from outside keep their source address"),
        ("markMasqBit", "remove it: no packet is marked"),
        ("externalSetMarkChain", "remove it: no packet is marked"),
        ("conditionsV4", "remove it: conditions are iptables arguments"),
        ("conditionsV6", "remove it: conditions are iptables arguments"),
    ];
    for (key, instead) in KEYS {
        let harmless = match request.config.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::Bool(value)) => *value == (key == "snat"),
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        };
        if !harmless {
            return Err(Error::Unsupported { what: format!("portmap: {key}"), instead });
        }
    }
    match request.config.get("backend").and_then(Value::as_str) {
        None | Some("nftables") => Ok(()),
        Some(other) => {
            Err(Error::Unsupported { what: format!("portmap: backend {other:?}"), instead: "only nftables is done" })
        }
    }
}

/// The mappings, for each of the container's address families.
fn host_ports(request: &Request, previous: &CniResult) -> Result<Vec<HostPort>, Error> {
    let mappings: Vec<PortMapping> = request.runtime_config("portMappings")?.unwrap_or_default();
    let addresses = previous.addresses_of(&request.ifname);
    let v4 = addresses.iter().find(|ip| ip.is_ipv4());
    let v6 = addresses.iter().find(|ip| ip.is_ipv6());
    let mut ports = Vec::new();
    for mapping in &mappings {
        if mapping.container_port == 0 {
            return Err(Error::config("portMappings", "containerPort must not be 0"));
        }
        // Runtimes list container ports without a hostPort too.
        if mapping.host_port == 0 {
            continue;
        }
        ports.extend(v4.into_iter().chain(v6).filter_map(|ip| host_port(mapping, *ip)));
    }
    ports.sort();
    ports.dedup();
    Ok(ports)
}

/// The mapping for one address of the container; none if it is about the other family.
fn host_port(mapping: &PortMapping, container_ip: IpAddr) -> Option<HostPort> {
    let same_family = mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == container_ip.is_ipv4());
    same_family.then(|| HostPort {
        host_ip: mapping.host_ip.filter(|ip| !ip.is_unspecified()),
        host_port: mapping.host_port,
        protocol: mapping.protocol,
        container_ip,
        container_port: mapping.container_port,
    })
}

fn udp_ports(ports: &[HostPort]) -> Vec<u16> {
    let udp = ports.iter().filter(|p| p.protocol == Protocol::Udp);
    udp.map(|p| p.host_port).collect()
}

fn subnets(previous: &CniResult, addresses: &[IpAddr]) -> Vec<IpNet> {
    let of_ports = previous.ips.iter().filter(|ip| addresses.contains(&ip.address.addr()));
    of_ports.map(|ip| ip.address.trunc()).collect()
}

/// Lets what the maps redirect arrive.
///
/// A connection from 127.0.0.1 leaves over the container's bridge only with route_localnet, so that
/// `localhost:hostPort` works on the host. What the kernel no longer drops by itself from then on, the table's
/// guard chain does. A container's connection to its own hostPort comes back through its own port of the
/// bridge where bridged packets go through the netfilter hooks (`bridge-nf-call-iptables`), which only a port
/// in hairpin mode lets through.
fn prepare_links(previous: &CniResult) -> Result<(), Error> {
    let on_host = previous.interfaces.iter().filter(|i| i.sandbox.is_empty());
    let mut route = Route::open()?;
    for interface in on_host {
        let Some(link) = route.link(&interface.name)? else { continue };
        if link.master.is_none() {
            route_localnet(&link.name)?;
        } else if !link.hairpin() {
            route.set_hairpin(&link)?;
        }
    }
    Ok(())
}

fn route_localnet(interface: &str) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet"));
    if fs::read(&path).map_err(Error::file("read", &path))?.trim_ascii() == b"1" {
        return Ok(());
    }
    fs::write(&path, "1").map_err(Error::file("write 1 to", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_made_for_the_families_it_is_about() {
        let mapping = |host_ip: Option<&str>| PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let (v4, v6): (IpAddr, IpAddr) = ("10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        assert_eq!(host_port(&mapping(None), v4).unwrap().host_ip, None);
        assert!(host_port(&mapping(None), v6).is_some());
        assert_eq!(host_port(&mapping(Some("0.0.0.0")), v4).unwrap().host_ip, None);
        assert!(host_port(&mapping(Some("0.0.0.0")), v6).is_none());
        let one = host_port(&mapping(Some("192.0.2.1")), v4).unwrap();
        assert_eq!(one.host_ip.unwrap().to_string(), "192.0.2.1");
    }
}
