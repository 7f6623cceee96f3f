//! Links: bridges and veth pairs.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::Route;
use super::route::NONE;
use crate::plugin::Error;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, …; empty for hardware and `lo`.
    pub kind: String,
    pub mac: String,
    pub mtu: u32,
    pub up: bool,
    pub promiscuous: bool,
    /// Who made it, if that is us.
    pub alias: String,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    forwarding: bool,
    hairpin: bool,
}

/// A veth pair to be made.
#[derive(Debug)]
pub struct Veth<'a> {
    /// The host's end, which becomes a port of `bridge` and goes up at once.
    pub host_name: &'a str,
    pub bridge: u32,
    /// The end that is made inside `netns`.
    pub peer_name: &'a str,
    pub netns: BorrowedFd<'a>,
    /// The kernel's choice if absent.
    pub mtu: Option<u32>,
    pub peer_mac: Option<[u8; 6]>,
}

impl Route {
    /// The interface of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let found = self.query(RouteNetlinkMessage::GetLink(message), false, |found: &mut Option<Link>, _, body| {
            *found = LinkMessage::parse(body).ok().as_ref().map(Link::from);
        });
        match found {
            Ok(link) => Ok(link),
            Err(f) if f.errno() == libc::ENODEV => Ok(None),
            Err(f) => Err(f.during(format!("look up interface {name}"))),
        }
    }

    /// The bridge's ports.
    pub fn ports(&mut self, bridge: &Link) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::Controller(bridge.index), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let ports = self.query(RouteNetlinkMessage::GetLink(message), true, |ports: &mut Vec<Link>, _, body| {
            let link = LinkMessage::parse(body).ok().as_ref().map(Link::from);
            // Old kernels ignore the filter.
            ports.extend(link.filter(|link| link.master == Some(bridge.index)));
        });
        ports.map_err(|f| f.during(format!("list the ports of bridge {}", bridge.name)))
    }

    /// Says who the interface belongs to, for people (`ip link`) and for garbage collection.
    pub fn set_alias(&mut self, name: &str, alias: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::IfAlias(alias.to_owned())];
        let set = self.request(RouteNetlinkMessage::SetLink(message), NONE);
        set.map_err(|f| f.during(format!("set the alias of interface {name}")))
    }

    /// Makes a bridge that is up. Its hardware address is set by us: else it would follow the lowest of its
    /// ports', and change under the containers that have learnt it.
    pub fn create_bridge(&mut self, name: &str, mac: [u8; 6], mtu: Option<u32>) -> Result<(), Error> {
        let mut message = up_message();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                // A pod's first multicast must not wait for a querier that nobody runs.
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let created = self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL);
        created.map_err(|f| f.during(format!("create bridge {name}")))
    }

    /// Makes a veth pair, one message: the peer in its namespace (moving it there later costs 29 ms), the
    /// host's end as a port of the bridge, and up.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer_name.to_owned()),
            LinkAttribute::NetNsFd(veth.netns.as_raw_fd()),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        peer.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        peer.attributes.extend(veth.peer_mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        let mut message = up_message();
        message.attributes = vec![
            LinkAttribute::IfName(veth.host_name.to_owned()),
            LinkAttribute::Controller(veth.bridge),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        message.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        let created = self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL);
        created.map_err(|f| match f.errno() {
            libc::EEXIST => Error::InterfaceExists { name: format!("{} or {}", veth.peer_name, veth.host_name) },
            _ => f.during(format!("create veth pair {} and {}", veth.host_name, veth.peer_name)),
        })
    }

    /// Sets the interface up.
    pub fn set_up(&mut self, link: &Link) -> Result<(), Error> {
        let request = set_up_request(link.index);
        let set = self.request(request, NONE);
        set.map_err(|f| f.during(format!("set interface {} up", link.name)))
    }

    /// Lets the interface take every packet.
    pub fn set_promiscuous(&mut self, link: &Link) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = LinkFlags::Promisc;
        message.header.change_mask = LinkFlags::Promisc;
        let set = self.request(RouteNetlinkMessage::SetLink(message), NONE);
        set.map_err(|f| f.during(format!("set interface {} promiscuous", link.name)))
    }

    /// Lets the bridge send a packet back out of the port that it came in by.
    pub fn set_hairpin(&mut self, port: &Link) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = port.index;
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ])];
        let set = self.request(RouteNetlinkMessage::NewLink(message), NONE);
        set.map_err(|f| f.during(format!("set hairpin mode of port {}", port.name)))
    }

    /// Deletes the interface, with its peer. That it is gone already is success.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        match self.request(RouteNetlinkMessage::DelLink(message), NONE) {
            Err(f) if f.errno() != libc::ENODEV => Err(f.during(format!("delete interface {name}"))),
            _ => Ok(()),
        }
    }

    /// Waits until the bridge forwards what comes in by the port, and returns the port. The kernel does so
    /// from a work queue some 70 us after carrier; an answer before then loses 1% of the containers their
    /// first packet, and a second with it.
    pub fn wait_forwarding(&mut self, name: &str, limit: Duration) -> Result<Link, Error> {
        let start = Instant::now();
        loop {
            match self.link(name)? {
                Some(link) if link.forwarding => return Ok(link),
                Some(_) if start.elapsed() < limit => std::thread::sleep(Duration::from_micros(50)),
                _ => return Err(Error::PortNotForwarding(name.to_owned(), limit.as_millis())),
            }
        }
    }
}

impl Link {
    /// Whether the port is in hairpin mode.
    pub fn hairpin(&self) -> bool {
        self.hairpin
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            promiscuous: message.header.flags.contains(LinkFlags::Promisc),
            ..Link::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = format_mac(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.read_info(info)),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn read_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = kind.to_string(),
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                for attribute in port {
                    match attribute {
                        InfoBridgePort::State(state) => self.forwarding = *state == BridgePortState::Forwarding,
                        InfoBridgePort::HairpinMode(on) => self.hairpin = *on,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

pub(super) fn set_up_request(index: u32) -> RouteNetlinkMessage {
    let mut message = up_message();
    message.header.index = index;
    RouteNetlinkMessage::SetLink(message)
}

fn up_message() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn format_mac(mac: &[u8]) -> String {
    let bytes: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    bytes.join(":")
}
