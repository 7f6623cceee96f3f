//! The rtnetlink socket, and routes.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkSerializable, Parseable};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::address::add_address_request;
use super::link::set_up_request;
use super::{Failure, Request, Socket};
use crate::plugin::Error;
use crate::result;

/// No flags beside those of every request.
pub(crate) const NONE: u16 = 0;

/// A socket for links, addresses and routes of one network namespace.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// For the namespace that the calling thread is in.
    pub fn open() -> Result<Route, Error> {
        let socket = Socket::open(NETLINK_ROUTE).map_err(|f| f.during("open a netlink route socket"))?;
        Ok(Route { socket })
    }

    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Failure> {
        self.socket.acked(&[encode(&message, flags)])
    }

    pub(super) fn query<T: Default>(
        &mut self,
        message: RouteNetlinkMessage,
        dump: bool,
        each: impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<T, Failure> {
        self.socket.query(&encode(&message, NONE), dump, each)
    }

    /// Brings the interface up with these addresses and routes, in one exchange with the kernel.
    pub fn configure(
        &mut self,
        index: u32,
        name: &str,
        addresses: &[IpNet],
        routes: &[result::Route],
    ) -> Result<(), Error> {
        let mut steps = vec![format!("set interface {name} up")];
        let mut requests = vec![encode(&set_up_request(index), NONE)];
        for address in addresses {
            steps.push(format!("add address {address} to {name}"));
            let message = add_address_request(index, *address);
            requests.push(encode(&message, NLM_F_CREATE | NLM_F_EXCL));
        }
        for route in routes {
            steps.push(format!("add route to {} to {name}", route.dst));
            let message = RouteNetlinkMessage::NewRoute(route_message(index, route));
            requests.push(encode(&message, NLM_F_CREATE | NLM_F_EXCL));
        }
        self.socket.acked(&requests).map_err(|f| {
            let step = f.index.and_then(|i| steps.get(i).cloned());
            f.during(step.unwrap_or_else(|| format!("configure interface {name}")))
        })
    }

    /// The destinations and gateways of the main table's routes over the interface.
    pub fn routes(&mut self, index: u32, name: &str) -> Result<Vec<(IpNet, Option<IpAddr>)>, Error> {
        let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let found = self.query(request, true, |found: &mut Vec<_>, _, body| {
            found.extend(RouteMessage::parse(body).ok().and_then(|m| destination(&m, index)));
        });
        found.map_err(|f| f.during(format!("list the routes of {name}")))
    }
}

fn encode(message: &RouteNetlinkMessage, flags: u16) -> Request {
    let mut body = vec![0; NetlinkSerializable::buffer_len(message)];
    message.serialize(&mut body);
    Request { kind: message.message_type(), flags, body }
}

fn route_message(index: u32, route: &result::Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.dst {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.gw {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.attributes.push(RouteAttribute::Oif(index));
    if route.dst.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route_address(route.dst.network())));
    }
    message.attributes.extend(route.gw.map(|gw| RouteAttribute::Gateway(route_address(gw))));
    message.attributes.extend(route.priority.map(RouteAttribute::Priority));
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn destination(message: &RouteMessage, index: u32) -> Option<(IpNet, Option<IpAddr>)> {
    let any = match message.header.address_family {
        AddressFamily::Inet => "0.0.0.0",
        AddressFamily::Inet6 => "::",
        _ => return None,
    };
    let mut dst: IpAddr = any.parse().ok()?;
    let mut gateway = None;
    let mut over = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(i) => over = *i == index,
            RouteAttribute::Destination(address) => dst = ip_address(address)?,
            RouteAttribute::Gateway(address) => gateway = ip_address(address),
            _ => {}
        }
    }
    let in_main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    let net = IpNet::new(dst, message.header.destination_prefix_length).ok()?;
    (over && in_main).then_some((net, gateway))
}
