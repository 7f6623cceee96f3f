//! The rules of the table, made once per node. What changes per container is elements of its maps.
//!
//! ```text
//! table inet orlop {
//!   set masq4, masq6        subnets whose containers reach the outside under this host's address
//!   set pods4, pods6        subnets of containers that have hostPorts
//!   map hostports4, …6      protocol . port            -> container address . port
//!   map hostips4, …6        address . protocol . port  -> container address . port
//!   chain guard             raw prerouting: nothing from outside reaches 127.0.0.0/8. The kernel drops it
//!                           by itself until route_localnet is set on a bridge (CVE-2020-8558)
//!   chain prerouting, output    only what is for this host itself goes to
//!   chain hostports         a hostPort must not catch what is for other hosts (CVE-2025-67499)
//!   chain postrouting       masquerade: connections to hostPorts from this host's 127.0.0.0/8, and from
//!                           containers beside the target, whose replies would not come back through here;
//!                           and what leaves the pod networks
//! }
//! ```

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::wire::{self, Attributes, Expressions, Header, KEY, VALUE};
use crate::netlink::Request;

/// In the comment of every rule; another version's rules are replaced.
const COMMENT: &str = "orlop-cni ruleset 1";

/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const CONNECTION_WAS_DNATTED: u32 = 1 << 5;
const LOOPBACK_NET: &[u8] = &[127];
/// `lo` has index 1 in every network namespace.
const LO_INDEX: u32 = 1;

/// An address family, with what differs between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn of(address: std::net::IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn number(self) -> i32 {
        match self {
            Family::V4 => libc::NFPROTO_IPV4,
            Family::V6 => libc::NFPROTO_IPV6,
        }
    }

    fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// Bytes of an address.
    pub(super) fn length(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    fn source_offset(self) -> u32 {
        match self {
            Family::V4 => 12,
            Family::V6 => 8,
        }
    }

    fn destination_offset(self) -> u32 {
        self.source_offset() + self.length()
    }

    pub(super) fn masquerade_set(self) -> String {
        format!("masq{}", self.digit())
    }

    pub(super) fn pods_set(self) -> String {
        format!("pods{}", self.digit())
    }

    pub(super) fn ports_map(self) -> String {
        format!("hostports{}", self.digit())
    }

    pub(super) fn ips_map(self) -> String {
        format!("hostips{}", self.digit())
    }
}

/// What makes the table whole, from any state: missing parts are made, every rule is replaced, elements stay.
pub(super) fn make(table: &str) -> Vec<Request> {
    let mut batch = vec![
        Attributes::new().string(wire::NFTA_TABLE_NAME, table).message(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE),
        Attributes::new().string(wire::NFTA_RULE_TABLE, table).message(libc::NFT_MSG_DELRULE, 0),
    ];
    for (id, set) in sets().iter().enumerate() {
        batch.push(set.message(table, id as u32 + 1));
    }
    batch.extend(CHAINS.iter().map(|chain| chain.message(table)));
    batch.extend(rules().into_iter().map(|(chain, rule)| rule_message(table, chain, rule)));
    batch
}

/// Whether the rule is one of [`make`]'s.
pub(super) fn is_current(rule_comment: Option<&str>) -> bool {
    rule_comment == Some(COMMENT)
}

/// How many rules [`make`] makes.
pub(super) fn rule_count() -> usize {
    rules().len()
}

/// A set or map.
struct Set {
    name: String,
    flags: i32,
    key: (u32, u32),
    data: Option<(u32, u32)>,
}

// Data types as nftables numbers them, for whoever lists the table; 6 bits each in a concatenation.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;

fn sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for family in Family::BOTH {
        let address = if family == Family::V4 { IPV4_ADDR } else { IPV6_ADDR };
        let length = family.length();
        for name in [family.masquerade_set(), family.pods_set()] {
            sets.push(Set { name, flags: libc::NFT_SET_INTERVAL, key: (address, length), data: None });
        }
        let target = Some((address << 6 | INET_SERVICE, length + 4));
        sets.push(Set {
            name: family.ports_map(),
            flags: libc::NFT_SET_MAP,
            key: (INET_PROTO << 6 | INET_SERVICE, 8),
            data: target,
        });
        sets.push(Set {
            name: family.ips_map(),
            flags: libc::NFT_SET_MAP,
            key: ((address << 6 | INET_PROTO) << 6 | INET_SERVICE, length + 8),
            data: target,
        });
    }
    sets
}

