//! What a deployment tells about itself: counts and conditions.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Deployments;
use super::rollout::{available, bounds, replicas};
use super::sets::Sets;
use crate::registry::resource::DEPLOYMENTS;
use crate::registry::{Part, name_of, namespace_of, set_condition};
use crate::status::Status;
use crate::time;

fn count(sets: &Sets, field: &str) -> i64 {
    sets.all().map(|set| set["status"][field].as_i64().unwrap_or(0)).sum()
}

fn updated(sets: &Sets) -> i64 {
    sets.new.as_ref().map_or(0, |set| set["status"]["replicas"].as_i64().unwrap_or(0))
}

/// Whether all pods are of the present template and available, and no other is left.
pub(super) fn is_complete(deployment: &Value, sets: &Sets) -> bool {
    let wanted = replicas(deployment);
    updated(sets) == wanted && count(sets, "replicas") == wanted && count(sets, "availableReplicas") == wanted
}

impl Deployments {
    /// Writes the status; returns when the progress deadline would pass.
    pub(super) async fn tell_status(
        &self,
        deployment: &Value,
        sets: &Sets,
        paused: bool,
    ) -> Result<Option<Duration>, Status> {
        let (namespace, name) = (namespace_of(deployment), name_of(deployment));
        let mut next = None;
        let written = self
            .registry
            .update(&self.ctx, &DEPLOYMENTS, namespace, name, Part::Status, |old| {
                let mut new = old.clone();
                counts(&mut new, deployment, sets);
                availability(&mut new, deployment, sets);
                next = progress(&mut new, old, deployment, sets, paused);
                Ok(new)
            })
            .await;
        match written {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(next),
        }
    }
}

fn counts(object: &mut Value, deployment: &Value, sets: &Sets) {
    let total = count(sets, "replicas");
    let working = count(sets, "availableReplicas");
    let mut status = json!({"observedGeneration": deployment["metadata"]["generation"]});
    for (field, value) in [
        ("replicas", total),
        ("updatedReplicas", updated(sets)),
        ("readyReplicas", count(sets, "readyReplicas")),
        ("availableReplicas", working),
        ("unavailableReplicas", (total.max(replicas(deployment)) - working).max(0)),
    ] {
        if value > 0 {
            status[field] = json!(value);
        }
    }
    for field in ["conditions", "collisionCount"] {
        if !object["status"][field].is_null() {
            status[field] = object["status"][field].clone();
        }
    }
    object["status"] = status;
}

fn availability(object: &mut Value, deployment: &Value, sets: &Sets) {
    let (_, unavailable) = bounds(deployment);
    let working: i64 = sets.all().map(|set| available(set)).sum();
    if working >= replicas(deployment) - unavailable {
        let message = "Deployment has minimum availability.";
        stamp(object, "Available", "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        stamp(object, "Available", "False", "MinimumReplicasUnavailable", message);
    }
}

/// Sets the Progressing condition; returns the time left before the deadline.
fn progress(object: &mut Value, old: &Value, deployment: &Value, sets: &Sets, paused: bool) -> Option<Duration> {
    let present = old["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Progressing");
    let reason = present.and_then(|c| c["reason"].as_str()).unwrap_or_default().to_owned();
    if paused {
        stamp(object, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
        return None;
    }
    let set_name = sets.new.as_ref().map(|set| name_of(set).to_owned()).unwrap_or_default();
    if is_complete(deployment, sets) {
        let message = format!("ReplicaSet {set_name:?} has successfully progressed.");
        stamp(object, "Progressing", "True", "NewReplicaSetAvailable", &message);
        return None;
    }
    let was = |field: &str| old["status"][field].as_i64().unwrap_or(0);
    let is = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let old_left = |get: &dyn Fn(&str) -> i64| get("replicas") - get("updatedReplicas");
    let moved = is("updatedReplicas") > was("updatedReplicas")
        || is("readyReplicas") > was("readyReplicas")
        || is("availableReplicas") > was("availableReplicas")
        || old_left(&is) < old_left(&was);
    let begun = old["status"]["observedGeneration"] != deployment["metadata"]["generation"];
    // A finished rollout that loses a pod is not a new one: its deadline does not start again.
    let finished_before = reason == "NewReplicaSetAvailable" && !begun;
    if reason.is_empty() || reason == "DeploymentPaused" {
        let message = format!("Created new replica set {set_name:?}");
        stamp(object, "Progressing", "True", "NewReplicaSetCreated", &message);
    } else if (moved || begun) && !finished_before {
        let message = format!("ReplicaSet {set_name:?} is progressing.");
        touch(object, "Progressing");
        stamp(object, "Progressing", "True", "ReplicaSetUpdated", &message);
    }
    if finished_before || reason == "ProgressDeadlineExceeded" && !moved && !begun {
        return None;
    }
    let limit = deployment["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(600);
    let condition = object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Progressing")?;
    let since = time::parse(&condition["lastUpdateTime"])?;
    let left = limit - Timestamp::now().duration_since(since).as_secs();
    if left > 0 {
        return Some(Duration::from_secs(left.unsigned_abs()));
    }
    let message = format!("ReplicaSet {set_name:?} has timed out progressing.");
    stamp(object, "Progressing", "False", "ProgressDeadlineExceeded", &message);
    None
}

/// Sets a condition, with the time of its last change.
fn stamp(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let before = find(object, kind).cloned();
    set_condition(object, kind, status, reason, message);
    let same = before.is_some_and(|b| b["status"] == status && b["reason"] == reason && !b["lastUpdateTime"].is_null());
    if !same {
        touch(object, kind);
    }
}

fn find<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn touch(object: &mut Value, kind: &str) {
    let list = object["status"].get_mut("conditions").and_then(Value::as_array_mut);
    if let Some(condition) = list.into_iter().flatten().find(|c| c["type"] == kind) {
        condition["lastUpdateTime"] = json!(time::now());
    }
}
