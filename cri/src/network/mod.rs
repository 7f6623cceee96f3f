//! The pod network: one CNI configuration, run by the library in this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_cni::{Attachment, AttachmentId, NetworkConfigList, PortMapping, Protocol, Runner};
use orlop_proto::v1;

use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::store::Sandbox;

/// The name of the pod's interface.
const INTERFACE: &str = "eth0";
/// Longer than the library's own deadline of a chain and of undoing one: what hangs beyond is not a plugin.
const DEADLINE: Duration = Duration::from_mins(2);
/// How long to look after an address whose interface is going away; the next ADD or start does the rest.
const REAP_PAUSES: [u64; 6] = [20, 50, 100, 250, 500, 1000];

/// Attaches pods and detaches them.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    conf_dir: PathBuf,
    runner: Runner,
}

impl Network {
    pub(crate) fn new(config: &Config) -> Network {
        Network {
            conf_dir: config.cni.conf_dir.clone(),
            runner: Runner::new(config.cni.bin_dirs.clone(), config.cni_cache(), true),
        }
    }

    /// The network's name, if it can be used now.
    pub(crate) async fn status(&self) -> Result<String> {
        self.run("ask the pod network for its status", |network| {
            let list = network.load()?;
            network.runner.status(&list).context(Kind::Unavailable, || format!("network {}", list.name))?;
            Ok(list.name)
        })
        .await
    }

    /// Attaches a pod whose network namespace is pinned at `netns`; its addresses, the primary one first.
    pub(crate) async fn add(&self, sandbox: &Sandbox, netns: &Path) -> Result<Vec<String>> {
        let attachment = attachment(sandbox, Some(netns.to_owned()))?;
        self.run("attach the pod to its network", move |network| {
            let list = network.load()?;
            let result = network
                .runner
                .add(&list, &attachment)
                .context(Kind::Unavailable, || format!("attach the pod to network {}", list.name))?;
            let addresses: Vec<String> = result.addresses_of(INTERFACE).iter().map(ToString::to_string).collect();
            if addresses.is_empty() {
                return Err(Error::internal(format!("network {} gave the pod no address", list.name)));
            }
            Ok(addresses)
        })
        .await
    }

    /// Detaches a pod; one that is not attached is fine. With `netns`, the caller closes that namespace next,
    /// and the kernel removes the interfaces; without, it is gone already.
    pub(crate) async fn del(&self, sandbox: &Sandbox, netns: Option<PathBuf>) -> Result<()> {
        let mut attachment = attachment(sandbox, netns)?;
        attachment.netns_going_away = true;
        self.run("detach the pod from its network", move |network| {
            // What was attached is on record: a network that is no longer configured is detached from all the same.
            network
                .runner
                .del(network.load().ok().as_ref(), &attachment)
                .step(|| "detach the pod from its network".to_owned())
        })
        .await
    }

    /// Frees the addresses of pods whose interfaces the kernel is removing.
    pub(crate) async fn reap(&self) {
        for pause in REAP_PAUSES {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let waiting = self
                .run("free addresses", |network| {
                    let list = network.load()?;
                    network.runner.reap(&list).step(|| format!("free addresses of network {}", list.name))
                })
                .await;
            match waiting {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return tracing::debug!("{}", error.chain()),
            }
        }
    }

    /// Removes what belongs to pods that are not among `sandboxes`.
    pub(crate) async fn collect(&self, sandboxes: Vec<String>) -> Result<()> {
        self.run("collect the garbage of the pod network", move |network| {
            let valid: Vec<AttachmentId> = sandboxes
                .into_iter()
                .map(|container_id| AttachmentId { container_id, ifname: INTERFACE.to_owned() })
                .collect();
            network
                .runner
                .gc(network.load().ok().as_ref(), &valid)
                .step(|| "collect the garbage of the pod networks".to_owned())
        })
        .await
    }

    fn load(&self) -> Result<NetworkConfigList> {
        NetworkConfigList::load(&self.conf_dir)
            .context(Kind::Unavailable, || "the pod network is not configured".to_owned())
    }

