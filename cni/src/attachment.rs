//! One container on one network: what the caller of a plugin chain says about it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Names an attachment: the key that plugins and the cache use (CNI spec 1.1, "Garbage-collect").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The container id, which in Kubernetes is the sandbox id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name inside the container.
    pub ifname: String,
}

/// A container to be put on a network, or to be taken off it.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// The container id: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
    pub container_id: String,
    /// A file of the container's network namespace. ADD and CHECK need it; DEL goes on without.
    pub netns: Option<PathBuf>,
    /// The interface's name inside the container, `eth0` as a rule.
    pub ifname: String,
    /// `CNI_ARGS`, as key and value. Kubernetes' `K8S_POD_NAME` and so on, with `IgnoreUnknown=1`.
    pub args: Vec<(String, String)>,
    /// Capability name (`portMappings`, `bandwidth`, `ipRanges`, `ips`, `mac`, `dns`, …) to the value that a
    /// plugin which declares the capability gets in `runtimeConfig`.
    pub capabilities: Map<String, Value>,
    /// For DEL in the caller's own process: nothing holds the namespace any more once DEL has returned, so
    /// the kernel removes the interfaces. The plugins then delete none (15 to 27 ms each), and an address
    /// stays in quarantine until the host's end of its veth pair is gone ([`Runner::reap`](crate::Runner::reap)).
    /// Executed plugins don't know of it and delete the interface.
    pub netns_going_away: bool,
}

impl Attachment {
    /// An attachment without arguments or capabilities.
    pub fn new(container_id: impl Into<String>, netns: Option<PathBuf>, ifname: impl Into<String>) -> Attachment {
        Attachment { container_id: container_id.into(), netns, ifname: ifname.into(), ..Attachment::default() }
    }

    /// Its key.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// Sets the `portMappings` capability; nothing for an empty list.
    pub fn set_port_mappings(&mut self, mappings: &[PortMapping]) {
        if mappings.is_empty() {
            self.capabilities.remove("portMappings");
        } else {
            self.capabilities.insert("portMappings".to_owned(), serde_json::json!(mappings));
        }
    }

    /// `CNI_ARGS`: pairs joined by `=`, separated by `;`.
    pub(crate) fn args_string(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(";")
    }
}

/// A port of the host that leads to a port of the container (CNI conventions, `portMappings`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address that listens; every address when absent, empty or unspecified.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    #[serde(alias = "TCP")]
    Tcp,
    #[serde(alias = "UDP")]
    Udp,
    #[serde(alias = "SCTP")]
    Sctp,
}

impl Protocol {
    /// The number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol of that number.
    pub(crate) fn from_number(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == number)
    }
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(d)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = text.parse().map_err(serde::de::Error::custom)?;
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_mapping_reads_what_runtimes_write() {
        let m: PortMapping =
            serde_json::from_str(r#"{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":""}"#).unwrap();
        assert_eq!((m.host_port, m.container_port, m.protocol, m.host_ip), (80, 8080, Protocol::Tcp, None));
        let m: PortMapping = serde_json::from_str(r#"{"hostPort":80,"containerPort":8080,"hostIP":"::1"}"#).unwrap();
        assert_eq!(m.host_ip, Some("::1".parse().unwrap()));
        assert!(serde_json::from_str::<PortMapping>(r#"{"hostPort":70000,"containerPort":1}"#).is_err());
        assert!(serde_json::from_str::<PortMapping>(r#"{"hostPort":1,"containerPort":1,"protocol":"icmp"}"#).is_err());
    }

    #[test]
    fn args_are_joined() {
        let mut a = Attachment::new("c", None, "eth0");
        a.args = vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "p".into())];
        assert_eq!(a.args_string(), "IgnoreUnknown=1;K8S_POD_NAME=p");
    }
}
