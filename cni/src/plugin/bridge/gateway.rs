//! The host as the network's router: the gateway addresses on the bridge, forwarding, and the routes in the
//! container.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::netlink::{Link, Route};
use crate::plugin::Error;
use crate::result::{self, CniResult};

/// Fills in a gateway where address management gave none, and a default route if there shall be one.
pub(super) fn complete(ipam: &mut CniResult, default_route: bool) {
    for ip in &mut ipam.ips {
        ip.gateway = ip.gateway.or_else(|| first_host(&ip.address));
    }
    if !default_route {
        return;
    }
    for ip in &ipam.ips {
        let dst = match ip.address {
            IpNet::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpNet::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        if !ipam.routes.iter().any(|route| route.dst == dst) {
            ipam.routes.push(result::Route { dst, gw: ip.gateway, mtu: None, priority: None });
        }
    }
}

/// A subnet's first address for a host. In IPv6 the first of all is every router's (RFC 4291, 2.6.1).
fn first_host(address: &IpNet) -> Option<IpAddr> {
    let skipped = usize::from(address.addr().is_ipv6() && address.prefix_len() < 128);
    address.hosts().nth(skipped)
}

/// The routes with the gateway that each goes over: its own, or that of the first address of its family.
pub(super) fn routes(ipam: &CniResult) -> Vec<result::Route> {
    let gateway = |is_v4: bool| {
        let mut same = ipam.ips.iter().filter(|ip| ip.address.addr().is_ipv4() == is_v4);
        same.find_map(|ip| ip.gateway)
    };
    let with_gateway = |route: &result::Route| result::Route {
        gw: route.gw.or_else(|| gateway(route.dst.addr().is_ipv4())),
        ..route.clone()
    };
    ipam.routes.iter().map(with_gateway).collect()
}

/// Gives the bridge the gateway addresses that it lacks, and lets the host forward.
pub(super) fn ensure(route: &mut Route, bridge: &Link, ipam: &CniResult, force: bool) -> Result<(), Error> {
    let has = route.addresses(bridge)?;
    for ip in &ipam.ips {
        let Some(gateway) = ip.gateway else { continue };
        let want = IpNet::new(gateway, ip.address.prefix_len()).map_err(|e| Error::config("gateway", e))?;
        if !has.contains(&want) {
            add(route, bridge, &has, want, force)?;
        }
    }
    let any = |is_v4: bool| ipam.ips.iter().any(|ip| ip.address.addr().is_ipv4() == is_v4);
    if any(true) {
        forward(Path::new("/proc/sys/net/ipv4/ip_forward"))?;
    }
    if any(false) {
        forward(Path::new("/proc/sys/net/ipv6/conf/all/forwarding"))?;
    }
    Ok(())
}

fn add(route: &mut Route, bridge: &Link, has: &[IpNet], want: IpNet, force: bool) -> Result<(), Error> {
    for other in has.iter().filter(|other| overlap(other, &want)) {
        if !force {
            return Err(Error::GatewayConflict { bridge: bridge.name.clone(), has: *other, want });
        }
        route.delete_address(bridge, *other)?;
    }
    route.add_address(bridge, want)
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Writes only a change: turning IPv6 forwarding on, even again, resets settings of every interface.
fn forward(path: &Path) -> Result<(), Error> {
    let now = fs::read(path).map_err(Error::file("read", path))?;
    if now.trim_ascii() == b"0" {
        fs::write(path, "1").map_err(Error::file("write 1 to", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(text: &str) -> CniResult {
        serde_json::from_str(text).unwrap()
    }

    fn pairs(ipam: &CniResult) -> Vec<(IpNet, Option<IpAddr>)> {
        routes(ipam).into_iter().map(|r| (r.dst, r.gw)).collect()
    }

    fn route(dst: &str, gw: &str) -> (IpNet, Option<IpAddr>) {
        (dst.parse().unwrap(), Some(gw.parse().unwrap()))
    }

    #[test]
    fn pairs_are_added_once_per_family() {
        let mut both = ipam(r#"{"ips":[{"address":"10.1.0.5/24"},{"address":"fd00::5/64","gateway":"fd00::9"}]}"#);
        complete(&mut both, true);
        complete(&mut both, true);
        let expected = [route("0.0.0.0/0", "10.1.0.1"), route("::/0", "fd00::9")];
        assert_eq!(pairs(&both), expected);
    }

    #[test]
    fn the_gateway_is_the_first_host() {
        for (address, gateway) in [
            ("10.1.0.5/24", "10.1.0.1"),
            ("10.1.0.5/32", "10.1.0.5"),
            ("fd00::5/64", "fd00::1"),
            ("fd00::5/127", "fd00::5"),
            ("fd00::5/128", "fd00::5"),
        ] {
            assert_eq!(first_host(&address.parse().unwrap()), Some(gateway.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn routes_go_over_their_familys_gateway() {
        let both = ipam(
            r#"{"ips":[{"address":"10.1.0.5/24","gateway":"10.1.0.1"},{"address":"fd00::5/64","gateway":"fd00::1"}],
                "routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.1.0.7"},{"dst":"::/0"}]}"#,
        );
        let expected = [route("0.0.0.0/0", "10.1.0.1"), route("10.9.0.0/16", "10.1.0.7"), route("::/0", "fd00::1")];
        assert_eq!(pairs(&both), expected);
    }
}
