//! The files. Every change is made under the lock that the upstream plugin takes too (`flock` of `lock`).

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{DEFAULT_DATA_DIR, IpamConfig, RangeSet};
use crate::attachment::AttachmentId;
use crate::netlink::Route;
use crate::plugin::Error;

const LINE_BREAK: &str = "\r\n";
/// A third line "quarantine <interface>": free as soon as the interface is gone. For the upstream plugin the
/// file is some other container's reservation.
const QUARANTINE: &str = "quarantine ";

/// The folder of one network.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

/// The folder while nobody else changes it.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    dir: &'a Path,
    _lock: Flock<File>,
    /// Opened when the first quarantined address is looked at.
    netlink: Option<Route>,
}

/// One address's file.
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) address: IpAddr,
    pub(super) id: AttachmentId,
    /// The interface that it waits for.
    pub(super) quarantine: Option<String>,
}

impl Store {
    pub(super) fn of(network: &str, config: &IpamConfig) -> Result<Store, Error> {
        let data_dir = config.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        if !data_dir.is_absolute() {
            return Err(Error::config("dataDir", format!("{} is not absolute", data_dir.display())));
        }
        Ok(Store { dir: data_dir.join(network) })
    }

    /// Makes the folder if it is missing.
    pub(super) fn lock(&self) -> Result<Locked<'_>, Error> {
        if let Some(locked) = self.lock_existing()? {
            return Ok(locked);
        }
        fs::create_dir_all(&self.dir).map_err(Error::file("create", &self.dir))?;
        self.lock_existing()?.ok_or_else(|| Error::file("lock", &self.dir)(io::ErrorKind::NotFound.into()))
    }

    /// Nothing if there is no folder, and so no address.
    pub(super) fn lock_existing(&self) -> Result<Option<Locked<'_>>, Error> {
        let path = self.dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::file("open", &path))?,
        };
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| Error::file("lock", &path)(e.into()))?;
        Ok(Some(Locked { dir: &self.dir, _lock: lock, netlink: None }))
    }
}

impl Locked<'_> {
    /// The wished address or, without, the first free one behind that handed out last: an address that was
    /// just freed comes again as late as can be.
    pub(super) fn reserve(
        &mut self,
        id: &AttachmentId,
        set: &RangeSet,
        number: usize,
        wish: Option<IpAddr>,
    ) -> Result<IpAddr, Error> {
        if let Some(ip) = wish {
            if !self.is_free(ip)? {
                return Err(Error::AddressTaken(ip, set.to_string()));
            }
            return self.take(ip, id);
        }
        let last_file = self.dir.join(format!("last_reserved_ip.{number}"));
        let last = fs::read_to_string(&last_file).ok();
        let last = last.and_then(|text| text.trim().parse().ok());
        for ip in set.after(last) {
            if self.is_free(ip)? {
                let ip = self.take(ip, id)?;
                // Only a hint of where to begin: a torn one costs nothing.
                fs::write(&last_file, ip.to_string()).map_err(Error::file("write", &last_file))?;
                return Ok(ip);
            }
        }
        Err(Error::RangeExhausted(set.to_string()))
    }

    /// Writes the address's file, by rename.
    pub(super) fn take(&mut self, ip: IpAddr, id: &AttachmentId) -> Result<IpAddr, Error> {
        self.write(ip, &format!("{}{LINE_BREAK}{}", id.container_id, id.ifname))?;
        Ok(ip)
    }

    /// Keeps the address from others while the interface exists.
    pub(super) fn quarantine(&mut self, ip: IpAddr, id: &AttachmentId, interface: &str) -> Result<(), Error> {
        let owner = format!("{}{LINE_BREAK}{}", id.container_id, id.ifname);
        self.write(ip, &format!("{owner}{LINE_BREAK}{QUARANTINE}{interface}"))
    }

    fn write(&self, ip: IpAddr, content: &str) -> Result<(), Error> {
        let path = self.path(ip);
        let temporary = self.dir.join(".new");
        let written = fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(Error::file("write", &path))
    }

    /// Removes the address's file; that it is gone already is success.
    pub(super) fn release(&mut self, ip: IpAddr) -> Result<(), Error> {
        let path = self.path(ip);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// What the attachment has, in quarantine or not.
    pub(super) fn addresses_of(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, Error> {
        let own = self.reservations()?.into_iter().filter(|r| r.id == *id);
        Ok(own.map(|r| r.address).collect())
    }

    /// Whether the attachment has the address, in quarantine or not.
    pub(super) fn is_of(&self, ip: IpAddr, id: &AttachmentId) -> Result<bool, Error> {
        Ok(self.read(ip)?.is_some_and(|r| r.id == *id))
    }

    /// Every address's file.
    pub(super) fn reservations(&self) -> Result<Vec<Reservation>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir).map_err(Error::file("list", self.dir))? {
            let entry = entry.map_err(Error::file("list", self.dir))?;
            if let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                found.extend(self.read(ip)?);
            }
        }
        Ok(found)
    }

    fn is_free(&mut self, ip: IpAddr) -> Result<bool, Error> {
        match self.read(ip)? {
            None => Ok(true),
            Some(reservation) => Ok(reservation.quarantine.is_some() && self.is_reusable(&reservation)?),
        }
    }

    /// Whether nothing of the container is left that could still use the address: true without quarantine.
    pub(super) fn is_reusable(&mut self, reservation: &Reservation) -> Result<bool, Error> {
        let Some(interface) = &reservation.quarantine else {
            return Ok(true);
        };
        if self.netlink.is_none() {
            self.netlink = Some(Route::open()?);
        }
        match &mut self.netlink {
            Some(netlink) => Ok(netlink.link(interface)?.is_none()),
            None => Ok(false),
        }
    }

    /// The address's file. An empty one is what a writer left that was killed between making and filling it;
    /// its ADD never answered.
    fn read(&self, ip: IpAddr) -> Result<Option<Reservation>, Error> {
        let path = self.path(ip);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::file("read", &path))?,
        };
        Ok(parse(ip, &text))
    }

    fn path(&self, ip: IpAddr) -> PathBuf {
        self.dir.join(ip.to_string())
    }
}

