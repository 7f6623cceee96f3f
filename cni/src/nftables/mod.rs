//! Masquerading and hostPorts: one nftables table per node, whose rules are made once and whose maps get an
//! element per port.

mod elements;
mod pool;
mod ruleset;
mod wire;

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use self::pool::with_socket;
use self::ruleset::Family;
use self::wire::Attributes;
use crate::attachment::Protocol;
use crate::netlink::{Failure, Request, Socket};
use crate::plugin::Error;

/// The table that is used when the configuration names none.
pub const DEFAULT_TABLE: &str = "orlop";

/// How often a change is tried again that others come in between of.
const MOST_TRIES: u32 = 100;

/// The node's table, in the network namespace of the calling thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    name: String,
}

/// A host's port that leads to a container's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The one address that listens; every address of the container address's family if absent.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub protocol: Protocol,
    pub container_ip: IpAddr,
    pub container_port: u16,
}

impl Table {
    /// The table of that name (family `inet`), which need not exist.
    pub fn new(name: &str) -> Result<Table, Error> {
        let mut bytes = name.bytes();
        let good = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            && name.len() < 64;
        if !good {
            return Err(Error::config("nftTable", format!("{name:?} is not the name of a table")));
        }
        Ok(Table { name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the containers of `subnets` reach the outside under this host's address. A subnet stays until the
    /// table is removed: it belongs to the node's network, not to a container.
    pub fn masquerade(&self, subnets: &[IpNet]) -> Result<(), Error> {
        with_socket(|socket| {
            self.ensure(socket)?;
            self.add_subnets(socket, subnets, Family::masquerade_set)
        })
    }

    /// Whether `masquerade` was done and nothing of it is lost.
    pub fn is_masqueraded(&self, subnets: &[IpNet]) -> Result<bool, Error> {
        with_socket(|socket| {
            if !self.is_whole(socket)? {
                return Ok(false);
            }
            for family in Family::BOTH {
                let known = elements::list(socket, &self.name, &family.masquerade_set())?;
                let wanted = subnets.iter().filter(|s| Family::of(s.addr()) == family);
                for subnet in wanted {
                    let start = octets(subnet.network());
                    if !known.iter().any(|e| e.key == start && !e.is_interval_end) {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        })
    }

    /// Maps the ports, all or none, for `owner`. `subnets` are the pod networks of the containers. What the
    /// owner has mapped already is replaced.
    ///
    /// # Errors
    /// [`Error::PortTaken`] if a port belongs to another owner.
    pub fn map_ports(&self, owner: &str, ports: &[HostPort], subnets: &[IpNet]) -> Result<(), Error> {
        with_socket(|socket| {
            let mut tries = 0;
            loop {
                match self.replace_ports(socket, owner, ports, subnets) {
                    // What was to be replaced, or the table, went away at this moment.
                    Err(e) if e.errno() == Some(libc::ENOENT) && tries < MOST_TRIES => tries += 1,
                    done => return done,
                }
            }
        })
    }

    fn replace_ports(
        &self,
        socket: &mut Socket,
        owner: &str,
        ports: &[HostPort],
        subnets: &[IpNet],
    ) -> Result<(), Error> {
        self.ensure(socket)?;
        self.add_subnets(socket, subnets, Family::pods_set)?;
        let add: Vec<Request> = ports.iter().map(|p| self.port_message(owner, p)).collect();
        match batch(socket, &add) {
            Err(f) if f.errno() == libc::EEXIST => {}
            other => return other.map_err(|f| f.during(format!("add host ports to table {}", self.name))),
        }
        let (mut replace, _) = self.removal(socket, |o| o == owner)?;
        replace.extend(add);
        let removed = replace.len() - ports.len();
        match batch(socket, &replace) {
            Err(f) if f.errno() == libc::EEXIST => {
                let port = f.index.and_then(|i| ports.get(i.checked_sub(removed)?));
                Err(self.port_taken(socket, port))
            }
            other => other.map_err(|f| f.during(format!("replace host ports in table {}", self.name))),
        }
    }

    /// Removes every port of `owner`, and returns them; none is success.
    pub fn unmap_ports(&self, owner: &str) -> Result<Vec<HostPort>, Error> {
        self.unmap_ports_if(|o| o == owner)
    }

    /// Removes the ports of the owners that `remove` is true for, and returns them.
    pub fn unmap_ports_if(&self, remove: impl Fn(&str) -> bool) -> Result<Vec<HostPort>, Error> {
        with_socket(|socket| {
            let mut tries = 0;
            loop {
                let (removal, ports) = self.removal(socket, &remove)?;
                if removal.is_empty() {
                    return Ok(ports);
                }
                match batch(socket, &removal) {
                    // Somebody removed one of them at this moment, and all or none are: none.
                    Err(f) if f.errno() == libc::ENOENT && tries < MOST_TRIES => tries += 1,
                    done => {
                        let done = done.map(|()| ports);
                        return done.map_err(|f| f.during(format!("remove host ports from table {}", self.name)));
                    }
                }
            }
        })
    }

    /// The ports of `owner`, without what is not in force because rules are missing.
    pub fn ports(&self, owner: &str) -> Result<Vec<HostPort>, Error> {
        with_socket(|socket| {
            if !self.is_whole(socket)? {
                return Ok(Vec::new());
            }
            let mut ports = Vec::new();
            for (family, map, with_ip) in maps() {
                for element in elements::list(socket, &self.name, &map)? {
                    if element.owner == owner {
                        ports.extend(elements::parse_port(&element, family, with_ip));
                    }
                }
            }
            Ok(ports)
        })
    }

    /// Removes the table with everything in it. That it is gone already is success.
    pub fn remove(&self) -> Result<(), Error> {
        with_socket(|socket| {
            let delete = Attributes::new().string(wire::NFTA_TABLE_NAME, &self.name).message(libc::NFT_MSG_DELTABLE, 0);
            match batch(socket, &[delete]) {
                Err(f) if f.errno() != libc::ENOENT => Err(f.during(format!("delete table inet {}", self.name))),
                _ => Ok(()),
            }
        })
    }

    /// Makes what is missing of the table. Done for every use: somebody may flush it at any time.
    fn ensure(&self, socket: &mut Socket) -> Result<(), Error> {
        if self.is_whole(socket)? {
            return Ok(());
        }
        batch(socket, &ruleset::make(&self.name))
            .map_err(|f| f.during(format!("make table inet {} (is nftables in this kernel?)", self.name)))
    }

    fn is_whole(&self, socket: &mut Socket) -> Result<bool, Error> {
        let request = Attributes::new().string(wire::NFTA_RULE_TABLE, &self.name).message(libc::NFT_MSG_GETRULE, 0);
        let rules = socket.query(&request, true, |(current, other): &mut (usize, usize), _, body| {
            let comment = wire::message_attributes(body).find(|(kind, _)| *kind == wire::NFTA_RULE_USERDATA);
            if ruleset::is_current(comment.and_then(|(_, data)| wire::parse_comment(data))) {
                *current += 1;
            } else {
                *other += 1;
            }
        });
        match rules {
            Ok(counts) => Ok(counts == (ruleset::rule_count(), 0)),
            Err(f) if f.errno() == libc::ENOENT => Ok(false),
            Err(f) => Err(f.during(format!("list the rules of table inet {}", self.name))),
        }
    }

    fn add_subnets(&self, socket: &mut Socket, subnets: &[IpNet], set: impl Fn(Family) -> String) -> Result<(), Error> {
        for subnet in subnets {
            let set = set(Family::of(subnet.addr()));
            let request = elements::subnet(&self.name, &set, subnet).message(libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE);
            batch(socket, &[request]).map_err(|f| {
                let hint = if matches!(f.errno(), libc::ENOTEMPTY | libc::EEXIST) {
                    ": it overlaps another network's"
                } else {
                    ""
                };
                f.during(format!("add {subnet} to set {set} of table {}{hint}", self.name))
            })?;
        }
        Ok(())
    }

    fn port_message(&self, owner: &str, port: &HostPort) -> Request {
        elements::port(&self.name, owner, port).message(libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The messages that remove the ports of some owners, and the ports.
    fn removal(
        &self,
        socket: &mut Socket,
        remove: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Request>, Vec<HostPort>), Error> {
        let (mut requests, mut ports) = (Vec::new(), Vec::new());
        for (family, map, with_ip) in maps() {
            for element in elements::list(socket, &self.name, &map)? {
                if remove(&element.owner) {
                    let key = elements::key(&self.name, &map, &element.key);
                    requests.push(key.message(libc::NFT_MSG_DELSETELEM, 0));
                    ports.extend(elements::parse_port(&element, family, with_ip));
                }
            }
        }
        Ok((requests, ports))
    }

    fn port_taken(&self, socket: &mut Socket, port: Option<&HostPort>) -> Error {
        let Some(port) = port else {
            return Error::PortTaken { port: "?".to_owned(), owner: "another container".to_owned() };
        };
        let (map, key) = elements::port_key(port);
        let known = elements::list(socket, &self.name, &map).unwrap_or_default();
        let owner = known.into_iter().find(|e| e.key == key).map(|e| e.owner);
        Error::PortTaken {
            port: format!("{}/{:?}", port.host_port, port.protocol).to_lowercase(),
            owner: owner.unwrap_or_else(|| "another container".to_owned()),
        }
    }
}

/// Every map of ports: its family, its name, whether its keys have the host's address.
fn maps() -> impl Iterator<Item = (Family, String, bool)> {
    Family::BOTH.into_iter().flat_map(|f| [(f, f.ports_map(), false), (f, f.ips_map(), true)])
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn batch(socket: &mut Socket, requests: &[Request]) -> Result<(), Failure> {
    let (begin, end) = wire::batch_frame();
    socket.batch(&begin, requests, &end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names() {
        assert!(Table::new("orlop").is_ok());
        assert!(Table::new("orlop-test_1.x").is_ok());
        for bad in ["", "1x", "a b", "a/b", &"x".repeat(64)] {
            assert!(Table::new(bad).is_err(), "{bad}");
        }
    }
}
