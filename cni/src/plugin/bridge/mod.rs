//! `bridge`: a veth pair between the container and a bridge of the host.
//!
//! ADD makes the pair with its peer inside the container's namespace and the host's end as a forwarding port.
//! DEL needs neither the namespace nor a cached result, because the name of the host's end follows from the
//! attachment: it deletes that end, and the peer goes with it. With
//! [`netns_going_away`](crate::Attachment::netns_going_away) it deletes nothing, since the kernel does with
//! the namespace, and the address waits in quarantine.
//!
//! The bridge, its gateway address, the masquerading of its subnets and the host's forwarding belong to the
//! node: they are made by the first ADD and stay ([`crate::remove_network`]).

mod config;
mod gateway;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

use self::config::{BridgeConfig, requested_mac};
use super::{Command, Error, Request, delegate, host_interface_name, nft_table};
use crate::netlink::{Link, Route, Veth};
use crate::netns::Netns;
use crate::result::{self, CniResult, Interface};

use std::os::fd::AsFd;

/// A port forwards after some 70 us; a bridge that somebody set to run STP takes 30 s by default.
const FORWARDING_LIMIT: Duration = Duration::from_secs(5);

/// What the aliases of our ports begin with.
const ALIAS: &str = "orlop-cni ";

pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => add(request).map(Some),
        Command::Del => delete(request).map(|()| None),
        Command::Check => check(request).map(|()| None),
        Command::Gc => collect_garbage(request).map(|()| None),
        Command::Status => {
            BridgeConfig::of(request)?;
            delegate::ipam(request, Command::Status).map(|_| None)
        }
        Command::Version => Ok(None),
    }
}

fn add(request: &Request) -> Result<Value, Error> {
    let config = BridgeConfig::of(request)?;
    let mac = requested_mac(request)?;
    let netns = Netns::open(request.netns()?)?;
    netns.refuse_own()?;
    let host_name = host_name(request)?;
    let mut route = Route::open()?;
    let bridge = ensure_bridge(&mut route, &config)?;
    // Left by an ADD that was killed half-way.
    if route.link(&host_name)?.is_some() {
        route.delete_link(&host_name)?;
    }
    let attach = Attach { request, config: &config, bridge: &bridge, host_name: &host_name, mac, netns: &netns };
    let added = attach.addresses().and_then(|ipam| attach.connect(&mut route, ipam));
    let result = added.map_err(|cause| cause.after_rollback(undo(&mut route, request, &host_name)))?;
    Ok(result.to_version(request.version()?))
}

/// Takes back what ADD made for this container.
fn undo(route: &mut Route, request: &Request, host_name: &str) -> Result<(), Error> {
    let request = Request { netns_going_away: false, ..request.clone() };
    let link = route.delete_link(host_name);
    let addresses = delegate::ipam(&request, Command::Del).map(drop);
    Error::gather([link, addresses])
}

fn delete(request: &Request) -> Result<(), Error> {
    let host_name = host_name(request)?;
    // The interface first: its address must not be another's while it still works.
    let link = if request.netns_going_away {
        Ok(())
    } else {
        Route::open().and_then(|mut route| route.delete_link(&host_name))
    };
    let addresses = match &link {
        Ok(()) => delegate::ipam(request, Command::Del).map(drop),
        Err(_) => Ok(()),
    };
    Error::gather([link, addresses])
}

/// Deletes the ports of this network's bridge whose containers are not valid any more, by their aliases.
fn collect_garbage(request: &Request) -> Result<(), Error> {
    let network = request.network()?;
    let valid: Vec<String> =
        request.valid_attachments()?.iter().map(|id| alias(network, &id.container_id, &id.ifname)).collect();
    let all = format!("{ALIAS}{network}/");
    let config: BridgeConfig = request.parse()?;
    let mut route = Route::open()?;
    let ports = match route.link(&config.bridge)? {
        Some(bridge) => route.ports(&bridge)?,
        None => Vec::new(),
    };
    let stale = ports.iter().filter(|p| p.alias.starts_with(&all) && !valid.contains(&p.alias));
    let mut results: Vec<_> = stale.map(|port| route.delete_link(&port.name)).collect();
    results.push(delegate::ipam(request, Command::Gc).map(drop));
    Error::gather(results)
}

/// Who a port belongs to.
fn alias(network: &str, container_id: &str, ifname: &str) -> String {
    format!("{ALIAS}{network}/{container_id}/{ifname}")
}