fn parse(address: IpAddr, text: &str) -> Option<Reservation> {
    let mut lines = text.trim().lines();
    let container_id = lines.next().filter(|id| !id.is_empty())?.to_owned();
    // The oldest layout has no interface.
    let ifname = lines.next().unwrap_or_default().to_owned();
    let quarantine = lines.next().and_then(|line| line.strip_prefix(QUARANTINE));
    Some(Reservation { address, id: AttachmentId { container_id, ifname }, quarantine: quarantine.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::super::{HostLocal, collect_garbage, release};
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        config: IpamConfig,
        host_local: HostLocal,
    }

    fn fixture(ranges: &str) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let mut config: IpamConfig = serde_json::from_str(ranges).unwrap();
        config.data_dir = Some(dir.path().to_owned());
        let host_local = HostLocal::new("net", &config, Vec::new()).unwrap();
        Fixture { dir, config, host_local }
    }

    fn id(container_id: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.to_owned(), ifname: "eth0".to_owned() }
    }

    fn files(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("net")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_layout_is_upstreams() {
        let f = fixture(r#"{"ranges":[[{"subnet":"10.1.0.0/29"}],[{"subnet":"fd00::/64"}]]}"#);
        let ips = f.host_local.allocate(&id("c1"), &[], false).unwrap();
        assert_eq!(ips[0].address.to_string(), "10.1.0.2/29");
        assert_eq!(ips[0].gateway.unwrap().to_string(), "10.1.0.1");
        assert_eq!(ips[1].address.to_string(), "fd00::2/64");
        assert_eq!(files(f.dir.path()), ["10.1.0.2", "fd00::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        let content = fs::read_to_string(f.dir.path().join("net/10.1.0.2")).unwrap();
        assert_eq!(content, "c1\r\neth0");
        let last = fs::read_to_string(f.dir.path().join("net/last_reserved_ip.0")).unwrap();
        assert_eq!(last, "10.1.0.2");
    }

    #[test]
    fn the_same_attachment_gets_the_same_address() {
        let f = fixture(r#"{"subnet":"10.1.0.0/29"}"#);
        let first = f.host_local.allocate(&id("c1"), &[], false).unwrap();
        assert_eq!(f.host_local.allocate(&id("c1"), &[], false).unwrap(), first);
        assert_ne!(f.host_local.allocate(&id("c2"), &[], false).unwrap(), first);
    }

    #[test]
    fn a_freed_address_comes_again_last_and_a_full_range_says_so() {
        let f = fixture(r#"{"subnet":"10.1.0.0/29"}"#);
        let address = |name: &str| f.host_local.allocate(&id(name), &[], false).unwrap()[0].address.addr().to_string();
        assert_eq!(address("c1"), "10.1.0.2");
        release("net", &f.config, &id("c1"), &[], None).unwrap();
        assert_eq!(address("c2"), "10.1.0.3");
        assert_eq!(address("c3"), "10.1.0.4");
        assert_eq!(address("c4"), "10.1.0.5");
        assert_eq!(address("c5"), "10.1.0.6");
        assert_eq!(address("c6"), "10.1.0.2");
        let full = f.host_local.allocate(&id("c7"), &[], false).unwrap_err().to_string();
        assert_eq!(full, "no IP addresses available in range set: 10.1.0.1-10.1.0.6");
    }

    #[test]
    fn requested_addresses() {
        let f = fixture(r#"{"subnet":"10.1.0.0/29"}"#);
        let wish = |ip: &str| [ip.parse::<IpAddr>().unwrap()];
        let ips = f.host_local.allocate(&id("c1"), &wish("10.1.0.5"), false).unwrap();
        assert_eq!(ips[0].address.to_string(), "10.1.0.5/29");
        let taken = f.host_local.allocate(&id("c2"), &wish("10.1.0.5"), false);
        assert!(matches!(taken, Err(Error::AddressTaken(..))));
        for outside in ["10.2.0.5", "10.1.0.1", "fd00::1"] {
            let refused = f.host_local.allocate(&id("c2"), &wish(outside), false);
            assert!(matches!(refused, Err(Error::AddressOutside(_))), "{outside}");
        }
    }

    #[test]
    fn nothing_is_reserved_if_a_set_is_exhausted() {
        let f = fixture(r#"{"ranges":[[{"subnet":"10.1.0.0/29"}],[{"subnet":"fd00::/126"}]]}"#);
        f.host_local.allocate(&id("c1"), &[], false).unwrap();
        f.host_local.allocate(&id("c2"), &[], false).unwrap();
        assert!(matches!(f.host_local.allocate(&id("c3"), &[], false), Err(Error::RangeExhausted(_))));
        assert!(!f.dir.path().join("net/10.1.0.4").exists());
    }

    #[test]
    fn garbage_is_what_nobody_has() {
        let f = fixture(r#"{"subnet":"10.1.0.0/29"}"#);
        f.host_local.allocate(&id("c1"), &[], false).unwrap();
        f.host_local.allocate(&id("c2"), &[], false).unwrap();
        collect_garbage("net", &f.config, &[id("c2")]).unwrap();
        assert!(!f.dir.path().join("net/10.1.0.2").exists());
        assert!(f.host_local.check(&id("c2"), &["10.1.0.3".parse().unwrap()]).is_ok());
        assert!(f.host_local.check(&id("c1"), &[]).is_err());
    }

    #[test]
    fn quarantine_ends_with_the_interface() {
        let f = fixture(r#"{"subnet":"10.1.0.0/30"}"#);
        f.host_local.allocate(&id("c1"), &[], false).unwrap();
        // lo stands for an interface that is still there.
        release("net", &f.config, &id("c1"), &[], Some("lo")).unwrap();
        assert!(matches!(f.host_local.allocate(&id("c2"), &[], false), Err(Error::RangeExhausted(_))));
        release("net", &f.config, &id("c1"), &[], Some("veth-no-such")).unwrap();
        let ips = f.host_local.allocate(&id("c2"), &[], false).unwrap();
        assert_eq!(ips[0].address.to_string(), "10.1.0.2/30");
    }

    #[test]
    fn an_empty_file_is_nobodys() {
        let f = fixture(r#"{"subnet":"10.1.0.0/30"}"#);
        fs::create_dir_all(f.dir.path().join("net")).unwrap();
        fs::write(f.dir.path().join("net/10.1.0.2"), "").unwrap();
        assert!(f.host_local.allocate(&id("c1"), &[], false).is_ok());
    }

    #[test]
    fn release_without_a_folder_is_success() {
        let f = fixture(r#"{"subnet":"10.1.0.0/30"}"#);
        release("net", &f.config, &id("c1"), &[], None).unwrap();
        assert!(!f.dir.path().join("net").exists());
    }
}
