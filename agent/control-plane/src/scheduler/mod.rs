//! The scheduler: gives each pod without a node the node that suits it best.
//!
//! It wakes on changes of pods and nodes, and by the clock only while the store refuses what it decides. All pods that wait are placed in one round against one
//! picture of the cluster, in which each placement counts at once; the bindings are then written together.

mod filter;
mod picture;
pub(crate) mod taints;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::registry::events::{Note, record};
use crate::registry::resource::{NODES, PODS};
use crate::registry::{Context, Part, Registry, is_deleting, name_of, namespace_of, set_condition, uid_of};
use picture::Picture;

const COMPONENT: &str = "default-scheduler";

/// When a binding could not be stored, the next round is so far off.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until told to stop.
pub(crate) async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let mut scheduler = Scheduler { ctx: Context::component("system:kube-scheduler"), registry, told: HashMap::new() };
    loop {
        let revision = scheduler.registry.store.revision();
        let mut pods = scheduler.registry.store.watch(PODS.storage, revision);
        let mut nodes = scheduler.registry.store.watch(NODES.storage, revision);
        let done = scheduler.round().await;
        // Whatever changed during the round is seen at once; an expired watch only means that much changed.
        tokio::select! {
            _ = pods.next() => {}
            _ = nodes.next() => {}
            () = tokio::time::sleep(RETRY), if !done => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Scheduler {
    registry: Arc<Registry>,
    ctx: Context,
    /// Why a pod could not be placed, as told last, by uid.
    told: HashMap<String, String>,
}

impl Scheduler {
    /// Places what waits; false if something is to be tried again although nothing changes.
    async fn round(&mut self) -> bool {
        let pods = self.registry.list(&PODS, None);
        let mut waiting: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_waiting(pod)).collect();
        self.told.retain(|uid, _| waiting.iter().any(|pod| uid_of(pod) == uid));
        if waiting.is_empty() {
            return true;
        }
        waiting.sort_by_key(|pod| {
            let priority = pod["spec"]["priority"].as_i64().unwrap_or(0);
            (-priority, pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned())
        });
        let mut picture = Picture::of(&self.registry.list(&NODES, None), &pods);
        let mut placed = Vec::new();
        let mut failed = Vec::new();
        for pod in waiting {
            match picture.place(pod) {
                Ok(node) => placed.push((Arc::clone(pod), node)),
                Err(message) => failed.push((Arc::clone(pod), message)),
            }
        }
        // Together, so that the store commits them together.
        let stored = futures::future::join_all(placed.iter().map(|(pod, node)| self.bind(pod, node))).await;
        for (pod, message) in failed {
            self.tell_unschedulable(&pod, message).await;
        }
        stored.into_iter().all(|stored| stored)
    }

    /// False if the store failed.
    async fn bind(&self, pod: &Value, node: &str) -> bool {
        match self.registry.bind(&self.ctx, namespace_of(pod), name_of(pod), node).await {
            Ok(()) => {
                let message = format!("Successfully assigned {}/{} to {node}", namespace_of(pod), name_of(pod));
                let note = Note { component: COMPONENT, kind: "Normal", reason: "Scheduled", message: &message };
                record(&self.registry, pod, note);
                true
            }
            // If not, deleted or bound by somebody else meanwhile, or changed, which wakes the next round.
            Err(error) => {
                tracing::debug!(%error, pod = name_of(pod), "binding");
                error.code < 500
            }
        }
    }

    async fn tell_unschedulable(&mut self, pod: &Value, message: String) {
        if self.told.get(uid_of(pod)) == Some(&message) {
            return;
        }
        let note = Note { component: COMPONENT, kind: "Warning", reason: "FailedScheduling", message: &message };
        record(&self.registry, pod, note);
        let (namespace, name) = (namespace_of(pod), name_of(pod));
        let told = self
            .registry
            .update(&self.ctx, &PODS, namespace, name, Part::Status, |old| {
                let mut pod = old.clone();
                set_condition(&mut pod, "PodScheduled", "False", "Unschedulable", &message);
                Ok(pod)
            })
            .await;
        if let Err(error) = told {
            tracing::debug!(%error, name, "telling that a pod is unschedulable");
        }
        self.told.insert(uid_of(pod).to_owned(), message);
    }
}

/// Whether this scheduler is to place the pod.
fn is_waiting(pod: &Value) -> bool {
    let spec = &pod["spec"];
    spec["nodeName"].as_str().unwrap_or_default().is_empty()
        && spec["schedulerName"] == COMPONENT
        && spec["schedulingGates"].as_array().is_none_or(Vec::is_empty)
        && !is_deleting(pod)
        && !["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default())
}