fn host_name(request: &Request) -> Result<String, Error> {
    Ok(host_interface_name(request.network()?, &request.container_id, &request.ifname))
}

/// One container's way onto the bridge.
struct Attach<'a> {
    request: &'a Request,
    config: &'a BridgeConfig,
    bridge: &'a Link,
    host_name: &'a str,
    mac: Option<[u8; 6]>,
    netns: &'a Netns,
}

impl Attach<'_> {
    /// The addresses that address management gives, with the gateways and routes that follow from them. An
    /// empty result is a network without layer 3.
    fn addresses(&self) -> Result<CniResult, Error> {
        let Some(mut ipam) = delegate::ipam(self.request, Command::Add)? else {
            return Ok(CniResult::default());
        };
        if ipam.ips.is_empty() {
            return Err(Error::config("ipam", "gave no address"));
        }
        if self.config.is_gateway {
            gateway::complete(&mut ipam, self.config.is_default_gateway);
        }
        Ok(ipam)
    }

    fn connect(&self, route: &mut Route, mut ipam: CniResult) -> Result<CniResult, Error> {
        if self.config.is_gateway {
            gateway::ensure(route, self.bridge, &ipam, self.config.force_address)?;
        }
        let peer = self.make_pair(route, &ipam)?;
        let alias = alias(self.request.network()?, &self.request.container_id, &self.request.ifname);
        route.set_alias(self.host_name, &alias)?;
        let port = route.wait_forwarding(self.host_name, FORWARDING_LIMIT)?;
        if self.config.hairpin_mode {
            route.set_hairpin(&port)?;
        }
        if self.config.ip_masq {
            nft_table(&self.request.config)?.masquerade(&subnets(&ipam))?;
        }
        ipam.ips.iter_mut().for_each(|ip| ip.interface = Some(2));
        ipam.interfaces = vec![
            interface(self.bridge, ""),
            interface(&port, ""),
            interface(&peer, &self.netns.path().display().to_string()),
        ];
        if let Some(dns) = self.own_dns() {
            ipam.dns = dns;
        }
        Ok(ipam)
    }

    /// Makes the pair and sets up the container's end. The thread is in the container's namespace, the socket
    /// `host` is the host's.
    fn make_pair(&self, host: &mut Route, ipam: &CniResult) -> Result<Link, Error> {
        let ifname = self.request.ifname.as_str();
        self.netns.run(|| {
            let mut inside = Route::open()?;
            host.create_veth(&Veth {
                host_name: self.host_name,
                bridge: self.bridge.index,
                peer_name: ifname,
                netns: self.netns.as_fd(),
                mtu: self.config.mtu(),
                peer_mac: self.mac,
            })?;
            let peer = inside.link(ifname)?.ok_or_else(|| Error::InterfaceExists { name: ifname.to_owned() })?;
            // Routes come from address management, and from no neighbour (CVE-2020-10749).
            set_if_there("net/ipv6/conf", ifname, "accept_ra", "0")?;
            if ipam.ips.iter().any(|ip| ip.address.addr().is_ipv6()) {
                set_if_there("net/ipv6/conf", ifname, "disable_ipv6", "0")?;
            }
            let addresses: Vec<IpNet> = ipam.ips.iter().map(|ip| ip.address).collect();
            inside.configure(peer.index, ifname, &addresses, &gateway::routes(ipam))?;
            Ok(peer)
        })
    }

    /// Name servers in the plugin's own configuration come before address management's.
    fn own_dns(&self) -> Option<result::Dns> {
        let dns = self.request.config.get("dns")?;
        let dns: result::Dns = serde_json::from_value(dns.clone()).ok()?;
        (dns != result::Dns::default()).then_some(dns)
    }
}

fn subnets(ipam: &CniResult) -> Vec<IpNet> {
    ipam.ips.iter().map(|ip| ip.address.trunc()).collect()
}

fn interface(link: &Link, sandbox: &str) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.clone(),
        mtu: Some(link.mtu),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}

/// The bridge, made if it is missing, and up.
fn ensure_bridge(route: &mut Route, config: &BridgeConfig) -> Result<Link, Error> {
    let name = &config.bridge;
    let bridge = match route.link(name)? {
        Some(bridge) => bridge,
        None => make_bridge(route, config)?,
    };
    if bridge.kind != "bridge" {
        return Err(Error::WrongKind { name: name.clone(), expected: "bridge" });
    }
    if !bridge.up {
        route.set_up(&bridge)?;
    }
    if config.promisc_mode && !bridge.promiscuous {
        route.set_promiscuous(&bridge)?;
    }
    Ok(bridge)
}

