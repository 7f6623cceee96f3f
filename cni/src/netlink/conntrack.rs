//! Connection tracking: forgets flows whose address translation has changed.

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Request, Socket};
use crate::plugin::Error;

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `struct nfgenmsg`.
const GENERIC_HEADER: usize = 4;

/// Forgets the UDP flows to the ports, in the network namespace of the calling thread. UDP has no end that the
/// kernel could see: while a client goes on sending from the same port, translation stays what it was at the
/// first datagram, though the port leads elsewhere by now.
pub(crate) fn forget_udp_flows(ports: &[u16]) -> Result<(), Error> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::open(NETLINK_NETFILTER).map_err(|f| f.during("open a netfilter netlink socket"))?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let request = message(IPCTNL_MSG_CT_GET, family, &[]);
        let flows = socket.query(&request, true, |flows: &mut Vec<Request>, _, body| {
            let attributes = body.get(GENERIC_HEADER..).unwrap_or_default();
            if udp_port(attributes).is_some_and(|port| ports.contains(&port)) {
                flows.push(message(IPCTNL_MSG_CT_DELETE, family, &identity(attributes)));
            }
        });
        let flows = flows.map_err(|f| f.during("list tracked connections"))?;
        for flow in flows {
            match socket.acked(&[flow]) {
                // It ended meanwhile.
                Err(f) if f.errno() != libc::ENOENT => return Err(f.during("forget a tracked UDP flow")),
                _ => {}
            }
        }
    }
    Ok(())
}

fn message(kind: u16, family: u8, attributes: &[u8]) -> Request {
    let mut body = vec![family, 0, 0, 0];
    body.extend(attributes);
    Request { kind: (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | kind, flags: 0, body }
}

/// The port that a UDP flow was sent to in the first place; nothing for another protocol.
fn udp_port(attributes: &[u8]) -> Option<u16> {
    let original = find(attributes, CTA_TUPLE_ORIG)?;
    let protocol = find(original, CTA_TUPLE_PROTO)?;
    let is_udp = find(protocol, CTA_PROTO_NUM)?.first() == Some(&(libc::IPPROTO_UDP as u8));
    let port = find(protocol, CTA_PROTO_DST_PORT)?.first_chunk()?;
    is_udp.then_some(u16::from_be_bytes(*port))
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut found = NlasIterator::new(attributes).flatten().filter(|a| a.kind() == kind);
    let attribute = found.next()?;
    let end = usize::from(attribute.length());
    attribute.into_inner().get(4..end)
}

/// The attributes that name one flow, as they came.
fn identity(attributes: &[u8]) -> Vec<u8> {
    let mut named = Vec::new();
    for attribute in NlasIterator::new(attributes).flatten() {
        if matches!(attribute.kind(), CTA_TUPLE_ORIG | CTA_ID) {
            let end = usize::from(attribute.length());
            named.extend(attribute.into_inner().get(..end).unwrap_or_default());
            named.resize(named.len().next_multiple_of(4), 0);
        }
    }
    named
}
