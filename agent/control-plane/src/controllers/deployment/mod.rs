//! The Deployment controller: a replica set per template, and the way from one to the next.

mod rollout;
mod sets;
mod status;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::owners::claim;
use super::runner::{Change, Reconciler, key_of};
use crate::registry::events::{Note, record};
use crate::registry::resource::{DEPLOYMENTS, PODS, REPLICA_SETS, Resource};
use crate::registry::{Context, Part, Registry, controller_of, is_deleting, name_of, namespace_of, uid_of};
use crate::status::Status;
use crate::store::Key;

const COMPONENT: &str = "deployment-controller";

pub(super) struct Deployments {
    registry: Arc<Registry>,
    ctx: Context,
}

impl Deployments {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, ctx: Context::component("system:serviceaccount:kube-system:deployment-controller") }
    }

    fn note(&self, deployment: &Value, kind: &str, reason: &str, message: &str) {
        record(&self.registry, deployment, Note { component: COMPONENT, kind, reason, message });
    }

    /// Sets the size of a replica set and tells it.
    async fn scale(&self, deployment: &Value, set: &Value, replicas: i64) -> Result<(), Status> {
        let present = set["spec"]["replicas"].as_i64().unwrap_or(0);
        if present == replicas {
            return Ok(());
        }
        self.registry
            .update(&self.ctx, &REPLICA_SETS, namespace_of(set), name_of(set), Part::Main, |old| {
                let mut new = old.clone();
                new["spec"]["replicas"] = json!(replicas);
                rollout::annotate_size(&mut new, deployment);
                Ok(new)
            })
            .await?;
        let direction = if replicas > present { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {present} to {replicas}", name_of(set));
        self.note(deployment, "Normal", "ScalingReplicaSet", &message);
        Ok(())
    }
}

impl Reconciler for Deployments {
    const NAME: &'static str = COMPONENT;

    fn sources(&self) -> Vec<&'static Resource> {
        vec![&DEPLOYMENTS, &REPLICA_SETS, &PODS]
    }

    fn keys(&self, change: Change<'_>) -> Vec<Key> {
        let namespace = namespace_of(change.object);
        let deployment =
            |name: &str| Key { resource: DEPLOYMENTS.storage, namespace: namespace.to_owned(), name: name.to_owned() };
        let owner_of = |object: &Value, kind: &str| -> Option<String> {
            let owner = controller_of(object)?;
            (owner["kind"] == kind).then(|| owner["name"].as_str().unwrap_or_default().to_owned())
        };
        match change.resource.kind {
            "Deployment" => vec![key_of(&DEPLOYMENTS, change.object)],
            "ReplicaSet" => match owner_of(change.object, "Deployment") {
                Some(name) => vec![deployment(&name)],
                None if controller_of(change.object).is_none() && !change.deleted => {
                    let all = self.registry.list(&DEPLOYMENTS, Some(namespace));
                    all.iter().map(|d| key_of(&DEPLOYMENTS, d)).collect()
                }
                None => Vec::new(),
            },
            // A rollout of type Recreate waits for the last old pod to be gone.
            _ if change.deleted => {
                let set = owner_of(change.object, "ReplicaSet");
                let set = set.and_then(|name| self.registry.get(&REPLICA_SETS, namespace, &name).ok());
                set.and_then(|set| owner_of(&set, "Deployment")).map(|name| deployment(&name)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Ok(deployment) = self.registry.get(&DEPLOYMENTS, &key.namespace, &key.name) else { return Ok(None) };
        let owned = claim(&self.registry, &self.ctx, &deployment, &REPLICA_SETS).await?;
        if is_deleting(&deployment) {
            return Ok(None);
        }
        let paused = deployment["spec"]["paused"] == true;
        let sets = self.sets(&deployment, owned, !paused).await?;
        if paused {
            self.resize_paused(&deployment, &sets).await?;
        } else if deployment["spec"]["strategy"]["type"] == "Recreate" {
            self.recreate(&deployment, &sets).await?;
        } else {
            self.roll(&deployment, &sets).await?;
        }
        // Sizes have changed: tell what is, not what was.
        let owned = claim(&self.registry, &self.ctx, &deployment, &REPLICA_SETS).await?;
        let sets = sets::Sets::sort(&deployment, owned);
        let again = self.tell_status(&deployment, &sets, paused).await?;
        if !paused && status::is_complete(&deployment, &sets) {
            self.trim_history(&deployment, &sets).await?;
        }
        Ok(again)
    }
}

impl Deployments {
    /// Whether pods of older templates still exist.
    fn old_pods_exist(&self, deployment: &Value, sets: &sets::Sets) -> bool {
        let old: Vec<&str> = sets.old.iter().map(|set| uid_of(set)).collect();
        self.registry.list(&PODS, Some(namespace_of(deployment))).iter().any(|pod| {
            let over = ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default());
            !over && controller_of(pod).is_some_and(|o| old.contains(&o["uid"].as_str().unwrap_or_default()))
        })
    }
}
