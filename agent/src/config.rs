//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;

use crate::node::info;

/// The configuration of one agent. [`Config::new`] gives the kubelet's defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name, a DNS subdomain.
    pub node_name: String,
    /// The agent's own folder (`STATE/agent`), laid out as the kubelet's root folder.
    pub state_dir: PathBuf,
    /// The CRI runtime's unix socket.
    pub cri_socket: PathBuf,
    /// How to reach the API server; without it the agent runs static pods only.
    pub kubeconfig: Option<PathBuf>,
    /// Where the HTTPS API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// PEM file with the authorities whose client certificates are believed.
    pub client_ca: Option<PathBuf>,
    /// PEM certificate chain of the HTTPS API; self-signed under `state_dir/pki` when absent.
    pub serving_cert: Option<PathBuf>,
    /// PEM private key of `serving_cert`.
    pub serving_key: Option<PathBuf>,
    /// Users who may do everything without a SubjectAccessReview (the API server's own identity).
    pub trusted_users: Vec<String>,
    /// Groups whose members may do everything without a SubjectAccessReview.
    pub trusted_groups: Vec<String>,
    /// The folder of static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The host's resolver configuration, which pods with `dnsPolicy: Default` get.
    pub resolv_conf: PathBuf,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// The node's address; found by the default route when absent.
    pub node_ip: Option<IpAddr>,
    /// Labels the node gets beside the ones every node has.
    pub labels: BTreeMap<String, String>,
    /// Taints the node is registered with.
    pub taints: Vec<Taint>,
    /// The cgroup below which `kubepods` is made: `/`, or e.g. `/private` for an instance of its own.
    pub cgroup_root: String,
    /// The root of the containers' log files.
    pub pod_logs_dir: PathBuf,
    /// When container logs are rotated.
    pub log_rotation: LogRotation,
}

/// Log rotation: a file above `max_size` is renamed and the runtime told to open a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    /// Bytes at which a file is rotated.
    pub max_size: u64,
    /// Files kept for a container, the one being written included.
    pub max_files: usize,
}

impl Config {
    /// The address that the node reports: the one given, or the one that the default route would use.
    pub fn node_address(&self) -> Option<IpAddr> {
        self.node_ip.or_else(info::default_address)
    }

    /// The kubelet's defaults for a node of this name.
    pub fn new(node_name: impl Into<String>, state_dir: impl Into<PathBuf>, cri_socket: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            state_dir: state_dir.into(),
            cri_socket: cri_socket.into(),
            kubeconfig: None,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10250)),
            client_ca: None,
            serving_cert: None,
            serving_key: None,
            trusted_users: vec!["kube-apiserver-kubelet-client".to_owned()],
            trusted_groups: vec!["system:masters".to_owned()],
            static_pod_dir: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max_pods: 110,
            node_ip: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cgroup_root: "/".to_owned(),
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            log_rotation: LogRotation { max_size: 10 << 20, max_files: 5 },
        }
    }
}
