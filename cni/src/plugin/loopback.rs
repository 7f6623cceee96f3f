//! `loopback`: the container's own `lo`, up.

use serde_json::Value;

use super::{Command, Error, Request};
use crate::netlink::{Link, Route};
use crate::netns::Netns;
use crate::result::{CniResult, Interface, IpConfig};

const LO: &str = "lo";

pub(super) fn run(request: &Request) -> Result<Option<Value>, Error> {
    match request.command {
        Command::Add => add(request).map(Some),
        Command::Check => check(request).map(|()| None),
        // It goes with the namespace, and sets nothing up outside.
        Command::Del | Command::Gc | Command::Status | Command::Version => Ok(None),
    }
}

fn add(request: &Request) -> Result<Value, Error> {
    let netns = request.netns()?;
    let (link, addresses) = Netns::open(netns)?.run(|| {
        let mut route = Route::open()?;
        let link = lo(&mut route)?;
        route.set_up(&link)?;
        // 127.0.0.1 and ::1 came with that.
        let addresses = route.addresses(&link)?;
        Ok((link, addresses))
    })?;
    let previous = request.prev_result()?;
    let result = previous.unwrap_or_else(|| CniResult {
        interfaces: vec![Interface {
            name: link.name,
            mac: link.mac,
            sandbox: netns.display().to_string(),
            ..Interface::default()
        }],
        ips: addresses
            .into_iter()
            .map(|address| IpConfig { version: None, interface: Some(0), address, gateway: None })
            .collect(),
        ..CniResult::default()
    });
    Ok(result.to_version(request.version()?))
}

fn check(request: &Request) -> Result<(), Error> {
    let link = Netns::open(request.netns()?)?.run(|| lo(&mut Route::open()?))?;
    if link.up {
        return Ok(());
    }
    Err(Error::check("interface lo", "it is down"))
}

fn lo(route: &mut Route) -> Result<Link, Error> {
    route.link(LO)?.ok_or_else(|| Error::check("interface lo", "it is not there"))
}
