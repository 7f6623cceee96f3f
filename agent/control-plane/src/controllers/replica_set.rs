//! The ReplicaSet controller: as many pods of a template as wanted.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::owners::{claim, controller_reference};
use super::runner::{Change, Reconciler, key_of};
use crate::registry::events::{Note, record};
use crate::registry::resource::{PODS, REPLICA_SETS, Resource};
use crate::registry::{
    Context, DeleteOptions, Part, Registry, controller_of, is_deleting, name_of, namespace_of, set_condition, uid_of,
};
use crate::status::Status;
use crate::store::Key;
use crate::time;

const COMPONENT: &str = "replicaset-controller";
/// Pods made or removed in one go.
const BURST: usize = 500;

pub(super) struct ReplicaSets {
    registry: Arc<Registry>,
    ctx: Context,
}

impl ReplicaSets {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, ctx: Context::component("system:serviceaccount:kube-system:replicaset-controller") }
    }
}

impl Reconciler for ReplicaSets {
    const NAME: &'static str = COMPONENT;

    fn sources(&self) -> Vec<&'static Resource> {
        vec![&REPLICA_SETS, &PODS]
    }

    fn keys(&self, change: Change<'_>) -> Vec<Key> {
        if *change.resource == REPLICA_SETS {
            return vec![key_of(&REPLICA_SETS, change.object)];
        }
        let mut keys = Vec::new();
        for object in std::iter::once(change.object).chain(change.previous) {
            match controller_of(object) {
                Some(owner) if owner["kind"] == "ReplicaSet" => {
                    let name = owner["name"].as_str().unwrap_or_default().to_owned();
                    let namespace = namespace_of(object).to_owned();
                    keys.push(Key { resource: REPLICA_SETS.storage, namespace, name });
                }
                // An orphan may be anybody's.
                None if !change.deleted => {
                    let sets = self.registry.list(&REPLICA_SETS, Some(namespace_of(object)));
                    keys.extend(sets.iter().map(|set| key_of(&REPLICA_SETS, set)));
                }
                Some(_) | None => {}
            }
        }
        keys.dedup();
        keys
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Ok(set) = self.registry.get(&REPLICA_SETS, &key.namespace, &key.name) else { return Ok(None) };
        let pods = claim(&self.registry, &self.ctx, &set, &PODS).await?;
        let mut active: Vec<Arc<Value>> = pods.into_iter().filter(|pod| is_active(pod)).collect();
        let mut outcome = Ok(());
        if !is_deleting(&set) {
            outcome = self.manage(&set, &active).await;
            // What was made or removed counts in the status at once.
            active = claim(&self.registry, &self.ctx, &set, &PODS).await?;
            active.retain(|pod| is_active(pod));
        }
        let again = self.tell_status(&set, &active, outcome.as_ref().err()).await?;
        outcome.map(|()| again)
    }
}

