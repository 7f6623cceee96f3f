//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

use crate::plugin::Error;

/// Consecutive addresses of a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    pub subnet: IpNet,
    /// The first address; the one after the network's own if absent.
    #[serde(default)]
    pub range_start: Option<IpAddr>,
    /// The last address, included; the last one that is not broadcast if absent.
    #[serde(default)]
    pub range_end: Option<IpAddr>,
    /// Never handed out. The first address of the subnet if absent.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// Ranges of one family, of which a container gets one address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RangeSet(pub Vec<Range>);

impl Range {
    /// Fills in what is absent and checks the rest.
    fn complete(&mut self) -> Result<(), Error> {
        let host_bits = self.subnet.max_prefix_len() - self.subnet.prefix_len();
        if host_bits < 2 {
            return Err(Error::config("subnet", format!("{} is too small to allocate from", self.subnet)));
        }
        if self.subnet != self.subnet.trunc() {
            let reason = format!("{} has host bits set: did you mean {}?", self.subnet, self.subnet.trunc());
            return Err(Error::config("subnet", reason));
        }
        let first = number(self.subnet.network()) + 1;
        let last = number(self.subnet.broadcast()) - u128::from(self.subnet.addr().is_ipv4());
        let gateway = *self.gateway.get_or_insert(self.address(first));
        let start = *self.range_start.get_or_insert(self.address(first));
        let end = *self.range_end.get_or_insert(self.address(last));
        if gateway.is_ipv4() != self.subnet.addr().is_ipv4() {
            return Err(Error::config("gateway", format!("{gateway} is not of {}'s family", self.subnet)));
        }
        for (key, ip) in [("rangeStart", start), ("rangeEnd", end)] {
            if !self.subnet.contains(&ip) {
                return Err(Error::config(key, format!("{ip} is not in {}", self.subnet)));
            }
        }
        if number(start) > number(end) {
            return Err(Error::config("rangeStart", format!("{start} is behind rangeEnd {end}")));
        }
        Ok(())
    }

    /// Whether the address may be handed out.
    fn contains(&self, ip: IpAddr) -> bool {
        let (start, end) = self.bounds();
        ip.is_ipv4() == self.subnet.addr().is_ipv4() && (start..=end).contains(&number(ip)) && Some(ip) != self.gateway
    }

    /// First and last, once completed.
    fn bounds(&self) -> (u128, u128) {
        let bound = |ip: Option<IpAddr>| ip.map_or(0, number);
        (bound(self.range_start), bound(self.range_end))
    }

    fn address(&self, number: u128) -> IpAddr {
        if self.subnet.addr().is_ipv4() {
            IpAddr::V4(Ipv4Addr::from_bits(number as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(number))
        }
    }
}

impl RangeSet {
    pub(super) fn complete(&mut self) -> Result<(), Error> {
        let Some(first) = self.0.first() else {
            return Err(Error::config("ranges", "a set is empty"));
        };
        let is_v4 = first.subnet.addr().is_ipv4();
        for i in 0..self.0.len() {
            let (before, rest) = self.0.split_at_mut(i);
            rest[0].complete()?;
            if rest[0].subnet.addr().is_ipv4() != is_v4 {
                return Err(Error::config("ranges", "a set mixes IPv4 and IPv6"));
            }
            if let Some(other) = before.iter().find(|other| overlap(other, &rest[0])) {
                return Err(Error::config("ranges", format!("{other} and {} overlap", rest[0])));
            }
        }
        Ok(())
    }

    pub(super) fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| overlap(a, b)))
    }

    /// The range that the address may be handed out of.
    pub(super) fn find(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// Every address that may be handed out, once, beginning behind `last`.
    pub(super) fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let from = last.and_then(|ip| {
            let index = self.0.iter().position(|range| range.contains(ip))?;
            Some((index, number(ip) + 1))
        });
        let (index, next) = from.unwrap_or_else(|| (0, self.0.first().map_or(0, |r| r.bounds().0)));
        let runs = (0..=self.0.len()).filter_map(move |turn| {
            let at = (index + turn) % self.0.len();
            let range = self.0.get(at)?;
            let (start, end) = range.bounds();
            // The range that it begins in comes first from there on, and last up to there.
            let (start, end) = match turn {
                0 => (next, end),
                _ if turn == self.0.len() => (start, next.checked_sub(1)?),
                _ => (start, end),
            };
            Some((start..=end).map(|n| range.address(n)).filter(|ip| Some(*ip) != range.gateway))
        });
        runs.flatten()
    }
}