    /// The library blocks: a thread for it, and an end to waiting.
    async fn run<T, F>(&self, step: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Network) -> Result<T> + Send + 'static,
    {
        let network = self.clone();
        match tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(move || work(&network))).await {
            Ok(joined) => joined.step(|| format!("{step}: the thread panicked"))?,
            Err(_) => {
                Err(Error::new(Kind::DeadlineExceeded, format!("{step}: not done after {} s", DEADLINE.as_secs())))
            }
        }
    }
}

fn attachment(sandbox: &Sandbox, netns: Option<PathBuf>) -> Result<Attachment> {
    let metadata = sandbox.metadata();
    let mut attachment = Attachment::new(sandbox.id.clone(), netns, INTERFACE);
    attachment.args = [
        ("IgnoreUnknown", "1".to_owned()),
        ("K8S_POD_NAMESPACE", metadata.namespace),
        ("K8S_POD_NAME", metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", sandbox.id.clone()),
        ("K8S_POD_UID", metadata.uid),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    attachment.set_port_mappings(&port_mappings(&sandbox.config)?);
    if let Some(bandwidth) = bandwidth(&sandbox.config.annotations)? {
        attachment.capabilities.insert("bandwidth".to_owned(), bandwidth);
    }
    if let Some(dns) = sandbox.config.dns_config.as_ref() {
        let value = serde_json::json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        attachment.capabilities.insert("dns".to_owned(), value);
    }
    Ok(attachment)
}

/// The port mappings of a pod that name a port of the host.
pub(crate) fn port_mappings(config: &v1::PodSandboxConfig) -> Result<Vec<PortMapping>> {
    config.port_mappings.iter().filter(|mapping| mapping.host_port != 0).map(port_mapping).collect()
}

fn port_mapping(mapping: &v1::PortMapping) -> Result<PortMapping> {
    let port = |what: &str, value: i32| {
        u16::try_from(value)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Error::invalid(format!("port mapping: {what} {value} is not in 1..=65535")))
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| Error::invalid(format!("port mapping: {text:?} is no IP address")))?),
    };
    Ok(PortMapping {
        host_port: port("host_port", mapping.host_port)?,
        container_port: port("container_port", mapping.container_port)?,
        protocol: match mapping.protocol() {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        host_ip,
    })
}

/// `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`, in bits per second with a Kubernetes suffix.
pub(crate) fn bandwidth(annotations: &std::collections::BTreeMap<String, String>) -> Result<Option<serde_json::Value>> {
    let mut value = serde_json::Map::new();
    for direction in ["ingress", "egress"] {
        let key = format!("kubernetes.io/{direction}-bandwidth");
        if let Some(text) = annotations.get(&key) {
            let rate =
                quantity(text).ok_or_else(|| Error::invalid(format!("annotation {key}: {text:?} is no rate")))?;
            value.insert(format!("{direction}Rate"), rate.into());
            // The bucket holds as much as the plugin takes: it is a limit on the rate, not on bursts.
            value.insert(format!("{direction}Burst"), i64::from(i32::MAX).into());
        }
    }
    Ok((!value.is_empty()).then(|| value.into()))
}

/// A whole number with a decimal or binary suffix.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::{port_mapping, quantity};
    use orlop_proto::v1;

    #[test]
    fn ports_are_checked() {
        let mut mapping = v1::PortMapping { host_port: 8080, container_port: 80, ..Default::default() };
        assert_eq!(port_mapping(&mapping).unwrap().host_port, 8080);
        mapping.host_ip = "nowhere".to_owned();
        assert!(port_mapping(&mapping).is_err());
        for port in [0, -1, 65536] {
            let mapping = v1::PortMapping { host_port: 1, container_port: port, ..Default::default() };
            assert!(port_mapping(&mapping).is_err());
        }
    }

    #[test]
    fn rates_are_read() {
        assert_eq!(quantity("10M"), Some(10_000_000));
        assert_eq!(quantity("1Ki"), Some(1024));
        for text in ["", "M", "1.5G", "-1", "1X"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
