//! The few rtnetlink(7) requests that moving a device takes. A message is a header, a fixed part, and attributes,
//! each padded to four bytes.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;

const IFF_UP: u32 = 1;
const IFA_F_PERMANENT: u32 = 0x80;
/// What of an address's flags is its owner's wish: no duplicate detection, home address, temporary addresses made
/// from it, no route, joining multicast groups. The others are its state.
const IFA_F_WISHES: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
const SCOPE_GLOBAL: u8 = 0;

/// An address that was set for good and is known beyond its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A socket for requests.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> nix::Result<Netlink> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Netlink(socket))
    }

    /// The number of the device of this name.
    pub(super) fn index(&self, name: &str) -> nix::Result<i32> {
        let mut body = link(0, 0, 0);
        attribute(&mut body, IFLA_IFNAME, &c_name(name));
        let answers = self.ask(RTM_GETLINK, 0, &body)?;
        let found = answers.iter().find(|(kind, _)| *kind == RTM_NEWLINK).and_then(|(_, body)| number(body, 4));
        found.map(|index| index as i32).ok_or(Errno::ENODEV)
    }

    pub(super) fn set_up(&self, index: i32, up: bool) -> nix::Result<()> {
        self.ask(RTM_NEWLINK, ACK, &link(index, if up { IFF_UP } else { 0 }, IFF_UP)).map(drop)
    }

    /// Moves a device to the network namespace of a descriptor, where it gets this name.
    pub(super) fn move_to(&self, index: i32, namespace: RawFd, name: &str) -> nix::Result<()> {
        let mut body = link(index, 0, 0);
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &c_name(name));
        self.ask(RTM_NEWLINK, ACK, &body).map(drop)
    }

    /// The addresses of a device that are to go with it.
    pub(super) fn addresses(&self, index: i32) -> nix::Result<Vec<Address>> {
        let answers = self.ask(RTM_GETADDR, DUMP, &[0; ADDRESS])?;
        let own = answers.iter().filter(|(kind, body)| {
            *kind == RTM_NEWADDR && number(body, 4) == Some(index as u32) && body.get(3) == Some(&SCOPE_GLOBAL)
        });
        Ok(own.filter_map(|(_, body)| address(body)).collect())
    }

    pub(super) fn add_address(&self, index: i32, address: &Address) -> nix::Result<()> {
        let mut body = vec![address.family, address.prefix, 0, SCOPE_GLOBAL];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        self.ask(RTM_NEWADDR, ACK | CREATE | EXCLUSIVE, &body).map(drop)
    }

    /// Sends a request and gathers what comes back, until the kernel says that it is all.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> nix::Result<Vec<(u16, Vec<u8>)>> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | REQUEST).to_ne_bytes());
        // One request at a time: sequence and port are not needed to tell answers apart.
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                length => length?,
            };
            let mut rest = &buffer[..length];
            while let Some(size) = number(rest, 0).map(|size| size as usize).filter(|size| *size >= HEADER) {
                let (kind, body) =
                    (half(rest, 4).ok_or(Errno::EBADMSG)?, rest.get(HEADER..size).ok_or(Errno::EBADMSG)?);
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        return match number(body, 0).ok_or(Errno::EBADMSG)? as i32 {
                            0 => Ok(answers),
                            errno => Err(Errno::from_raw(-errno)),
                        };
                    }
                    kind => answers.push((kind, body.to_vec())),
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
            // What was asked for one thing without an acknowledgement is answered by one message.
            if flags & (ACK | DUMP) == 0 {
                return Ok(answers);
            }
        }
    }
}

/// `struct ifinfomsg`.
fn link(index: i32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(change.to_ne_bytes());
    debug_assert_eq!(body.len(), LINK);
    body
}

fn c_name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Understands an answer about an address; `None` for one that comes and goes by itself.
fn address(body: &[u8]) -> Option<Address> {
    let mut attributes = Vec::new();
    // Eight bits of the flags are in the fixed part, all of them in an attribute.
    let mut flags = u32::from(*body.get(2)?);
    let mut rest = body.get(ADDRESS..)?;
    while let Some(size) = half(rest, 0).map(usize::from).filter(|size| *size >= 4) {
        let (kind, value) = (half(rest, 2)?, rest.get(4..size)?);
        match kind {
            IFA_FLAGS => flags = number(value, 0)?,
            IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST | IFA_RT_PRIORITY => attributes.push((kind, value.to_vec())),
            _ => (),
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    if flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    attributes.push((IFA_FLAGS, (flags & IFA_F_WISHES).to_ne_bytes().to_vec()));
    Some(Address { family: *body.first()?, prefix: *body.get(1)?, attributes })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let mut body = vec![2, 24, 0x80, 0, 7, 0, 0, 0];
        attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, IFA_FLAGS, &0x280_u32.to_ne_bytes());
        let read = address(&body).expect("address");
        assert_eq!((read.family, read.prefix), (2, 24));
        let expected = [(IFA_LOCAL, vec![10, 0, 0, 1]), (IFA_FLAGS, 0x200_u32.to_ne_bytes().to_vec())];
        assert_eq!(read.attributes, expected);
        // Without the flag for good, and cut off anywhere, there is none.
        body[2] = 0;
        assert!(address(&body[..16]).is_none());
        assert!(address(&body[..10]).is_none());
    }

    #[test]
    fn the_loopback_device() {
        let netlink = Netlink::open().expect("socket");
        assert_eq!(netlink.index("lo"), Ok(1));
        assert_eq!(netlink.index("no-such-device"), Err(Errno::ENODEV));
        netlink.addresses(1).expect("addresses");
    }
}