fn overlap(a: &Range, b: &Range) -> bool {
    if a.subnet.addr().is_ipv4() != b.subnet.addr().is_ipv4() {
        return false;
    }
    let ((a1, a2), (b1, b2)) = (a.bounds(), b.bounds());
    a1 <= b2 && b1 <= a2
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = self.bounds();
        write!(f, "{}-{}", self.address(start), self.address(end))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(json: &str) -> Result<RangeSet, Error> {
        let mut set: RangeSet = serde_json::from_str(json).unwrap();
        set.complete().map(|()| set)
    }

    fn all(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        let last = last.map(|ip| ip.parse().unwrap());
        set.after(last).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn defaults_leave_out_network_broadcast_and_gateway() {
        let v4 = set(r#"[{"subnet":"10.1.0.0/29"}]"#).unwrap();
        assert_eq!(v4.0[0].gateway, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(v4.to_string(), "10.1.0.1-10.1.0.6");
        assert_eq!(all(&v4, None), ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        let v6 = set(r#"[{"subnet":"fd00::/126"}]"#).unwrap();
        assert_eq!(all(&v6, None), ["fd00::2", "fd00::3"]);
    }

    #[test]
    fn it_goes_round_from_the_last() {
        let one = set(r#"[{"subnet":"10.1.0.0/29"}]"#).unwrap();
        assert_eq!(all(&one, Some("10.1.0.4")), ["10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
        assert_eq!(all(&one, Some("10.1.0.6"))[0], "10.1.0.2");
        assert_eq!(all(&one, Some("192.0.2.1"))[0], "10.1.0.2", "the range was changed");
        let two =
            set(r#"[{"subnet":"10.1.0.0/29","rangeStart":"10.1.0.2","rangeEnd":"10.1.0.3"},{"subnet":"10.2.0.0/30"}]"#)
                .unwrap();
        assert_eq!(all(&two, Some("10.1.0.2")), ["10.1.0.3", "10.2.0.2", "10.1.0.2"]);
        assert_eq!(all(&two, Some("10.2.0.2")), ["10.1.0.2", "10.1.0.3", "10.2.0.2"]);
    }

    #[test]
    fn bad_ranges_are_refused() {
        for (json, expected) in [
            (r"[]", "ranges: a set is empty"),
            (r#"[{"subnet":"10.1.0.0/31"}]"#, "subnet: 10.1.0.0/31 is too small to allocate from"),
            (r#"[{"subnet":"10.1.0.7/24"}]"#, "subnet: 10.1.0.7/24 has host bits set: did you mean 10.1.0.0/24?"),
            (r#"[{"subnet":"10.1.0.0/24","rangeStart":"10.1.1.1"}]"#, "rangeStart: 10.1.1.1 is not in 10.1.0.0/24"),
            (
                r#"[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9","rangeEnd":"10.1.0.8"}]"#,
                "rangeStart: 10.1.0.9 is behind rangeEnd 10.1.0.8",
            ),
            (r#"[{"subnet":"10.1.0.0/24","gateway":"fd00::1"}]"#, "gateway: fd00::1 is not of 10.1.0.0/24's family"),
            (r#"[{"subnet":"10.1.0.0/24"},{"subnet":"fd00::/64"}]"#, "ranges: a set mixes IPv4 and IPv6"),
            (
                r#"[{"subnet":"10.1.0.0/24"},{"subnet":"10.1.0.0/16"}]"#,
                "ranges: 10.1.0.1-10.1.0.254 and 10.1.0.1-10.1.255.254 overlap",
            ),
        ] {
            assert_eq!(set(json).unwrap_err().to_string(), expected, "{json}");
        }
    }
}
