//! Just enough netlink to ask the kernel for a link and for a chain.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

const RTM_NEWLINK: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `struct ifinfomsg`.
const LINK_HEADER: [u8; 16] = [0; 16];

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFT: u16 = 10;
const NFT_NEWTABLE: u16 = NFT << 8;
const NFT_NEWCHAIN: u16 = NFT << 8 | 3;
/// `struct nfgenmsg` of a message for the IPv4 family, and of the two that enclose a batch for nf_tables.
const IPV4: [u8; 4] = [2, 0, 0, 0];
const BATCH: [u8; 4] = [0, 0, 0, NFT as u8];
const POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;

/// Makes a link of `kind`, with the kernel's choice of a name, in the present network namespace.
pub(super) fn make_link(kind: &str) -> Result<(), Errno> {
    let info = attribute(IFLA_INFO_KIND, kind.as_bytes());
    let body = [&LINK_HEADER[..], &attribute(IFLA_LINKINFO | NESTED, &info)].concat();
    let request = message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | 0x200, 1, &body);
    ask(SockProtocol::NetlinkRoute, &request, 1)
}

/// Makes a table with a chain for source NAT, by nf_tables, in the present network namespace.
pub(super) fn make_nat_chain() -> Result<(), Errno> {
    let table = [&IPV4[..], &attribute(1, b"probe\0")].concat();
    let hook = [attribute(1, &POSTROUTING.to_be_bytes()), attribute(2, &PRIORITY_SRCNAT.to_be_bytes())].concat();
    let chain = [
        &IPV4[..],
        &attribute(1, b"probe\0"),
        &attribute(3, b"probe\0"),
        &attribute(4 | NESTED, &hook),
        &attribute(7, b"nat\0"),
    ]
    .concat();
    let create = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let batch = [
        message(BATCH_BEGIN, NLM_F_REQUEST, 1, &BATCH),
        message(NFT_NEWTABLE, create, 2, &table),
        message(NFT_NEWCHAIN, create, 3, &chain),
        message(BATCH_END, NLM_F_REQUEST, 4, &BATCH),
    ]
    .concat();
    ask(SockProtocol::NetlinkNetFilter, &batch, 2)
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// An attribute, with what fills it up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = (4 + value.len() as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Sends `request` and waits for `acknowledgements`, or for the first error.
fn ask(protocol: SockProtocol, request: &[u8], acknowledgements: usize) -> Result<(), Errno> {
    let socket: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut seen = 0;
    let mut buffer = vec![0; 16 * 1024];
    while seen < acknowledgements {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for code in error_codes(&buffer[..length]) {
            if code != 0 {
                return Err(Errno::from_raw(-code));
            }
            seen += 1;
        }
    }
    Ok(())
}

/// The codes of the acknowledgements (code 0) and errors among `messages`.
fn error_codes(mut messages: &[u8]) -> Vec<i32> {
    let mut codes = Vec::new();
    while let Some((length, kind)) = header(messages) {
        if kind == NLMSG_ERROR
            && let Some(code) = messages.get(16..20).and_then(|bytes| bytes.try_into().ok())
        {
            codes.push(i32::from_ne_bytes(code));
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    codes
}

fn header(messages: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(messages.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(messages.get(4..6)?.try_into().ok()?);
    (length >= 16 && length <= messages.len()).then_some((length, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_filled_up_and_messages_say_their_length() {
        assert_eq!(attribute(1, b"veth"), [&8_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), b"veth"].concat());
        assert_eq!(attribute(1, b"vet").len(), 8);
        assert_eq!(message(RTM_NEWLINK, 0, 0, b"abcd")[..4], 20_u32.to_ne_bytes());
    }

    #[test]
    fn acknowledgements_and_errors_are_told_apart() {
        let acknowledgement = message(NLMSG_ERROR, 0, 1, &0_i32.to_ne_bytes());
        let error = message(NLMSG_ERROR, 0, 2, &(-2_i32).to_ne_bytes());
        assert_eq!(error_codes(&[acknowledgement, error].concat()), [0, -2]);
        assert!(error_codes(b"short").is_empty());
    }
}