impl Set {
    fn message(&self, table: &str, id: u32) -> Request {
        let mut set = Attributes::new()
            .string(wire::NFTA_SET_TABLE, table)
            .string(wire::NFTA_SET_NAME, &self.name)
            .u32(wire::NFTA_SET_FLAGS, self.flags as u32)
            .u32(wire::NFTA_SET_KEY_TYPE, self.key.0)
            .u32(wire::NFTA_SET_KEY_LEN, self.key.1)
            .u32(wire::NFTA_SET_ID, id);
        if let Some((kind, length)) = self.data {
            set = set.u32(wire::NFTA_SET_DATA_TYPE, kind).u32(wire::NFTA_SET_DATA_LEN, length);
        }
        set.message(libc::NFT_MSG_NEWSET, NLM_F_CREATE)
    }
}

struct Chain {
    name: &'static str,
    /// Type, hook, priority; none for a chain that is only jumped to.
    hook: Option<(&'static str, i32, i32)>,
}

const CHAINS: [Chain; 5] = [
    Chain { name: "guard", hook: Some(("filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW)) },
    Chain { name: "hostports", hook: None },
    Chain { name: "prerouting", hook: Some(("nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST)) },
    Chain { name: "output", hook: Some(("nat", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST)) },
    Chain { name: "postrouting", hook: Some(("nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC)) },
];

impl Chain {
    fn message(&self, table: &str) -> Request {
        let mut chain =
            Attributes::new().string(wire::NFTA_CHAIN_TABLE, table).string(wire::NFTA_CHAIN_NAME, self.name);
        if let Some((kind, hook, priority)) = self.hook {
            let hook = Attributes::new()
                .u32(wire::NFTA_HOOK_HOOKNUM, hook as u32)
                .u32(wire::NFTA_HOOK_PRIORITY, priority as u32);
            chain = chain.nest(wire::NFTA_CHAIN_HOOK, hook).string(wire::NFTA_CHAIN_TYPE, kind);
        }
        chain.message(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE)
    }
}

fn rule_message(table: &str, chain: &str, rule: Expressions) -> Request {
    Attributes::new()
        .string(wire::NFTA_RULE_TABLE, table)
        .string(wire::NFTA_RULE_CHAIN, chain)
        .nest(wire::NFTA_RULE_EXPRESSIONS, rule.into_attributes())
        .comment(wire::NFTA_RULE_USERDATA, COMMENT)
        .message(libc::NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
}

/// Every rule with its chain, in order.
fn rules() -> Vec<(&'static str, Expressions)> {
    use Family::{V4, V6};
    vec![
        ("guard", foreign_loopback(V4.source_offset())),
        ("guard", foreign_loopback(V4.destination_offset())),
        // The kernel does not route ::1, so a hostPort cannot lead from there; what listens there stays.
        ("hostports", to_v6_localhost().verdict(libc::NFT_RETURN, None)),
        ("hostports", redirect_ip(V4)),
        ("hostports", redirect_any(V4)),
        ("hostports", redirect_ip(V6)),
        ("hostports", redirect_any(V6)),
        ("prerouting", to_hostports()),
        ("output", to_hostports()),
        ("postrouting", from_localhost()),
        ("postrouting", between_pods_ip(V4)),
        ("postrouting", between_pods_any(V4)),
        ("postrouting", between_pods_ip(V6)),
        ("postrouting", between_pods_any(V6)),
        ("postrouting", leaving_pods(V4)),
        ("postrouting", leaving_pods(V6)),
    ]
}

fn foreign_loopback(offset: u32) -> Expressions {
    Expressions::new()
        .meta(KEY, libc::NFT_META_IIF)
        .compare(KEY, libc::NFT_CMP_NEQ, &LO_INDEX.to_ne_bytes())
        .family(Family::V4.number())
        .payload(KEY, Header::Network, offset, 1)
        .compare(KEY, libc::NFT_CMP_EQ, LOOPBACK_NET)
        .verdict(libc::NF_DROP, None)
}

fn to_v6_localhost() -> Expressions {
    let localhost = std::net::Ipv6Addr::LOCALHOST.octets();
    destination(Expressions::new().family(Family::V6.number()), Family::V6).compare(KEY, libc::NFT_CMP_EQ, &localhost)
}

fn to_hostports() -> Expressions {
    Expressions::new().for_this_host().verdict(libc::NFT_JUMP, Some("hostports"))
}

fn source(rule: Expressions, family: Family) -> Expressions {
    rule.payload(KEY, Header::Network, family.source_offset(), family.length())
}

fn destination(rule: Expressions, family: Family) -> Expressions {
    rule.payload(KEY, Header::Network, family.destination_offset(), family.length())
}

/// Loads `protocol . destination port` from `register` on.
fn protocol_and_port(rule: Expressions, register: u32) -> Expressions {
    rule.meta(register, libc::NFT_META_L4PROTO).payload(register + 1, Header::Transport, 2, 2)
}

fn dnat_to_value(rule: Expressions, family: Family) -> Expressions {
    rule.dnat(family.number(), VALUE, VALUE + family.length() / 4)
}

fn redirect_any(family: Family) -> Expressions {
    let rule = protocol_and_port(Expressions::new().family(family.number()), KEY);
    dnat_to_value(rule.map(&family.ports_map()), family)
}

fn redirect_ip(family: Family) -> Expressions {
    let rule = destination(Expressions::new().family(family.number()), family);
    let rule = protocol_and_port(rule, KEY + family.length() / 4);
    dnat_to_value(rule.map(&family.ips_map()), family)
}

fn redirected(family: Family) -> Expressions {
    Expressions::new()
        .family(family.number())
        .connection(KEY, libc::NFT_CT_STATUS, false)
        .and(KEY, &CONNECTION_WAS_DNATTED.to_ne_bytes())
        .compare(KEY, libc::NFT_CMP_NEQ, &[0; 4])
}

fn from_localhost() -> Expressions {
    redirected(Family::V4)
        .payload(KEY, Header::Network, Family::V4.source_offset(), 1)
        .compare(KEY, libc::NFT_CMP_EQ, LOOPBACK_NET)
        .masquerade()
}

fn between_pods(family: Family) -> Expressions {
    let rule = source(redirected(family), family).in_set(&family.pods_set(), false);
    destination(rule, family).in_set(&family.pods_set(), false)
}

/// The port that was dialled is one of our hostPorts: others redirect too (service proxies), and their
/// connections between pods keep the source address.
fn between_pods_any(family: Family) -> Expressions {
    between_pods(family)
        .meta(KEY, libc::NFT_META_L4PROTO)
        .connection(KEY + 1, libc::NFT_CT_PROTO_DST, true)
        .map(&family.ports_map())
        .masquerade()
}

fn between_pods_ip(family: Family) -> Expressions {
    let (key, words) = match family {
        Family::V4 => (libc::NFT_CT_DST_IP, 1),
        Family::V6 => (libc::NFT_CT_DST_IP6, 4),
    };
    between_pods(family)
        .connection(KEY, key, true)
        .meta(KEY + words, libc::NFT_META_L4PROTO)
        .connection(KEY + words + 1, libc::NFT_CT_PROTO_DST, true)
        .map(&family.ips_map())
        .masquerade()
}

/// What a pod network sends out of itself, but for multicast.
fn leaving_pods(family: Family) -> Expressions {
    let (mask, multicast) = match family {
        Family::V4 => (0xf0, 0xe0),
        Family::V6 => (0xff, 0xff),
    };
    let rule = source(Expressions::new().family(family.number()), family).in_set(&family.masquerade_set(), false);
    destination(rule, family)
        .in_set(&family.masquerade_set(), true)
        .and(KEY, &[mask])
        .compare(KEY, libc::NFT_CMP_NEQ, &[multicast])
        .masquerade()
}
