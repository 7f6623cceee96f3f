//! Addresses out of ranges, remembered as files on this host, in the layout of the plugin of that name
//! everywhere: `<dataDir>/<network>/<address>`, which holds the container id and the interface.

mod range;
mod store;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use range::{Range, RangeSet};
use store::Store;

use crate::attachment::AttachmentId;
use crate::plugin::Error;
use crate::result::{IpConfig, Route};

/// Where the addresses are when the configuration does not say.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The `ipam` section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpamConfig {
    /// One range, the old way: these four.
    pub subnet: Option<IpNet>,
    pub range_start: Option<IpAddr>,
    pub range_end: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
    /// Sets of ranges; a container gets an address out of each set.
    pub ranges: Vec<RangeSet>,
    pub routes: Vec<Route>,
    pub data_dir: Option<PathBuf>,
    /// A file whose name servers and search domains go into the result.
    pub resolv_conf: Option<PathBuf>,
}

/// The addresses of one network.
#[derive(Debug)]
pub struct HostLocal {
    sets: Vec<RangeSet>,
    store: Store,
}

impl HostLocal {
    /// The ranges of `config` and, after them, those of the `ipRanges` capability. They are checked, and must
    /// not overlap.
    pub fn new(network: &str, config: &IpamConfig, extra: Vec<RangeSet>) -> Result<HostLocal, Error> {
        let old = config.subnet.map(|subnet| {
            RangeSet(vec![Range {
                subnet,
                range_start: config.range_start,
                range_end: config.range_end,
                gateway: config.gateway,
            }])
        });
        let mut sets: Vec<RangeSet> = old.into_iter().chain(config.ranges.iter().cloned()).collect();
        sets.extend(extra);
        if sets.is_empty() {
            return Err(Error::config("ipam", "has neither a subnet nor ranges"));
        }
        for set in &mut sets {
            set.complete()?;
        }
        for (i, set) in sets.iter().enumerate() {
            if let Some(other) = sets[..i].iter().find(|other| other.overlaps(set)) {
                return Err(Error::config("ipam", format!("ranges {other} and {set} overlap")));
            }
        }
        Ok(HostLocal { sets, store: Store::of(network, config)? })
    }

    /// An address out of each set, the requested ones where they are given. The same attachment gets the same
    /// addresses again; with `is_first`, it is known to have none. If a set is exhausted, nothing is reserved.
    pub fn allocate(&self, id: &AttachmentId, requested: &[IpAddr], is_first: bool) -> Result<Vec<IpConfig>, Error> {
        let inside = |ip: &&IpAddr| !self.sets.iter().any(|set| set.find(**ip).is_some());
        if let Some(outside) = requested.iter().find(inside) {
            return Err(Error::AddressOutside(*outside));
        }
        let mut locked = self.store.lock()?;
        let own = if is_first { Vec::new() } else { locked.addresses_of(id)? };
        let mut reserved = Vec::new();
        let allocated = self.sets.iter().enumerate().map(|(number, set)| {
            let kept = own.iter().find(|ip| set.find(**ip).is_some());
            let ip = if let Some(ip) = kept {
                // Takes it out of quarantine, if it is there.
                locked.take(*ip, id)?
            } else {
                let wish = requested.iter().copied().find(|ip| set.find(*ip).is_some());
                let ip = locked.reserve(id, set, number, wish)?;
                reserved.push(ip);
                ip
            };
            set.ip_config(ip)
        });
        match allocated.collect() {
            Ok(ips) => Ok(ips),
            Err(cause) => {
                let cause: Error = cause;
                let undone = reserved.iter().map(|ip| locked.release(*ip)).collect::<Vec<_>>();
                Err(cause.after_rollback(Error::gather(undone)))
            }
        }
    }

    /// Whether the attachment still has these addresses.
    pub fn check(&self, id: &AttachmentId, expected: &[IpAddr]) -> Result<(), Error> {
        let own = self.store.lock()?.addresses_of(id)?;
        let missing = expected.iter().find(|ip| self.contains(**ip) && !own.contains(ip));
        match missing {
            None if !own.is_empty() => Ok(()),
            None => Err(Error::check("the reservation", "there is none")),
            Some(ip) => Err(Error::check(format!("the reservation of {ip}"), "it is not this container's")),
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.sets.iter().any(|set| set.find(ip).is_some())
    }
}

/// Frees the attachment's addresses; none is success. With `until_gone`, the name of the host's interface,
/// they stay in quarantine as long as it exists: until then packets of the dying container may still come.
/// `known` are the addresses of its result, if there is one: if all are its own, no other is looked for.
pub fn release(
    network: &str,
    config: &IpamConfig,
    id: &AttachmentId,
    known: &[IpAddr],
    until_gone: Option<&str>,
) -> Result<(), Error> {
    let store = Store::of(network, config)?;
    let Some(mut locked) = store.lock_existing()? else {
        return Ok(());
    };
    let mut are_own = !known.is_empty();
    for ip in known {
        are_own &= locked.is_of(*ip, id)?;
    }
    let own = if are_own { known.to_vec() } else { locked.addresses_of(id)? };
    Error::gather(own.into_iter().map(|ip| match until_gone {
        Some(interface) => locked.quarantine(ip, id, interface),
        None => locked.release(ip),
    }))
}

/// Frees what belongs to attachments that are not in `valid`, and what leaves quarantine.
pub fn collect_garbage(network: &str, config: &IpamConfig, valid: &[AttachmentId]) -> Result<(), Error> {
    let store = Store::of(network, config)?;
    let Some(mut locked) = store.lock_existing()? else {
        return Ok(());
    };
    let stale = locked.reservations()?.into_iter().filter(|r| !valid.contains(&r.id));
    let results: Vec<_> = stale
        .filter_map(|r| match locked.is_reusable(&r) {
            Ok(true) => Some(locked.release(r.address)),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        })
        .collect();
    Error::gather(results)
}

/// Frees the addresses of `plugin`'s network that leave quarantine; returns how many stay in it.
pub(crate) fn reap(network: &str, plugin: &Map<String, Value>) -> Result<usize, Error> {
    let Some(ipam) = plugin.get("ipam") else { return Ok(0) };
    if ipam.get("type").and_then(Value::as_str) != Some("host-local") {
        return Ok(0);
    }
    let config = IpamConfig::deserialize(ipam).map_err(|e| Error::config("ipam", e))?;
    let store = Store::of(network, &config)?;
    let Some(mut locked) = store.lock_existing()? else {
        return Ok(0);
    };
    let mut waiting = 0;
    for reservation in locked.reservations()? {
        if reservation.quarantine.is_none() {
            continue;
        }
        if locked.is_reusable(&reservation)? {
            locked.release(reservation.address)?;
        } else {
            waiting += 1;
        }
    }
    Ok(waiting)
}

impl RangeSet {
    fn ip_config(&self, ip: IpAddr) -> Result<IpConfig, Error> {
        let range = self.find(ip).ok_or(Error::AddressOutside(ip))?;
        let address = IpNet::new(ip, range.subnet.prefix_len()).map_err(|e| Error::config("subnet", e))?;
        Ok(IpConfig { version: None, interface: None, address, gateway: range.gateway })
    }
}
