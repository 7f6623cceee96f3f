//! A pod sandbox: its record, and the object in memory.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orlop_proto::v1;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::table::Identified;
use crate::shim::ShimClient;
use crate::stats::Rate;

/// Where a sandbox is in its life.
///
/// ```text
/// Creating ──> Ready ──> NotReady ──> (removed)
///     └──────────────────────^  undone, or its shim is gone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SandboxState {
    /// RunPodSandbox has not answered; invisible to clients, undone after a crash.
    Creating,
    /// Namespaces and network are up.
    Ready,
    /// Stopped, or lost with its shim.
    NotReady,
}

/// What is on disk of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    #[serde(with = "super::message")]
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) runtime_handler: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    pub(crate) state: SandboxState,
    /// The pod's addresses, the primary one first.
    pub(crate) addresses: Vec<String>,
    /// The cgroup above those of the containers.
    pub(crate) cgroup: PathBuf,
    /// The daemon made `cgroup` and removes it.
    pub(crate) own_cgroup: bool,
    /// CNI ADD was begun: DEL is due.
    pub(crate) network: bool,
}

/// A sandbox in memory.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) runtime_handler: String,
    pub(crate) created_at: i64,
    pub(crate) cgroup: PathBuf,
    pub(crate) own_cgroup: bool,
    /// Shared by the operations on its containers; exclusive for stopping and removing the sandbox.
    pub(crate) operation: tokio::sync::RwLock<()>,
    /// The last reading of its CPU time.
    pub(crate) cpu: Rate,
    /// Held while the record is written or removed; whether it has been removed.
    saving: Mutex<bool>,
    live: Mutex<Live>,
}

#[derive(Debug)]
struct Live {
    state: SandboxState,
    addresses: Vec<String>,
    network: bool,
    shim: Option<ShimClient>,
    /// Ends the task that hears the shim.
    watch: CancellationToken,
}

impl Sandbox {
    /// The object of a record, without a shim.
    pub(crate) fn new(record: SandboxRecord) -> Sandbox {
        Sandbox {
            id: record.id,
            config: record.config,
            runtime_handler: record.runtime_handler,
            created_at: record.created_at,
            cgroup: record.cgroup,
            own_cgroup: record.own_cgroup,
            operation: tokio::sync::RwLock::new(()),
            cpu: Rate::default(),
            saving: Mutex::new(false),
            live: Mutex::new(Live {
                state: record.state,
                addresses: record.addresses,
                network: record.network,
                shim: None,
                watch: CancellationToken::new(),
            }),
        }
    }

    /// Two writers of one record would race for the name of its temporary file, and one that comes late would bring
    /// a removed record back: true when it has been removed.
    pub(super) fn saving(&self) -> MutexGuard<'_, bool> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written to disk.
    pub(crate) fn record(&self) -> SandboxRecord {
        let live = self.live();
        SandboxRecord {
            id: self.id.clone(),
            config: self.config.clone(),
            runtime_handler: self.runtime_handler.clone(),
            created_at: self.created_at,
            state: live.state,
            addresses: live.addresses.clone(),
            cgroup: self.cgroup.clone(),
            own_cgroup: self.own_cgroup,
            network: live.network,
        }
    }

    pub(crate) fn state(&self) -> SandboxState {
        self.live().state
    }

    pub(crate) fn set_state(&self, state: SandboxState) {
        self.live().state = state;
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.live().addresses.clone()
    }

    /// CNI ADD was begun and DEL has not succeeded yet.
    pub(crate) fn has_network(&self) -> bool {
        self.live().network
    }

    /// Notes that CNI ADD is about to run.
    pub(crate) fn network_begins(&self) {
        self.live().network = true;
    }

    /// Notes the result of CNI ADD.
    pub(crate) fn network_is_up(&self, addresses: Vec<String>) {
        self.live().addresses = addresses;
    }

    /// Notes that CNI DEL succeeded.
    pub(crate) fn network_is_gone(&self) {
        self.live().network = false;
    }

    /// The connection to the sandbox's shim, unless it is gone.
    pub(crate) fn shim(&self) -> Option<ShimClient> {
        self.live().shim.clone()
    }

    pub(crate) fn set_shim(&self, shim: Option<ShimClient>) {
        self.live().shim = shim;
    }

    /// Ends whoever hears the shim now; the token that ends the next one.
    pub(crate) fn next_watch(&self) -> CancellationToken {
        let mut live = self.live();
        live.watch.cancel();
        live.watch = CancellationToken::new();
        live.watch.clone()
    }

    /// The namespaces asked for; the protocol's defaults (all of the pod) when the request says nothing.
    pub(crate) fn namespace_options(&self) -> v1::NamespaceOption {
        self.security_context().and_then(|context| context.namespace_options.clone()).unwrap_or_default()
    }

    pub(crate) fn security_context(&self) -> Option<&v1::LinuxSandboxSecurityContext> {
        self.config.linux.as_ref()?.security_context.as_ref()
    }

    /// The pod uses the node's network.
    pub(crate) fn host_network(&self) -> bool {
        self.namespace_options().network() == v1::NamespaceMode::Node
    }

    /// The pod's hostname; the node's for a pod on the node's network.
    pub(crate) fn hostname(&self) -> String {
        if self.config.hostname.is_empty() {
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        } else {
            self.config.hostname.clone()
        }
    }

    pub(crate) fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }
}

impl Identified for Sandbox {
    fn id(&self) -> &str {
        &self.id
    }
}