fn make_bridge(route: &mut Route, config: &BridgeConfig) -> Result<Link, Error> {
    let name = &config.bridge;
    match route.create_bridge(name, random_mac()?, config.mtu()) {
        Ok(()) => {}
        // Another ADD made it at this moment.
        Err(e) if e.errno() == Some(libc::EEXIST) => {}
        Err(e) => return Err(e),
    }
    // Whoever is on the bridge could announce itself as the host's router (CVE-2020-10749).
    set_if_there("net/ipv6/conf", name, "accept_ra", "0")?;
    let made = route.link(name)?;
    made.ok_or_else(|| Error::check(format!("bridge {name}"), "somebody removed it at once"))
}

/// Locally administered, of one interface.
fn random_mac() -> Result<[u8; 6], Error> {
    let path = Path::new("/dev/urandom");
    let mut mac = [0; 6];
    let mut file = fs::File::open(path).map_err(Error::file("open", path))?;
    file.read_exact(&mut mac).map_err(Error::file("read", path))?;
    mac[0] = (mac[0] | 2) & !1;
    Ok(mac)
}

/// Writes a setting of an interface, of the namespace that the thread is in; nothing if the kernel does not
/// have it, as without IPv6.
fn set_if_there(folder: &str, interface: &str, key: &str, value: &str) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/sys/{folder}/{interface}/{key}"));
    match fs::write(&path, value) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("write", &path)(e)),
        _ => Ok(()),
    }
}

fn check(request: &Request) -> Result<(), Error> {
    let config = BridgeConfig::of(request)?;
    let result = request.need_prev_result()?;
    delegate::ipam(request, Command::Check)?;
    check_host(request, &config)?;
    let netns = Netns::open(request.netns()?)?;
    netns.run(|| check_container(&request.ifname, &result))?;
    if config.ip_masq && !nft_table(&request.config)?.is_masqueraded(&subnets(&result))? {
        return Err(Error::check("masquerading", "its rules are missing"));
    }
    Ok(())
}

fn check_host(request: &Request, config: &BridgeConfig) -> Result<(), Error> {
    let mut route = Route::open()?;
    let host_name = host_name(request)?;
    let missing = |name: &str| Error::check(format!("interface {name}"), "it is not there");
    let bridge = route.link(&config.bridge)?.ok_or_else(|| missing(&config.bridge))?;
    let port = route.link(&host_name)?.ok_or_else(|| missing(&host_name))?;
    if port.master != Some(bridge.index) {
        let found = format!("it is no port of {}", bridge.name);
        return Err(Error::check(format!("interface {host_name}"), found));
    }
    if config.hairpin_mode && !port.hairpin() {
        return Err(Error::check(format!("interface {host_name}"), "it is not in hairpin mode"));
    }
    Ok(())
}

fn check_container(ifname: &str, result: &CniResult) -> Result<(), Error> {
    let what = format!("interface {ifname} in the container");
    let mut route = Route::open()?;
    let link = route.link(ifname)?.ok_or_else(|| Error::check(&what, "it is not there"))?;
    if !link.up {
        return Err(Error::check(&what, "it is down"));
    }
    let addresses = route.addresses(&link)?;
    let wanted = result.ips.iter().map(|ip| ip.address);
    if let Some(address) = wanted.into_iter().find(|a| !addresses.contains(a)) {
        return Err(Error::check(what, format!("it does not have {address}")));
    }
    let routes = route.routes(link.index, ifname)?;
    let wanted = gateway::routes(result);
    match wanted.iter().find(|r| !routes.iter().any(|(dst, _)| *dst == r.dst)) {
        Some(route) => Err(Error::check(what, format!("the route to {} is missing", route.dst))),
        None => Ok(()),
    }
}

/// Removes the bridge of a `bridge` plugin's configuration, unless it has ports. That it is gone already is
/// success.
pub(crate) fn remove_bridge(plugin: &Map<String, Value>) -> Result<(), Error> {
    let name = plugin.get("bridge").and_then(Value::as_str).unwrap_or("cni0");
    let mut route = Route::open()?;
    let Some(bridge) = route.link(name)? else { return Ok(()) };
    if bridge.kind != "bridge" {
        return Ok(());
    }
    match route.ports(&bridge)?.len() {
        0 => route.delete_link(name),
        ports => Err(Error::check(format!("bridge {name}"), format!("{ports} ports are still on it"))),
    }
}
