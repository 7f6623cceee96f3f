//! The node lifecycle controller: tells from heartbeats whether a node lives, taints those that are not ready, moves
//! pods off, and removes the pods of nodes that are gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::runner::{Change, Reconciler, key_of};
use crate::registry::events::{Note, record};
use crate::registry::resource::{LEASES, NODES, PODS, Resource};
use crate::registry::{
    Context, DeleteOptions, Part, Registry, is_deleting, name_of, namespace_of, set_condition, uid_of,
};
use crate::scheduler::taints::tolerates;
use crate::status::Status;
use crate::store::Key;
use crate::time;

const NODE_LEASES: &str = "kube-node-lease";
/// A node that has not been heard of for so long is lost.
const GRACE: Duration = Duration::from_secs(50);
/// Pods of a node that vanished wait so long for it to come back.
const QUARANTINE: Duration = Duration::from_secs(40);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub(super) struct Nodes {
    registry: Arc<Registry>,
    ctx: Context,
    /// By node: the last heartbeat, and when this process saw it; for a missing node, when that was noticed. Times of
    /// other machines' clocks are only compared with themselves.
    seen: Mutex<HashMap<String, (String, Instant)>>,
}

impl Nodes {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let ctx = Context::component("system:serviceaccount:kube-system:node-controller");
        Self { registry, ctx, seen: Mutex::default() }
    }

    /// How long ago the heartbeat of `node` changed to what it is.
    fn since(&self, node: &str, heartbeat: String) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = seen.entry(node.to_owned()).or_insert_with(|| (heartbeat.clone(), Instant::now()));
        if entry.0 != heartbeat {
            *entry = (heartbeat, Instant::now());
        }
        entry.1.elapsed()
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Value>> {
        let mut pods = self.registry.list(&PODS, None);
        pods.retain(|pod| pod["spec"]["nodeName"] == *node);
        pods
    }
}

impl Reconciler for Nodes {
    const NAME: &'static str = "node-lifecycle-controller";

