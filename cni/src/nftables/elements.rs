//! Elements of the table's sets and maps.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ruleset::Family;
use super::wire::{self, Attributes};
use super::{HostPort, octets};
use crate::attachment::Protocol;
use crate::netlink::Socket;
use crate::plugin::Error;

/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;

/// An element as the kernel lists it.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) data: Vec<u8>,
    /// The comment; empty if there is none.
    pub(super) owner: String,
    pub(super) is_interval_end: bool,
}

/// The elements of a set or map; none if there is no such table or set.
pub(super) fn list(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<Element>, Error> {
    let request = Attributes::new()
        .string(wire::NFTA_SET_ELEM_LIST_TABLE, table)
        .string(wire::NFTA_SET_ELEM_LIST_SET, set)
        .message(libc::NFT_MSG_GETSETELEM, 0);
    let found = socket.query(&request, true, |found: &mut Vec<Element>, _, body| {
        for (kind, value) in wire::message_attributes(body) {
            if kind == wire::NFTA_SET_ELEM_LIST_ELEMENTS {
                found.extend(wire::attributes(value).map(|(_, element)| parse(element)));
            }
        }
    });
    match found {
        Err(f) if f.errno() == libc::ENOENT => Ok(Vec::new()),
        other => other.map_err(|f| f.during(format!("list {set} of table {table}"))),
    }
}

fn parse(bytes: &[u8]) -> Element {
    let value = |data| {
        let mut values = wire::attributes(data).filter(|(kind, _)| *kind == wire::NFTA_DATA_VALUE);
        values.next().map(|(_, value)| value.to_vec()).unwrap_or_default()
    };
    let mut element = Element::default();
    for (kind, data) in wire::attributes(bytes) {
        match kind {
            wire::NFTA_SET_ELEM_KEY => element.key = value(data),
            wire::NFTA_SET_ELEM_DATA => element.data = value(data),
            wire::NFTA_SET_ELEM_USERDATA => {
                wire::parse_comment(data).unwrap_or_default().clone_into(&mut element.owner);
            }
            wire::NFTA_SET_ELEM_FLAGS => {
                let flags = data.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                element.is_interval_end = flags & INTERVAL_END != 0;
            }
            _ => {}
        }
    }
    element
}

fn with_elements(table: &str, set: &str, elements: Vec<Attributes>) -> Attributes {
    let list = elements.into_iter().fold(Attributes::new(), |list, element| list.nest(wire::NFTA_LIST_ELEM, element));
    Attributes::new()
        .string(wire::NFTA_SET_ELEM_LIST_TABLE, table)
        .string(wire::NFTA_SET_ELEM_LIST_SET, set)
        .nest(wire::NFTA_SET_ELEM_LIST_ELEMENTS, list)
}

/// An element by its key, for removal.
pub(super) fn key(table: &str, set: &str, key: &[u8]) -> Attributes {
    with_elements(table, set, vec![Attributes::new().data(wire::NFTA_SET_ELEM_KEY, key)])
}

/// A subnet in an interval set: its first address, and the one behind its last as the interval's end.
pub(super) fn subnet(table: &str, set: &str, subnet: &IpNet) -> Attributes {
    let mut elements = vec![Attributes::new().data(wire::NFTA_SET_ELEM_KEY, &octets(subnet.network()))];
    // Without an end the interval goes up to the last address there is.
    if let Some(end) = following(&octets(subnet.broadcast())) {
        let end = Attributes::new().data(wire::NFTA_SET_ELEM_KEY, &end).u32(wire::NFTA_SET_ELEM_FLAGS, INTERVAL_END);
        elements.push(end);
    }
    with_elements(table, set, elements)
}

/// The number plus one, big endian; none after the largest.
fn following(number: &[u8]) -> Option<Vec<u8>> {
    let mut next = number.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// The map that the port belongs in, and its key there. Every field begins at a multiple of four bytes.
pub(super) fn port_key(port: &HostPort) -> (String, Vec<u8>) {
    let family = Family::of(port.container_ip);
    let mut key = port.host_ip.map(octets).unwrap_or_default();
    key.extend([port.protocol.number(), 0, 0, 0]);
    key.extend(padded(port.host_port));
    let map = if port.host_ip.is_some() { family.ips_map() } else { family.ports_map() };
    (map, key)
}

/// A port in its map.
pub(super) fn port(table: &str, owner: &str, port: &HostPort) -> Attributes {
    let (map, key) = port_key(port);
    let mut target = octets(port.container_ip);
    target.extend(padded(port.container_port));
    let element = Attributes::new()
        .data(wire::NFTA_SET_ELEM_KEY, &key)
        .data(wire::NFTA_SET_ELEM_DATA, &target)
        .comment(wire::NFTA_SET_ELEM_USERDATA, owner);
    with_elements(table, &map, vec![element])
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The port that an element stands for; none if it is not one of ours.
pub(super) fn parse_port(element: &Element, family: Family, with_ip: bool) -> Option<HostPort> {
    let length = family.length() as usize;
    let (host_ip, rest) = if with_ip {
        let (ip, rest) = element.key.split_at_checked(length)?;
        (Some(address(ip)?), rest)
    } else {
        (None, &element.key[..])
    };
    let (container_ip, container_port) = element.data.split_at_checked(length)?;
    Some(HostPort {
        host_ip,
        host_port: u16::from_be_bytes(*rest.get(4..)?.first_chunk()?),
        protocol: Protocol::from_number(*rest.first()?)?,
        container_ip: address(container_ip)?,
        container_port: u16::from_be_bytes(*container_port.first_chunk()?),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_back_from_their_elements() {
        for (host_ip, container_ip, protocol) in [
            (None, "10.1.2.3", Protocol::Tcp),
            (Some("192.0.2.1"), "10.1.2.3", Protocol::Udp),
            (None, "fd00::7", Protocol::Sctp),
            (Some("2001:db8::1"), "fd00::7", Protocol::Tcp),
        ] {
            let port = HostPort {
                host_ip: host_ip.map(|ip: &str| ip.parse().unwrap()),
                host_port: 8080,
                protocol,
                container_ip: container_ip.parse().unwrap(),
                container_port: 80,
            };
            let (_, key) = port_key(&port);
            let mut data = octets(port.container_ip);
            data.extend(padded(port.container_port));
            let element = Element { key, data, ..Element::default() };
            let read = parse_port(&element, Family::of(port.container_ip), host_ip.is_some());
            assert_eq!(read, Some(port));
        }
        assert_eq!(parse_port(&Element::default(), Family::V4, false), None);
    }

    #[test]
    fn the_address_behind_the_last() {
        assert_eq!(following(&[10, 1, 255, 255]), Some(vec![10, 2, 0, 0]));
        assert_eq!(following(&[255, 255, 255, 255]), None);
    }
}
