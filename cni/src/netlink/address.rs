//! Addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Route;
use super::link::Link;
use super::route::NONE;
use crate::plugin::Error;

impl Route {
    /// The interface's addresses, without the link-local ones of IPv6.
    pub fn addresses(&mut self, link: &Link) -> Result<Vec<IpNet>, Error> {
        let index = link.index;
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = self.query(request, true, |found: &mut Vec<IpNet>, _, body| {
            let address = AddressMessage::parse(body).ok().filter(|m| m.header.index == index);
            found.extend(address.as_ref().and_then(network).filter(|n| !is_link_local(n.addr())));
        });
        found.map_err(|f| f.during(format!("list the addresses of {}", link.name)))
    }

    /// Gives the interface an address. That it has it already is success.
    pub fn add_address(&mut self, link: &Link, address: IpNet) -> Result<(), Error> {
        let request = add_address_request(link.index, address);
        match self.request(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(f) if f.errno() != libc::EEXIST => Err(f.during(format!("add address {address} to {}", link.name))),
            _ => Ok(()),
        }
    }

    /// Takes an address away.
    pub fn delete_address(&mut self, link: &Link, address: IpNet) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelAddress(address_message(link.index, address));
        match self.request(request, NONE) {
            Err(f) if f.errno() != libc::EADDRNOTAVAIL => {
                Err(f.during(format!("remove address {address} from {}", link.name)))
            }
            _ => Ok(()),
        }
    }
}

/// IPv6 without duplicate address detection: it takes two seconds, and host-local hands nothing out twice.
pub(super) fn add_address_request(index: u32, address: IpNet) -> RouteNetlinkMessage {
    let mut message = address_message(index, address);
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    RouteNetlinkMessage::NewAddress(message)
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

/// `IFA_LOCAL` is the interface's own address, which IPv6 only says as `IFA_ADDRESS`.
fn network(message: &AddressMessage) -> Option<IpNet> {
    let own = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let other = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNet::new(own.or(other)?, message.header.prefix_len).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