fn is_active(pod: &Value) -> bool {
    !is_deleting(pod) && !["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default())
}

fn is_ready(pod: &Value) -> Option<&Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Seconds until a ready pod is available; none when it is not ready.
fn until_available(pod: &Value, min_ready: i64) -> Option<i64> {
    let since = time::parse(&is_ready(pod)?["lastTransitionTime"]);
    let ready_for = since.map_or(0, |since| Timestamp::now().duration_since(since).as_secs());
    Some((min_ready - ready_for).max(0))
}

impl ReplicaSets {
    async fn manage(&self, set: &Value, active: &[Arc<Value>]) -> Result<(), Status> {
        let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
        match active.len().cmp(&wanted) {
            Ordering::Less => self.create((wanted - active.len()).min(BURST), set).await,
            Ordering::Greater => self.remove((active.len() - wanted).min(BURST), set, active).await,
            Ordering::Equal => Ok(()),
        }
    }

    /// Makes pods in batches that double, so that a template that is refused is refused once, not five hundred times.
    async fn create(&self, mut missing: usize, set: &Value) -> Result<(), Status> {
        let mut batch = 1;
        while missing > 0 {
            let size = batch.min(missing);
            let results = join_all((0..size).map(|_| self.create_one(set))).await;
            results.into_iter().collect::<Result<Vec<()>, Status>>()?;
            missing -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, set: &Value) -> Result<(), Status> {
        let template = &set["spec"]["template"];
        let mut metadata = json!({
            "generateName": format!("{}-", name_of(set)), "ownerReferences": [controller_reference(set)],
        });
        for field in ["labels", "annotations", "finalizers"] {
            if !template["metadata"][field].is_null() {
                metadata[field] = template["metadata"][field].clone();
            }
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        match self.registry.create(&self.ctx, &PODS, namespace_of(set), pod).await {
            Ok(written) => {
                let message = format!("Created pod: {}", name_of(&written.object));
                self.note(set, "Normal", "SuccessfulCreate", &message);
                Ok(())
            }
            Err(status) => {
                self.note(set, "Warning", "FailedCreate", &format!("Error creating: {status}"));
                Err(status)
            }
        }
    }

    async fn remove(&self, surplus: usize, set: &Value, active: &[Arc<Value>]) -> Result<(), Status> {
        let mut ranked: Vec<&Arc<Value>> = active.iter().collect();
        ranked.sort_by_key(|pod| removal_rank(pod, active));
        let results = join_all(ranked.into_iter().take(surplus).map(|pod| async move {
            let options = DeleteOptions::of(uid_of(pod));
            match self.registry.delete(&self.ctx, &PODS, namespace_of(pod), name_of(pod), &options).await {
                Ok(_) => {
                    self.note(set, "Normal", "SuccessfulDelete", &format!("Deleted pod: {}", name_of(pod)));
                    Ok(())
                }
                Err(status) if status.is_not_found() => Ok(()),
                Err(status) => Err(status),
            }
        }))
        .await;
        results.into_iter().collect::<Result<Vec<()>, Status>>().map(drop)
    }

    fn note(&self, set: &Value, kind: &str, reason: &str, message: &str) {
        record(&self.registry, set, Note { component: COMPONENT, kind, reason, message });
    }

    async fn tell_status(
        &self,
        set: &Value,
        active: &[Arc<Value>],
        failure: Option<&Status>,
    ) -> Result<Option<Duration>, Status> {
        let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
        let waits: Vec<i64> = active.iter().filter_map(|pod| until_available(pod, min_ready)).collect();
        let available = waits.iter().filter(|wait| **wait == 0).count();
        let labels = set["spec"]["template"]["metadata"]["labels"].as_object();
        let labelled = |pod: &&Arc<Value>| {
            labels.is_none_or(|all| all.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value))
        };
        let mut status = json!({"replicas": active.len(), "observedGeneration": set["metadata"]["generation"]});
        for (field, count) in [
            ("fullyLabeledReplicas", active.iter().filter(labelled).count()),
            ("readyReplicas", waits.len()),
            ("availableReplicas", available),
        ] {
            if count > 0 {
                status[field] = json!(count);
            }
        }
        let written = self
            .registry
            .update(&self.ctx, &REPLICA_SETS, namespace_of(set), name_of(set), Part::Status, |old| {
                let mut new = old.clone();
                let conditions = old["status"]["conditions"].clone();
                new["status"] = status.clone();
                if conditions.is_array() {
                    new["status"]["conditions"] = conditions;
                }
                match failure {
                    Some(failure) => {
                        set_condition(&mut new, "ReplicaFailure", "True", "FailedCreate", &failure.message);
                    }
                    None => clear_failure(&mut new),
                }
                Ok(new)
            })
            .await;
        match written {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
        let next = waits.into_iter().filter(|wait| *wait > 0).min();
        Ok(next.map(|seconds| Duration::from_secs(seconds.unsigned_abs())))
    }
}

fn clear_failure(object: &mut Value) {
    if let Some(list) = object["status"].get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| condition["type"] != "ReplicaFailure");
        if list.is_empty() {
            object["status"].as_object_mut().map(|map| map.remove("conditions"));
        }
    }
}

/// Which pods go first: unassigned, then pending, then not ready, then cheap ones, then on nodes with several of
/// them, then the latest ready, most restarted, newest.
fn removal_rank(pod: &Value, all: &[Arc<Value>]) -> (bool, u8, bool, i64, i64, i64, i64, i64) {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let phase = match pod["status"]["phase"].as_str() {
        Some("Pending") => 0,
        Some("Running") => 2,
        _ => 1,
    };
    let cost = pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"].as_str();
    let cost = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let together = all.iter().filter(|other| other["spec"]["nodeName"] == *node).count();
    // Times count by the order of magnitude of how long ago they are: near ones are as good as the same.
    let ago = |value: &Value| {
        let seconds = time::parse(value).map_or(0, |at| Timestamp::now().duration_since(at).as_secs());
        i64::from(seconds.max(1).ilog2())
    };
    let ready_since = is_ready(pod).map_or(0, |c| ago(&c["lastTransitionTime"]));
    let restarts: i64 = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| c["restartCount"].as_i64().unwrap_or(0))
        .sum();
    let age = ago(&pod["metadata"]["creationTimestamp"]);
    (
        !node.is_empty(),
        phase,
        is_ready(pod).is_some(),
        cost,
        -(together.cast_signed() as i64),
        ready_since,
        -restarts,
        age,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_do_least_are_removed_first() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let pods: Vec<Arc<Value>> = [
            json!({"metadata": {"name": "ready"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running", "conditions": ready}}),
            json!({"metadata": {"name": "unready"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}}),
            json!({"metadata": {"name": "pending"}, "spec": {"nodeName": "a"}, "status": {"phase": "Pending"}}),
            json!({"metadata": {"name": "unassigned"}, "spec": {}, "status": {"phase": "Pending"}}),
        ]
        .into_iter()
        .map(Arc::new)
        .collect();
        let mut ranked = pods.clone();
        ranked.sort_by_key(|pod| removal_rank(pod, &pods));
        let names: Vec<&str> = ranked.iter().map(|pod| name_of(pod)).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "ready"]);
    }
}
