//! The success type of ADD (CNI spec 1.1, section 5).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::version::Version;

/// What ADD answers: the interfaces that were made, and their addresses and routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniResult {
    pub cni_version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    pub dns: Dns,
}

/// An interface, on the host (no sandbox) or in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since spec 1.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the namespace; empty for the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address with the length of its network's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpConfig {
    /// `4` or `6`; only written for versions before 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Since spec 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Since spec 1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

/// What goes into a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl CniResult {
    /// As JSON in the form of `version`, its own version set to it.
    pub fn to_version(&self, version: Version) -> Value {
        let mut out = self.clone();
        version.as_str().clone_into(&mut out.cni_version);
        for ip in &mut out.ips {
            ip.version =
                (version < Version::V1_0_0).then(|| if ip.address.addr().is_ipv4() { "4" } else { "6" }.to_owned());
        }
        if version < Version::V1_1_0 {
            out.interfaces.iter_mut().for_each(|i| i.mtu = None);
            for route in &mut out.routes {
                (route.mtu, route.priority) = (None, None);
            }
        }
        serde_json::json!(out)
    }

    /// Reads any supported version's form.
    pub fn from_value(value: &Value) -> Result<CniResult, serde_json::Error> {
        let mut result: CniResult = CniResult::deserialize(value)?;
        result.ips.iter_mut().for_each(|ip| ip.version = None);
        Ok(result)
    }

    /// The addresses of the container's interface `ifname`, or all if no address says its interface.
    pub fn addresses_of(&self, ifname: &str) -> Vec<IpAddr> {
        let on_interface = |ip: &&IpConfig| match ip.interface.and_then(|i| self.interfaces.get(i)) {
            Some(interface) => interface.name == ifname && !interface.sandbox.is_empty(),
            None => true,
        };
        self.ips.iter().filter(on_interface).map(|ip| ip.address.addr()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"cniVersion":"1.0.0",
        "interfaces":[{"name":"cni0","mac":"00:11:22:33:44:55"},{"name":"eth0","sandbox":"/run/netns/x","mtu":1500}],
        "ips":[{"interface":1,"address":"10.1.0.5/16","gateway":"10.1.0.1"},{"interface":1,"address":"fd00::5/64"}],
        "routes":[{"dst":"0.0.0.0/0","priority":7}],"dns":{}}"#;

    #[test]
    fn old_versions_say_the_address_family() {
        let result: CniResult = serde_json::from_str(RESULT).unwrap();
        let old = result.to_version(Version::V0_4_0);
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        assert_eq!(old["cniVersion"], "0.4.0");
        assert!(old["interfaces"][1].get("mtu").is_none());
        assert!(result.to_version(Version::V1_1_0)["ips"][0].get("version").is_none());
        let mut back = CniResult::from_value(&old).unwrap();
        back.cni_version = result.cni_version.clone();
        back.interfaces[1].mtu = Some(1500);
        back.routes[0].priority = Some(7);
        assert_eq!(back, result);
    }

    #[test]
    fn addresses_are_those_of_the_interface() {
        let result: CniResult = serde_json::from_str(RESULT).unwrap();
        assert_eq!(result.addresses_of("eth0").len(), 2);
        assert!(result.addresses_of("cni0").is_empty());
    }
}
