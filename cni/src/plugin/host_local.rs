//! `host-local`: the address of a container, out of ranges of this host. A main plugin such as `bridge`
//! delegates to it; as a program it answers the same.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::{Command, Error, Request, host_interface_name};
use crate::attachment::AttachmentId;
use crate::host_local::{self, HostLocal, IpamConfig, RangeSet};
use crate::result::{CniResult, Dns};

pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    let network = request.network()?;
    let config = ipam_config(request)?;
    let id = AttachmentId { container_id: request.container_id.clone(), ifname: request.ifname.clone() };
    match request.command {
        Command::Add => add(request, &config, &id).map(Some),
        Command::Del => {
            let interface = host_interface_name(network, &id.container_id, &id.ifname);
            let until_gone = request.netns_going_away.then_some(interface.as_str());
            let known = request.prev_result()?.map(|r| r.addresses_of(&id.ifname));
            host_local::release(network, &config, &id, &known.unwrap_or_default(), until_gone)?;
            Ok(None)
        }
        Command::Check => {
            let expected = request.need_prev_result()?;
            let expected: Vec<IpAddr> = expected.ips.iter().map(|ip| ip.address.addr()).collect();
            allocator(request, &config)?.check(&id, &expected)?;
            Ok(None)
        }
        Command::Gc => {
            host_local::collect_garbage(network, &config, &request.valid_attachments()?)?;
            Ok(None)
        }
        Command::Status => {
            allocator(request, &config)?;
            Ok(None)
        }
        Command::Version => Ok(None),
    }
}

fn add(request: &Request, config: &IpamConfig, id: &AttachmentId) -> Result<Value, Error> {
    let dns = match &config.resolv_conf {
        Some(path) => resolv_conf(path)?,
        None => Dns::default(),
    };
    let requested = requested_addresses(request)?;
    let ips = allocator(request, config)?.allocate(id, &requested, request.is_first)?;
    let result = CniResult { ips, routes: config.routes.clone(), dns, ..CniResult::default() };
    Ok(result.to_version(request.version()?))
}

fn ipam_config(request: &Request) -> Result<IpamConfig, Error> {
    let ipam = request.config.get("ipam").ok_or_else(|| Error::config("ipam", "is missing"))?;
    IpamConfig::deserialize(ipam).map_err(|e| Error::config("ipam", e))
}

fn allocator(request: &Request, config: &IpamConfig) -> Result<HostLocal, Error> {
    let extra: Option<Vec<RangeSet>> = request.runtime_config("ipRanges")?;
    HostLocal::new(request.network()?, config, extra.unwrap_or_default())
}

/// The addresses that are asked for: the `ips` capability, `args.cni.ips`, and `IP` of `CNI_ARGS`; each with
/// or without a prefix.
fn requested_addresses(request: &Request) -> Result<Vec<IpAddr>, Error> {
    let mut texts: Vec<String> = request.runtime_config("ips")?.unwrap_or_default();
    if let Some(ips) = request.config.get("args").and_then(|a| a.get("cni")?.get("ips")) {
        let ips = Vec::<String>::deserialize(ips).map_err(|e| Error::config("args.cni.ips", e))?;
        texts.extend(ips);
    }
    let from_args = request.arg("IP").unwrap_or_default();
    texts.extend(from_args.split(',').filter(|s| !s.is_empty()).map(str::to_owned));
    texts.iter().map(|text| parse_address(text)).collect()
}

fn parse_address(text: &str) -> Result<IpAddr, Error> {
    let bare = text.parse::<IpAddr>();
    bare.or_else(|_| text.parse::<IpNet>().map(|net| net.addr()))
        .map_err(|_| Error::config("ips", format!("{text:?} is not an IP address")))
}

fn resolv_conf(path: &Path) -> Result<Dns, Error> {
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    Ok(parse_resolv_conf(&text))
}

fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let mut values = words.map(str::to_owned);
        match keyword {
            "nameserver" => dns.nameservers.extend(values.next()),
            "domain" => dns.domain = values.next().unwrap_or_default(),
            // The last line counts, as in resolv.conf(5).
            "search" => dns.search = values.collect(),
            "options" => dns.options.extend(values),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let dns = parse_resolv_conf(
            "# x\nnameserver 10.0.0.1\nnameserver fd00::1\nsearch a\nsearch b c\noptions ndots:5 rotate\ndomain d\n;y\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.1", "fd00::1"]);
        assert_eq!(dns.search, ["b", "c"]);
        assert_eq!(dns.options, ["ndots:5", "rotate"]);
        assert_eq!(dns.domain, "d");
    }

    #[test]
    fn addresses_with_and_without_a_prefix() {
        assert_eq!(parse_address("10.1.2.3/24").unwrap().to_string(), "10.1.2.3");
        assert_eq!(parse_address("fd00::1").unwrap().to_string(), "fd00::1");
        assert!(parse_address("ten").is_err());
    }
}
