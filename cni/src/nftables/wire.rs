//! The encoding of nf_tables over netlink: attributes in network byte order, nested, and the few expressions
//! that our rules are made of. Numbers are those of `linux/netfilter/nf_tables.h`.

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

use crate::netlink::Request;

pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
pub(super) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_KEY_LEN: u16 = 5;
pub(super) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(super) const NFTA_SET_DATA_LEN: u16 = 7;
pub(super) const NFTA_SET_ID: u16 = 10;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_SET_ELEM_USERDATA: u16 = 6;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// `inet`: one table for both families.
const NFPROTO_INET: u8 = 1;
/// Comments in user data are type, length, text with a closing zero (nftables' own convention, so that
/// `nft list` shows them).
const UDATA_COMMENT: u8 = 0;
/// `NFT_USERDATA_MAXLEN`, without the comment's type and length.
const COMMENT_MAX: usize = 253;

/// A run of attributes.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Attributes {
        Attributes::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn string(self, kind: u16, value: &str) -> Attributes {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: Attributes) -> Attributes {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    /// A value in a data attribute.
    pub(super) fn data(self, kind: u16, value: &[u8]) -> Attributes {
        self.nest(kind, Attributes::new().bytes(NFTA_DATA_VALUE, value))
    }

    pub(super) fn comment(self, kind: u16, text: &str) -> Attributes {
        self.bytes(kind, &comment_data(text))
    }

    /// As an nf_tables message of the type `NFT_MSG_*`.
    pub(super) fn message(self, message: i32, flags: u16) -> Request {
        let mut body = generic_header(NFPROTO_INET, 0);
        body.extend(self.0);
        Request { kind: (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | message as u16, flags, body }
    }
}

/// The first and the last message of a batch.
pub(super) fn batch_frame() -> (Request, Request) {
    let frame = |kind: i32| Request {
        kind: kind as u16,
        flags: 0,
        body: generic_header(libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16),
    };
    (frame(libc::NFNL_MSG_BATCH_BEGIN), frame(libc::NFNL_MSG_BATCH_END))
}

/// `struct nfgenmsg`.
fn generic_header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// The attributes of an answer, as type and value.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).flatten().filter_map(|a| {
        let (kind, end) = (a.kind(), usize::from(a.length()));
        Some((kind, a.into_inner().get(4..end)?))
    })
}

/// The attributes behind an answer's `struct nfgenmsg`.
pub(super) fn message_attributes(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(body.get(4..).unwrap_or_default())
}

fn comment_data(text: &str) -> Vec<u8> {
    let mut end = text.len().min(COMMENT_MAX - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![UDATA_COMMENT, (end + 1) as u8];
    data.extend(&text.as_bytes()[..end]);
    data.push(0);
    data
}

/// The comment in user data, if there is one.
pub(super) fn parse_comment(data: &[u8]) -> Option<&str> {
    let (kind, length) = (*data.first()?, usize::from(*data.get(1)?));
    let text = data.get(2..2 + length)?;
    let text = std::str::from_utf8(text).ok()?.trim_end_matches('\0');
    (kind == UDATA_COMMENT).then_some(text)
}

/// The register that keys are built in, four bytes each from here on.
pub(super) const KEY: u32 = libc::NFT_REG32_00 as u32;
/// The register that a map's value is put in.
pub(super) const VALUE: u32 = libc::NFT_REG32_08 as u32;

/// The expressions of a rule, evaluated in order until one does not match.
#[derive(Debug, Default)]
pub(super) struct Expressions(Attributes);

/// Where a packet's bytes are counted from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    Network = libc::NFT_PAYLOAD_NETWORK_HEADER as isize,
    Transport = libc::NFT_PAYLOAD_TRANSPORT_HEADER as isize,
}

impl Expressions {
    pub(super) fn new() -> Expressions {
        Expressions::default()
    }

    pub(super) fn into_attributes(self) -> Attributes {
        self.0
    }

