//! What the runtime says about one pod.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use orlop_proto::v1;

use crate::container::config::message_file;
use crate::container::keys;
use crate::cri::{Cri, CriError};

/// The most of a termination message that is kept, bytes: its end.
const MAX_MESSAGE: u64 = 4096;
/// The most of a log that stands in for one.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    pub(crate) ips: Vec<String>,
    pub(crate) host_network: bool,
}

/// A container and all that its status says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) sandbox_id: String,
    pub(crate) status: v1::ContainerStatus,
    /// The termination message, for one that ended.
    pub(crate) message: Option<String>,
}

impl Record {
    pub(crate) fn id(&self) -> &str {
        &self.status.id
    }

    pub(crate) fn name(&self) -> &str {
        let label = self.status.labels.get(keys::CONTAINER_NAME).map(String::as_str);
        label.unwrap_or_else(|| self.status.metadata.as_ref().map_or("", |m| m.name.as_str()))
    }

    /// The restart count this container stands for.
    pub(crate) fn attempt(&self) -> u32 {
        let counted = self.annotation(keys::RESTART_COUNT).and_then(|c| c.parse().ok());
        counted.unwrap_or_else(|| self.status.metadata.as_ref().map_or(0, |m| m.attempt))
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.status.annotations.get(key).map(String::as_str)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.status.state() == v1::ContainerState::ContainerRunning
    }

    /// Made, and not started yet.
    pub(crate) fn is_created(&self) -> bool {
        self.status.state() == v1::ContainerState::ContainerCreated
    }

    /// Ended, or in a state from which it will not come back.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.state(), v1::ContainerState::ContainerExited | v1::ContainerState::ContainerUnknown)
    }
}

/// All of a pod's sandboxes and containers, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodRuntime {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Arc<Record>>,
}

impl PodRuntime {
    /// The newest container of a name.
    pub(crate) fn newest(&self, name: &str) -> Option<&Arc<Record>> {
        self.containers.iter().find(|c| c.name() == name)
    }

    /// The containers of a name, newest first.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Record>> {
        self.containers.iter().filter(move |c| c.name() == name)
    }

    pub(crate) fn any_running(&self) -> bool {
        self.containers.iter().any(|c| c.is_running())
    }

    /// The sandbox that counts.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// A time the runtime gave in nanoseconds; zero is "not yet".
pub(crate) fn timestamp(nanos: i64) -> Option<Timestamp> {
    if nanos <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanos)).ok()
}

/// Looks at one pod, remembering what cannot change any more.
#[derive(Debug)]
pub(crate) struct Observer {
    cri: Cri,
    uid: String,
    ended: HashMap<String, Arc<Record>>,
}

impl Observer {
    pub(crate) fn new(cri: Cri, uid: &str) -> Self {
        Self { cri, uid: uid.to_owned(), ended: HashMap::new() }
    }

    /// Asks the runtime for everything of this pod.
    pub(crate) async fn observe(&mut self, pod_dir: &Path, log_dir: &Path) -> Result<PodRuntime, CriError> {
        let by_uid = BTreeMap::from([(keys::POD_UID.to_owned(), self.uid.clone())]);
        let sandboxes = self.cri.list_pod_sandbox(v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter { label_selector: by_uid.clone(), ..v1::PodSandboxFilter::default() }),
        });
        let containers = self.cri.list_containers(v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter { label_selector: by_uid, ..v1::ContainerFilter::default() }),
        });
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let mut runtime = PodRuntime::default();
        for item in sandboxes.items {
            runtime.sandboxes.extend(self.sandbox(item).await?);
        }
        for item in containers.containers {
            runtime.containers.extend(self.container(item, pod_dir, log_dir).await?);
        }
        self.ended.retain(|id, _| runtime.containers.iter().any(|c| c.id() == id));
        runtime.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        runtime.containers.sort_by_key(|c| std::cmp::Reverse((c.status.created_at, c.attempt())));
        Ok(runtime)
    }

    async fn sandbox(&self, item: v1::PodSandbox) -> Result<Option<Sandbox>, CriError> {
        let ready = item.state() == v1::PodSandboxState::SandboxReady;
        let mut sandbox = Sandbox {
            attempt: item.metadata.as_ref().map_or(0, |m| m.attempt),
            ready,
            created_at: item.created_at,
            ips: Vec::new(),
            host_network: false,
            id: item.id,
        };
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
        let status = match self.cri.pod_sandbox_status(request).await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        sandbox.ready = status.state() == v1::PodSandboxState::SandboxReady;
        if let Some(network) = status.network {
            let first = Some(network.ip).filter(|ip| !ip.is_empty());
            let more = network.additional_ips.into_iter().map(|ip| ip.ip);
            sandbox.ips = first.into_iter().chain(more).collect();
        }
        let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options);
        sandbox.host_network = options.is_some_and(|o| o.network() == v1::NamespaceMode::Node);
        Ok(Some(sandbox))
    }

    async fn container(
        &mut self,
        item: v1::Container,
        pod_dir: &Path,
        log_dir: &Path,
    ) -> Result<Option<Arc<Record>>, CriError> {
        if let Some(record) = self.ended.get(&item.id) {
            return Ok(Some(Arc::clone(record)));
        }
        let request = v1::ContainerStatusRequest { container_id: item.id, verbose: false };
        let status = match self.cri.container_status(request).await {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut record = Record { sandbox_id: item.pod_sandbox_id, status, message: None };
        if !record.has_ended() {
            return Ok(Some(Arc::new(record)));
        }
        record.message = termination_message(&record, pod_dir, log_dir);
        let record = Arc::new(record);
        self.ended.insert(record.id().to_owned(), Arc::clone(&record));
        Ok(Some(record))
    }
}

/// The container's last words, or the end of its log where the policy says so.
fn termination_message(record: &Record, pod_dir: &Path, log_dir: &Path) -> Option<String> {
    let file = message_file(pod_dir, record.name(), record.attempt());
    let written = crate::logs::last_bytes(&file, MAX_MESSAGE).unwrap_or_default();
    if !written.is_empty() {
        return Some(String::from_utf8_lossy(&written).into_owned());
    }
    let falls_back = record.annotation(keys::MESSAGE_POLICY) == Some("FallbackToLogsOnError");
    if !falls_back || record.status.exit_code == 0 {
        return None;
    }
    let log = log_dir.join(record.name()).join(format!("{}.log", record.attempt()));
    let tail = crate::logs::tail(&log, MAX_LOG_LINES, MAX_LOG_BYTES).ok()?;
    Some(tail).filter(|t| !t.is_empty())
}
