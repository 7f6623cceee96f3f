//! Events: what users read under `kubectl describe`. Equal ones are counted, floods are held back.

mod correlate;

use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use correlate::{Correlator, Write};

/// Events waiting to be written; beyond it they are dropped, as an event is only ever advice.
const QUEUE: usize = 1000;

/// Normal or Warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
struct Happening {
    object: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Takes events from everywhere and never blocks.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Happening>,
}

/// The other end of a [`Recorder`]: writes to the API.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Receiver<Happening>,
    node_name: String,
}

/// A recorder and its writer for this node.
pub(crate) fn recorder(node_name: &str) -> (Recorder, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writer = Writer { queue: receiver, node_name: node_name.to_owned() };
    (Recorder { queue: sender }, writer)
}

/// A reference to a pod.
pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to a container of a pod.
pub(crate) fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref());
    let is_init = init.into_iter().flatten().any(|c| c.name == container);
    let list = if is_init { "initContainers" } else { "containers" };
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..pod_reference(pod) }
}

impl Recorder {
    /// Records a Normal event.
    pub(crate) fn normal(&self, object: ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.record(object, Severity::Normal, reason, message.into());
    }

    /// Records a Warning event.
    pub(crate) fn warning(&self, object: ObjectReference, reason: &'static str, message: impl Into<String>) {
        self.record(object, Severity::Warning, reason, message.into());
    }

    fn record(&self, object: ObjectReference, severity: Severity, reason: &'static str, message: String) {
        tracing::info!(
            namespace = object.namespace.as_deref().unwrap_or_default(),
            name = object.name.as_deref().unwrap_or_default(),
            field = object.field_path.as_deref().unwrap_or_default(),
            reason,
            "{message}"
        );
        let happening = Happening { object, severity, reason, message };
        if self.queue.try_send(happening).is_err() {
            tracing::debug!(reason, "event dropped: the queue is full or closed");
        }
    }
}

impl Writer {
    /// Writes events until told to stop; without an API they end in the log alone.
    pub(crate) async fn run(mut self, client: Option<Client>, stop: CancellationToken) {
        let mut correlator = Correlator::new(&self.node_name);
        loop {
            let happening = tokio::select! {
                () = stop.cancelled() => return,
                next = self.queue.recv() => match next {
                    Some(happening) => happening,
                    None => return,
                },
            };
            let Some(client) = &client else { continue };
            let now = jiff::Timestamp::now();
            let Some(write) = correlator.observe(&happening, now) else {
                continue;
            };
            if let Err(error) = send(client, write).await {
                tracing::debug!(%error, "cannot write an event");
            }
        }
    }
}

async fn send(client: &Client, write: Write) -> Result<(), kube::Error> {
    match write {
        Write::Create(event) => create(client, &event).await,
        Write::Count { event, patch } => {
            let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
            let name = event.metadata.name.as_deref().unwrap_or_default();
            let api: Api<Event> = Api::namespaced(client.clone(), namespace);
            let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
            match patched {
                // Events expire; a counted one may be gone.
                Err(kube::Error::Api(status)) if status.code == 404 => create(client, &event).await,
                other => other.map(|_| ()),
            }
        }
    }
}

async fn create(client: &Client, event: &Event) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), event).await.map(|_| ())
}
