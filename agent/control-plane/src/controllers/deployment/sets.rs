//! The replica sets of a deployment: the one of its template, and the older ones.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Deployments;
use super::rollout::annotate_size;
use crate::controllers::owners::controller_reference;
use crate::registry::names::safe_encode;
use crate::registry::resource::{DEPLOYMENTS, REPLICA_SETS};
use crate::registry::{DeleteOptions, Part, controller_of, is_deleting, name_of, namespace_of, uid_of};
use crate::status::Status;

pub(super) const HASH: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Characters of a template's hash.
const HASH_LENGTH: usize = 10;
/// Names tried when hashes collide.
const COLLISIONS: i64 = 8;

#[derive(Debug, Default)]
pub(super) struct Sets {
    /// That of the present template.
    pub(super) new: Option<Arc<Value>>,
    /// The others, oldest first.
    pub(super) old: Vec<Arc<Value>>,
}

impl Sets {
    pub(super) fn sort(deployment: &Value, mut owned: Vec<Arc<Value>>) -> Self {
        owned.sort_by_key(|set| {
            let created = set["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
            (created, name_of(set).to_owned())
        });
        let template = without_hash(&deployment["spec"]["template"]);
        let place = owned.iter().position(|set| without_hash(&set["spec"]["template"]) == template);
        let new = place.map(|place| owned.remove(place));
        Self { new, old: owned }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.old.iter().chain(&self.new)
    }
}

pub(super) fn revision(object: &Value) -> i64 {
    object["metadata"]["annotations"][REVISION].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// A template as the deployment has it, to compare.
fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
    }
    template
}

impl Deployments {
    /// Finds the set of the present template, or makes it, and numbers it after all others.
    pub(super) async fn sets(&self, deployment: &Value, owned: Vec<Arc<Value>>, create: bool) -> Result<Sets, Status> {
        let mut sets = Sets::sort(deployment, owned);
        let newest_old = sets.old.iter().map(|set| revision(set)).max().unwrap_or(0);
        match &sets.new {
            Some(set) if revision(set) <= newest_old => {
                sets.new = Some(self.renumber(deployment, set, newest_old + 1).await?);
            }
            None if create => sets.new = Some(self.create_set(deployment, &sets, newest_old + 1).await?),
            _ => {}
        }
        if let Some(set) = &sets.new {
            self.adopt_revision(deployment, revision(set)).await?;
        }
        Ok(sets)
    }

    /// An older template is the present one again (a rollback).
    async fn renumber(&self, deployment: &Value, set: &Value, number: i64) -> Result<Arc<Value>, Status> {
        let written = self
            .registry
            .update(&self.ctx, &REPLICA_SETS, namespace_of(set), name_of(set), Part::Main, |old| {
                let mut new = old.clone();
                let was = revision(old);
                let past = old["metadata"]["annotations"][HISTORY].as_str().unwrap_or_default();
                if was > 0 {
                    let history = if past.is_empty() { was.to_string() } else { format!("{past},{was}") };
                    new["metadata"]["annotations"][HISTORY] = json!(history);
                }
                copy_annotations(deployment, &mut new);
                new["metadata"]["annotations"][REVISION] = json!(number.to_string());
                Ok(new)
            })
            .await?;
        Ok(written.object)
    }

    async fn create_set(&self, deployment: &Value, sets: &Sets, number: i64) -> Result<Arc<Value>, Status> {
        let collisions = deployment["status"]["collisionCount"].as_i64().unwrap_or(0);
        let template = &deployment["spec"]["template"];
        let size = self.size_of_new(deployment, sets);
        for collision in collisions..collisions + COLLISIONS {
            let mut hasher = DefaultHasher::new();
            (template.to_string(), collision).hash(&mut hasher);
            let hash = safe_encode(hasher.finish(), HASH_LENGTH);
            let set = new_set(deployment, &hash, size, number);
            match self.registry.create(&self.ctx, &REPLICA_SETS, namespace_of(deployment), set).await {
                Ok(written) => {
                    let message = format!("Scaled up replica set {} from 0 to {size}", name_of(&written.object));
                    if size > 0 {
                        self.note(deployment, "Normal", "ScalingReplicaSet", &message);
                    }
                    return Ok(written.object);
                }
                Err(status) if status.is_already_exists() => {
                    let name = format!("{}-{hash}", name_of(deployment));
                    let present = self.registry.get(&REPLICA_SETS, namespace_of(deployment), &name)?;
                    let ours = controller_of(&present).is_some_and(|o| o["uid"] == *uid_of(deployment));
                    if ours && !is_deleting(&present) {
                        return Ok(present);
                    }
                }
                Err(status) => {
                    let message = format!("Failed to create new replica set: {status}");
                    self.note(deployment, "Warning", "ReplicaSetCreateError", &message);
                    return Err(status);
                }
            }
        }
        Err(Status::internal("every name for the new replica set is taken"))
    }

    async fn adopt_revision(&self, deployment: &Value, number: i64) -> Result<(), Status> {
        if revision(deployment) == number {
            return Ok(());
        }
        let (namespace, name) = (namespace_of(deployment), name_of(deployment));
        self.registry
            .update(&self.ctx, &DEPLOYMENTS, namespace, name, Part::Main, |old| {
                let mut new = old.clone();
                new["metadata"]["annotations"][REVISION] = json!(number.to_string());
                Ok(new)
            })
            .await
            .map(drop)
    }

    /// Keeps as many old sets as the deployment wants, for rollbacks.
    pub(super) async fn trim_history(&self, deployment: &Value, sets: &Sets) -> Result<(), Status> {
        let limit = usize::try_from(deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(10);
        let is_empty = |set: &&Arc<Value>| {
            let zero = |value: &Value| value.as_i64().unwrap_or(0) == 0;
            zero(&set["spec"]["replicas"]) && zero(&set["status"]["replicas"]) && !is_deleting(set)
        };
        let mut empty: Vec<&Arc<Value>> = sets.old.iter().filter(is_empty).collect();
        empty.sort_by_key(|set| revision(set));
        let surplus = empty.len().saturating_sub(limit);
        for set in empty.into_iter().take(surplus) {
            let options = DeleteOptions::of(uid_of(set));
            match self.registry.delete(&self.ctx, &REPLICA_SETS, namespace_of(set), name_of(set), &options).await {
                Err(status) if !status.is_not_found() => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }
}

fn new_set(deployment: &Value, hash: &str, size: i64, number: i64) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name_of(deployment)), "labels": template["metadata"]["labels"],
            "ownerReferences": [controller_reference(deployment)], "annotations": {},
        },
        "spec": {"replicas": size, "selector": selector, "template": template},
    });
    if !deployment["spec"]["minReadySeconds"].is_null() {
        set["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"].clone();
    }
    copy_annotations(deployment, &mut set);
    set["metadata"]["annotations"][REVISION] = json!(number.to_string());
    annotate_size(&mut set, deployment);
    set
}

/// A set carries the deployment's annotations, so that a rollback can bring them back.
fn copy_annotations(deployment: &Value, set: &mut Value) {
    for (key, value) in deployment["metadata"]["annotations"].as_object().into_iter().flatten() {
        let own =
            key.starts_with("deployment.kubernetes.io/") || key == "kubectl.kubernetes.io/last-applied-configuration";
        if !own {
            set["metadata"]["annotations"][key] = value.clone();
        }
    }
}
