//! The configuration file: TOML, one section for each part. docs/configuration.md explains every setting.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Read when no file is named, if it is there.
const DEFAULT_FILE: &str = "/etc/orlop/config.toml";

/// A whole configuration; what a file leaves out has its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) log: String,
    pub(crate) node: Node,
    pub(crate) control_plane: ControlPlane,
    pub(crate) agent: Agent,
    pub(crate) cri: Cri,
    pub(crate) network: Network,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Node {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ip: Option<IpAddr>,
    pub(crate) cgroup_root: String,
    pub(crate) log_dir: PathBuf,
    pub(crate) max_pods: u32,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ControlPlane {
    pub(crate) listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advertise: Option<IpAddr>,
    pub(crate) extra_names: Vec<String>,
    pub(crate) service_cidr: Ipv4Net,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Agent {
    pub(crate) listen: SocketAddr,
    pub(crate) static_pods: PathBuf,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Cri {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) socket: Option<PathBuf>,
    pub(crate) streaming: SocketAddr,
    pub(crate) registry_config: PathBuf,
    pub(crate) runtimes: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Network {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conf_dir: Option<PathBuf>,
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) bridge: String,
    pub(crate) nft_table: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state: "/var/lib/orlop".into(),
            run: "/run/orlop".into(),
            log: "info".into(),
            node: Node::default(),
            control_plane: ControlPlane::default(),
            agent: Agent::default(),
            cri: Cri::default(),
            network: Network::default(),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Node {
            name: None,
            ip: None,
            cgroup_root: "/".into(),
            log_dir: "/var/log/pods".into(),
            max_pods: 110,
            labels: BTreeMap::new(),
        }
    }
}

impl Default for ControlPlane {
    fn default() -> Self {
        ControlPlane {
            listen: (Ipv4Addr::UNSPECIFIED, 6443).into(),
            advertise: None,
            extra_names: Vec::new(),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            listen: (Ipv4Addr::UNSPECIFIED, 10250).into(),
            static_pods: "/etc/orlop/manifests".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
        }
    }
}

impl Default for Cri {
    fn default() -> Self {
        Cri {
            socket: None,
            streaming: (Ipv4Addr::LOCALHOST, 0).into(),
            registry_config: "/etc/orlop/certs.d".into(),
            runtimes: BTreeMap::new(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Network {
            conf_dir: None,
            plugin_dirs: vec!["/opt/cni/bin".into()],
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16),
            bridge: "orlop0".into(),
            nft_table: "orlop".into(),
        }
    }
}

impl Config {
    /// The file named, or the default one if it is there, or the defaults.
    pub(crate) fn load(file: Option<&Path>) -> Result<Config> {
        let path = match file {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Config::default()),
        };
        let text = fs::read_to_string(path).with_context(|| format!("read the configuration {}", path.display()))?;
        let config: Config =
            toml::from_str(&text).with_context(|| format!("the configuration {} is not right", path.display()))?;
        config.check().with_context(|| format!("the configuration {} is not right", path.display()))?;
        Ok(config)
    }

    /// What the types cannot say.
    fn check(&self) -> Result<()> {
        for (name, path) in [("state", &self.state), ("run", &self.run), ("node.log-dir", &self.node.log_dir)] {
            ensure!(path.is_absolute(), "{name} = {}: give an absolute path", path.display());
        }
        ensure!(self.state != self.run, "state and run are the same folder; run is emptied at every boot");
        ensure!(
            self.node.cgroup_root.starts_with('/'),
            "node.cgroup-root = {:?}: start it with /",
            self.node.cgroup_root
        );
        orlop_cni::validate_interface_name(&self.network.bridge)
            .with_context(|| format!("network.bridge = {:?}", self.network.bridge))?;
        ensure!(self.network.pod_cidr.prefix_len() <= 29, "network.pod-cidr = {}: too small", self.network.pod_cidr);
        Ok(())
    }

    /// The node's name: the configured one, or the host's in small letters, as Kubernetes wants names.
    pub(crate) fn node_name(&self) -> Result<String> {
        if let Some(name) = &self.node.name {
            return Ok(name.clone());
        }
        let name = nix::unistd::gethostname().context("read the host's name")?;
        Ok(name.to_string_lossy().to_lowercase())
    }

    /// The CRI socket.
    pub(crate) fn cri_socket(&self) -> PathBuf {
        self.cri.socket.clone().unwrap_or_else(|| self.run.join("cri.sock"))
    }

    /// The administrator's kubeconfig, which `orlop up` writes.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// The folder of the conflist: the user's, or ours below the state folder.
    pub(crate) fn cni_conf_dir(&self) -> PathBuf {
        self.network.conf_dir.clone().unwrap_or_else(|| self.state.join("cni/net.d"))
    }

    /// The configuration of the CRI daemon.
    pub(crate) fn for_cri(&self) -> orlop_cri::Config {
        orlop_cri::Config {
            state: self.state.clone(),
            run: self.run.clone(),
            socket: self.cri.socket.clone(),
            streaming: self.cri.streaming,
            cgroup_parent: format!("{}/orlop", self.node.cgroup_root.trim_end_matches('/')),
            cni: orlop_cri::CniConfig {
                conf_dir: self.cni_conf_dir(),
                bin_dirs: self.network.plugin_dirs.clone(),
                ..Default::default()
            },
            registry_config: self.cri.registry_config.clone(),
            runtimes: self.cri.runtimes.clone(),
            ..Default::default()
        }
    }

    /// The configuration of the control plane.
    pub(crate) fn for_control_plane(&self) -> orlop_control_plane::Config {
        orlop_control_plane::Config {
            listen: self.control_plane.listen,
            advertise_address: self.control_plane.advertise.or(self.node.ip),
            extra_sans: self.control_plane.extra_names.clone(),
            service_cidr: self.control_plane.service_cidr,
            ..orlop_control_plane::Config::new(self.state.join("control-plane"))
        }
    }

    /// The configuration of the agent, but for who it talks to.
    pub(crate) fn for_agent(&self) -> Result<orlop_agent::Config> {
        Ok(orlop_agent::Config {
            listen: self.agent.listen,
            static_pod_dir: Some(self.agent.static_pods.clone()),
            cluster_dns: self.agent.cluster_dns.clone(),
            cluster_domain: self.agent.cluster_domain.clone(),
            max_pods: self.node.max_pods,
            node_ip: self.node.ip,
            labels: self.node.labels.clone(),
            cgroup_root: self.node.cgroup_root.clone(),
            pod_logs_dir: self.node.log_dir.clone(),
            ..orlop_agent::Config::new(self.node_name()?, self.state.join("agent"), self.cri_socket())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read() {
        let printed = toml::to_string(&Config::default()).unwrap();
        let read: Config = toml::from_str(&printed).unwrap();
        assert_eq!(toml::to_string(&read).unwrap(), printed);
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_it() {
        let error = toml::from_str::<Config>("[network]\nbrigde = \"x\"\n").unwrap_err();
        assert!(error.to_string().contains("brigde"), "{error}");
    }

    #[test]
    fn a_relative_state_folder_is_refused() {
        let config = Config { state: "orlop".into(), ..Config::default() };
        assert!(config.check().unwrap_err().to_string().contains("absolute"));
    }
}
