//! What `bridge` is configured with.

use serde::Deserialize;

use crate::config::validate_interface_name;
use crate::plugin::{Error, Request};

/// The keys of a `bridge` plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BridgeConfig {
    #[serde(default = "default_bridge")]
    pub(super) bridge: String,
    /// The bridge gets the networks' gateway addresses.
    #[serde(default)]
    pub(super) is_gateway: bool,
    /// And the container a default route there.
    #[serde(default)]
    pub(super) is_default_gateway: bool,
    /// Replace an address of the bridge that contradicts.
    #[serde(default)]
    pub(super) force_address: bool,
    #[serde(default)]
    pub(super) ip_masq: bool,
    #[serde(default)]
    pub(super) hairpin_mode: bool,
    #[serde(default)]
    pub(super) promisc_mode: bool,
    /// The kernel's choice if absent or 0.
    #[serde(default)]
    pub(super) mtu: u32,
    #[serde(default)]
    ip_masq_backend: Option<String>,
    #[serde(default)]
    vlan: u16,
    #[serde(default)]
    vlan_trunk: Option<serde_json::Value>,
    #[serde(default)]
    macspoofchk: bool,
    #[serde(default)]
    port_isolation: bool,
    #[serde(default)]
    enabledad: bool,
    #[serde(default)]
    disable_container_interface: bool,
}

fn default_bridge() -> String {
    "cni0".to_owned()
}

impl BridgeConfig {
    /// The configuration, checked as a whole before anything is done: what this plugin does not do is refused
    /// rather than left out.
    pub(super) fn of(request: &Request) -> Result<BridgeConfig, Error> {
        let mut config: BridgeConfig = request.parse()?;
        config.is_gateway |= config.is_default_gateway;
        validate_interface_name(&config.bridge)?;
        let unsupported = [
            ("vlan", config.vlan != 0),
            ("vlanTrunk", config.vlan_trunk.is_some()),
            ("macspoofchk", config.macspoofchk),
            ("portIsolation", config.port_isolation),
            ("enabledad", config.enabledad),
            ("disableContainerInterface", config.disable_container_interface),
        ];
        if let Some((key, _)) = unsupported.iter().find(|(_, set)| *set) {
            return Err(Error::Unsupported {
                what: format!("bridge: {key}"),
                instead: "remove it, or use another bridge plugin",
            });
        }
        match config.ip_masq_backend.as_deref() {
            None | Some("" | "nftables") => {}
            Some(other) => {
                return Err(Error::Unsupported {
                    what: format!("bridge: ipMasqBackend {other:?}"),
                    instead: "only nftables is done",
                });
            }
        }
        if config.hairpin_mode && config.promisc_mode {
            return Err(Error::config("hairpinMode", "cannot be together with promiscMode"));
        }
        Ok(config)
    }

    /// For a veth pair or the bridge.
    pub(super) fn mtu(&self) -> Option<u32> {
        (self.mtu != 0).then_some(self.mtu)
    }
}

/// The hardware address that is asked for: the `mac` capability, `args.cni.mac`, or `MAC` of `CNI_ARGS`.
pub(super) fn requested_mac(request: &Request) -> Result<Option<[u8; 6]>, Error> {
    let capability: Option<String> = request.runtime_config("mac")?;
    let args = request.config.get("args").and_then(|a| a.get("cni")?.get("mac")?.as_str());
    let text = capability.as_deref().or(args).or_else(|| request.arg("MAC"));
    text.filter(|text| !text.is_empty()).map(parse_mac).transpose()
}

fn parse_mac(text: &str) -> Result<[u8; 6], Error> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
    bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        // A group address (lowest bit) cannot be an interface's.
        .filter(|mac: &[u8; 6]| mac[0] & 1 == 0)
        .ok_or_else(|| Error::config("mac", format!("{text:?} is not the address of an interface")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        assert_eq!(parse_mac("02:00:5e:10:ff:01").unwrap(), [2, 0, 0x5e, 0x10, 0xff, 1]);
        for bad in ["", "02:00", "01:00:5e:10:ff:01", "02-00-5e-10-ff-01", "02:00:5e:10:ff:01:02", "zz:00:5e:10:ff:01"]
        {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