    fn sources(&self) -> Vec<&'static Resource> {
        vec![&NODES, &LEASES, &PODS]
    }

    fn keys(&self, change: Change<'_>) -> Vec<Key> {
        let node = |name: &str| Key { resource: NODES.storage, namespace: String::new(), name: name.to_owned() };
        match change.resource.kind {
            "Node" => vec![key_of(&NODES, change.object)],
            "Lease" if namespace_of(change.object) == NODE_LEASES => vec![node(name_of(change.object))],
            "Pod" if !change.deleted => {
                let assigned = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
                let name = assigned(change.object);
                let new = change.previous.is_none_or(|old| assigned(old) != name);
                if new && !name.is_empty() { vec![node(&name)] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        match self.registry.get(&NODES, "", &key.name) {
            Ok(node) => self.watch_over(&node).await,
            Err(_) => self.clear(&key.name).await,
        }
    }
}

impl Nodes {
    /// Removes the pods of a node that is no more.
    async fn clear(&self, node: &str) -> Result<Option<Duration>, Status> {
        let pods = self.pods_on(node);
        if pods.is_empty() {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
            return Ok(None);
        }
        let missing_for = self.since(node, "missing".to_owned());
        if missing_for < QUARANTINE {
            return Ok(Some(QUARANTINE.saturating_sub(missing_for)));
        }
        for pod in pods {
            self.delete(&pod, &DeleteOptions::now(uid_of(&pod))).await?;
        }
        Ok(None)
    }

    async fn delete(&self, pod: &Value, options: &DeleteOptions) -> Result<(), Status> {
        match self.registry.delete(&self.ctx, &PODS, namespace_of(pod), name_of(pod), options).await {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(()),
        }
    }

    async fn watch_over(&self, node: &Value) -> Result<Option<Duration>, Status> {
        let name = name_of(node);
        let silent_for = self.since(name, self.heartbeat(node));
        let lost = silent_for >= GRACE;
        let ready = if lost { "Unknown" } else { ready_status(node).unwrap_or("False") };
        if lost && ready_status(node) != Some("Unknown") {
            self.tell_lost(node).await?;
        }
        self.taint(node, ready).await?;
        let evict_in = match self.registry.get(&NODES, "", name) {
            Ok(node) => self.evict(&node).await?,
            Err(_) => None,
        };
        let silent_in = (!lost).then(|| GRACE.saturating_sub(silent_for));
        Ok([silent_in, evict_in].into_iter().flatten().min())
    }

    /// What changes whenever the node is heard of.
    fn heartbeat(&self, node: &Value) -> String {
        let lease = self.registry.get(&LEASES, NODE_LEASES, name_of(node)).ok();
        let renewed = lease.map(|lease| lease["spec"]["renewTime"].to_string()).unwrap_or_default();
        let beats = node["status"]["conditions"].as_array().into_iter().flatten();
        let status = beats.map(|c| c["lastHeartbeatTime"].as_str().unwrap_or_default()).max().unwrap_or_default();
        format!("{renewed} {status}")
    }

    async fn tell_lost(&self, node: &Value) -> Result<(), Status> {
        let never = node["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
        let (reason, message) = if never {
            ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        } else {
            ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        };
        let change = |old: &Value| {
            let mut new = old.clone();
            for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
                set_condition(&mut new, kind, "Unknown", reason, message);
            }
            Ok(new)
        };
        self.registry.update(&self.ctx, &NODES, "", name_of(node), Part::Status, change).await?;
        let text = format!("Node {} status is now: NodeNotReady", name_of(node));
        let note = Note { component: "node-controller", kind: "Normal", reason: "NodeNotReady", message: &text };
        record(&self.registry, node, note);
        for pod in self.pods_on(name_of(node)) {
            let unready = |old: &Value| {
                let mut new = old.clone();
                let ready = old["status"]["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True");
                if ready {
                    set_condition(&mut new, "Ready", "False", "NodeNotReady", "Node is not ready");
                }
                Ok(new)
            };
            let (namespace, pod_name) = (namespace_of(&pod), name_of(&pod));
            match self.registry.update(&self.ctx, &PODS, namespace, pod_name, Part::Status, unready).await {
                Err(status) if !status.is_not_found() => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts on the taints that follow from the Ready condition, and takes off those that no longer do.
    async fn taint(&self, node: &Value, ready: &str) -> Result<(), Status> {
        let wanted: &[(&str, &str)] = match ready {
            "True" => &[],
            "Unknown" => &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
            _ => &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        };
        let change = |old: &Value| {
            let mut new = old.clone();
            let before = old["spec"]["taints"].as_array().cloned().unwrap_or_default();
            let is_ours = |taint: &Value| taint["key"] == NOT_READY || taint["key"] == UNREACHABLE;
            let is_wanted = |t: &Value| wanted.iter().any(|(key, effect)| t["key"] == **key && t["effect"] == **effect);
            let mut taints: Vec<Value> = before.into_iter().filter(|t| !is_ours(t) || is_wanted(t)).collect();
            for (key, effect) in wanted {
                if !taints.iter().any(|t| t["key"] == **key && t["effect"] == **effect) {
                    let mut taint = json!({"key": key, "effect": effect});
                    if *effect == "NoExecute" {
                        taint["timeAdded"] = json!(time::now());
                    }
                    taints.push(taint);
                }
            }
            if taints.is_empty() {
                new["spec"].as_object_mut().map(|spec| spec.remove("taints"));
            } else {
                new["spec"]["taints"] = Value::Array(taints);
            }
            Ok(new)
        };
        match self.registry.update(&self.ctx, &NODES, "", name_of(node), Part::Main, change).await {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(()),
        }
    }

    /// Deletes the pods that do not tolerate, or no longer, what the node is tainted with; returns when to look again.
    async fn evict(&self, node: &Value) -> Result<Option<Duration>, Status> {
        let taints: Vec<&Value> =
            node["spec"]["taints"].as_array().into_iter().flatten().filter(|t| t["effect"] == "NoExecute").collect();
        if taints.is_empty() {
            return Ok(None);
        }
        let mut next: Option<i64> = None;
        for pod in self.pods_on(name_of(node)).into_iter().filter(|pod| !is_deleting(pod)) {
            let left = taints.iter().filter_map(|taint| seconds_left(&pod, taint)).min();
            match left {
                None => {}
                Some(left) if left > 0 => next = Some(next.map_or(left, |next| next.min(left))),
                Some(_) => self.evict_one(&pod).await?,
            }
        }
        Ok(next.map(|seconds| Duration::from_secs(seconds.unsigned_abs())))
    }

    async fn evict_one(&self, pod: &Value) -> Result<(), Status> {
        let (namespace, name) = (namespace_of(pod), name_of(pod));
        let message = format!("Marking for deletion Pod {namespace}/{name}");
        let note = Note {
            component: "taint-eviction-controller",
            kind: "Normal",
            reason: "TaintManagerEviction",
            message: &message,
        };
        record(&self.registry, pod, note);
        let change = |old: &Value| {
            let mut new = old.clone();
            let why = "Taint manager: deleting due to NoExecute taint";
            set_condition(&mut new, "DisruptionTarget", "True", "DeletionByTaintManager", why);
            Ok(new)
        };
        match self.registry.update(&self.ctx, &PODS, namespace, name, Part::Status, change).await {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
        self.delete(pod, &DeleteOptions::of(uid_of(pod))).await
    }
}

fn ready_status(node: &Value) -> Option<&str> {
    node["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?["status"].as_str()
}

/// Seconds that the pod may stay despite the taint; none for ever.
fn seconds_left(pod: &Value, taint: &Value) -> Option<i64> {
    let tolerations = pod["spec"]["tolerations"].as_array().map_or(&[][..], Vec::as_slice);
    let matching: Vec<&Value> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if matching.is_empty() {
        return Some(0);
    }
    let seconds = matching.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64()).min()?;
    let since = time::parse(&taint["timeAdded"]).map_or(0, |at| Timestamp::now().duration_since(at).as_secs());
    Some(seconds.saturating_sub(since).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_the_taint() {
        let taint = json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": time::now()});
        let pod = |tolerations: Value| json!({"spec": {"tolerations": tolerations}});
        assert_eq!(seconds_left(&pod(json!([])), &taint), Some(0));
        assert_eq!(seconds_left(&pod(json!([{"operator": "Exists"}])), &taint), None);
        let some = json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        assert!((290..=300).contains(&seconds_left(&pod(some), &taint).unwrap()));
    }
}
