//! What every part of a running agent shares.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::Client;
use tokio::sync::watch;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::container::config::NodeFacts;
use crate::container::sandbox_log_dir;
use crate::cri::Cri;
use crate::downward::Surroundings;
use crate::events::Recorder;
use crate::objects::Objects;
use crate::services::Services;
use crate::volumes::pod_dir;

/// The shared parts.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) cri: Cri,
    pub(crate) client: Option<ClientHandle>,
    pub(crate) events: Recorder,
    pub(crate) objects: Objects,
    pub(crate) services: Services,
    pub(crate) cgroups: Cgroups,
    pub(crate) facts: NodeFacts,
    pub(crate) node_ips: Vec<String>,
    /// As in `containerd://<id>`.
    pub(crate) runtime_name: String,
    pub(crate) allocatable: BTreeMap<String, String>,
    /// The node as the API last told it.
    pub(crate) node: watch::Sender<Option<Node>>,
}

/// A client with a Debug of its own: the real one may hold credentials.
#[derive(Clone)]
pub(crate) struct ClientHandle(pub(crate) Client);

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Context {
    /// The API client, if there is an API.
    pub(crate) fn api(&self) -> Option<&Client> {
        self.client.as_ref().map(|c| &c.0)
    }

    /// The pod's folder.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        pod_dir(&self.config.state_dir, uid)
    }

    /// The pod's log folder.
    pub(crate) fn log_dir(&self, pod: &Pod) -> PathBuf {
        sandbox_log_dir(&self.config.pod_logs_dir, pod)
    }

    /// What the downward API says beside the pod.
    pub(crate) fn surroundings(&self, pod_ips: &[String]) -> Surroundings {
        Surroundings {
            host_ips: self.node_ips.clone(),
            pod_ips: pod_ips.to_vec(),
            allocatable: self.allocatable.clone(),
        }
    }

    /// The node, as events refer to it: by its name, as kubelets do.
    pub(crate) fn node_reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.config.node_name.clone()),
            uid: Some(self.config.node_name.clone()),
            ..ObjectReference::default()
        }
    }
}