    fn push(self, name: &str, data: Attributes) -> Expressions {
        let expression = Attributes::new().string(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        Expressions(self.0.nest(NFTA_LIST_ELEM, expression))
    }

    /// Loads bytes of the packet: NFTA_PAYLOAD_{DREG, BASE, OFFSET, LEN}.
    pub(super) fn payload(self, register: u32, header: Header, offset: u32, length: u32) -> Expressions {
        let data = Attributes::new().u32(1, register).u32(2, header as u32).u32(3, offset).u32(4, length);
        self.push("payload", data)
    }

    /// Loads a property of the packet: NFTA_META_{DREG, KEY}.
    pub(super) fn meta(self, register: u32, key: i32) -> Expressions {
        self.push("meta", Attributes::new().u32(1, register).u32(2, key as u32))
    }

    /// Loads a property of the connection: NFTA_CT_{DREG, KEY, DIRECTION}.
    pub(super) fn connection(self, register: u32, key: i32, original: bool) -> Expressions {
        let mut data = Attributes::new().u32(1, register).u32(2, key as u32);
        if original {
            data = data.bytes(3, &[0]);
        }
        self.push("ct", data)
    }

    /// Compares a register: NFTA_CMP_{SREG, OP, DATA}.
    pub(super) fn compare(self, register: u32, operation: i32, value: &[u8]) -> Expressions {
        let data = Attributes::new().u32(1, register).u32(2, operation as u32).data(3, value);
        self.push("cmp", data)
    }

    /// Matches packets of IPv4 or IPv6.
    pub(super) fn family(self, family: i32) -> Expressions {
        self.meta(KEY, libc::NFT_META_NFPROTO).compare(KEY, libc::NFT_CMP_EQ, &[family as u8])
    }

    /// Ands a register: NFTA_BITWISE_{SREG, DREG, LEN, MASK, XOR}.
    pub(super) fn and(self, register: u32, mask: &[u8]) -> Expressions {
        let zero = vec![0; mask.len()];
        let data =
            Attributes::new().u32(1, register).u32(2, register).u32(3, mask.len() as u32).data(4, mask).data(5, &zero);
        self.push("bitwise", data)
    }

    /// Matches if the key is in the set, or if `inverted` is not: NFTA_LOOKUP_{SET, SREG, FLAGS}.
    pub(super) fn in_set(self, set: &str, inverted: bool) -> Expressions {
        let mut data = Attributes::new().string(1, set).u32(2, KEY);
        if inverted {
            data = data.u32(5, libc::NFT_LOOKUP_F_INV as u32);
        }
        self.push("lookup", data)
    }

    /// Loads what the map has for the key; does not match without: NFTA_LOOKUP_{SET, SREG, DREG}.
    pub(super) fn map(self, map: &str) -> Expressions {
        let data = Attributes::new().string(1, map).u32(2, KEY).u32(3, VALUE);
        self.push("lookup", data)
    }

    /// Matches packets to this host's own addresses: NFTA_FIB_{DREG, RESULT, FLAGS}.
    pub(super) fn for_this_host(self) -> Expressions {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        let data = Attributes::new().u32(1, KEY).u32(2, ADDRESS_TYPE).u32(3, DESTINATION);
        let local = u32::from(libc::RTN_LOCAL);
        self.push("fib", data).compare(KEY, libc::NFT_CMP_EQ, &local.to_ne_bytes())
    }

    /// Redirects to the address and port in the registers: NFTA_NAT_{TYPE, FAMILY, REG_ADDR_MIN,
    /// REG_PROTO_MIN}.
    pub(super) fn dnat(self, family: i32, address: u32, port: u32) -> Expressions {
        let data =
            Attributes::new().u32(1, libc::NFT_NAT_DNAT as u32).u32(2, family as u32).u32(3, address).u32(5, port);
        self.push("nat", data)
    }

    /// Sends under this host's address.
    pub(super) fn masquerade(self) -> Expressions {
        self.push("masq", Attributes::new())
    }

    /// Ends with a verdict: NFTA_IMMEDIATE_{DREG, DATA}.
    pub(super) fn verdict(self, code: i32, chain: Option<&str>) -> Expressions {
        let mut verdict = Attributes::new().u32(NFTA_VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            verdict = verdict.string(NFTA_VERDICT_CHAIN, chain);
        }
        let data = Attributes::new()
            .u32(1, libc::NFT_REG_VERDICT as u32)
            .nest(2, Attributes::new().nest(NFTA_DATA_VERDICT, verdict));
        self.push("immediate", data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let inner = Attributes::new().u32(3, 7);
        let outer = Attributes::new().string(1, "ab").bytes(2, &[9]).nest(4, inner);
        assert_eq!(outer.0.len() % 4, 0);
        let read: Vec<_> = attributes(&outer.0).collect();
        assert_eq!(read[0], (1, &b"ab\0"[..]));
        assert_eq!(read[1], (2, &[9][..]));
        assert_eq!(attributes(read[2].1).next(), Some((3, &[0, 0, 0, 7][..])));
    }

    #[test]
    fn comments_are_read_back_and_fit() {
        assert_eq!(parse_comment(&comment_data("pod/eth0")), Some("pod/eth0"));
        let long = "ä".repeat(300);
        let data = comment_data(&long);
        assert!(data.len() <= 256);
        assert!(parse_comment(&data).is_some_and(|c| long.starts_with(c)));
        assert_eq!(parse_comment(&[0, 200, 1]), None);
    }
}
