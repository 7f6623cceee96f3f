//! Mirror pods: how the API shows a node's static pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use super::post::Target;
use super::{CONFIG_HASH, MIRROR, annotation, full_name};
use crate::context::Context;

/// What the API has of mirrors, by full name.
pub(super) struct Mirrors {
    ctx: Arc<Context>,
    known: HashMap<String, Pod>,
}

impl Mirrors {
    pub(super) fn new(ctx: Arc<Context>) -> Self {
        Self { ctx, known: HashMap::new() }
    }

    /// A new list is about to be told.
    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }

    pub(super) fn seen(&mut self, mirror: Pod) {
        self.known.insert(full_name(&mirror), mirror);
    }

    /// True if the uid was a mirror's.
    pub(super) fn removed(&mut self, uid: &str) -> bool {
        let before = self.known.len();
        self.known.retain(|_, mirror| mirror.metadata.uid.as_deref() != Some(uid));
        self.known.len() != before
    }

    /// Where a static pod's status is shown.
    pub(super) fn target(&self, pod: &Pod) -> Option<Target> {
        let mirror = self.known.get(&full_name(pod))?;
        is_mirror_of(mirror, pod).then(|| Target::of(mirror))
    }

    /// Makes missing mirrors and deletes wrong ones, behind the caller's back.
    pub(super) fn reconcile(&self, statics: &[Arc<Pod>]) {
        let Some(client) = self.ctx.api() else { return };
        let names: HashSet<String> = statics.iter().map(|p| full_name(p)).collect();
        for (name, mirror) in &self.known {
            let wrong = statics.iter().any(|p| full_name(p) == *name && !is_mirror_of(mirror, p));
            if wrong || !names.contains(name) {
                tokio::spawn(delete(client.clone(), mirror.clone()));
            }
        }
        let node = self.ctx.node.borrow().clone();
        for pod in statics.iter().filter(|p| !self.known.contains_key(&full_name(p))) {
            if let Some(mirror) = mirror_of(pod, node.as_ref()) {
                tokio::spawn(create(client.clone(), mirror));
            }
        }
    }
}

fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    let deleted = mirror.metadata.deletion_timestamp.is_some();
    !deleted && annotation(mirror, MIRROR) == annotation(pod, CONFIG_HASH)
}

fn mirror_of(pod: &Pod, node: Option<&Node>) -> Option<Pod> {
    let hash = annotation(pod, CONFIG_HASH)?.to_owned();
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    let meta = &node?.metadata;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: meta.name.clone()?,
        uid: meta.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    Some(mirror)
}

fn api_of(client: Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or("default"))
}

async fn create(client: Client, mirror: Pod) {
    let made = api_of(client, &mirror).create(&PostParams::default(), &mirror).await;
    match made {
        Ok(_) => {}
        // Another attempt was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::warn!(pod = full_name(&mirror), %error, "cannot make a mirror pod"),
    }
}

async fn delete(client: Client, mirror: Pod) {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let name = mirror.metadata.name.clone().unwrap_or_default();
    match api_of(client, &mirror).delete(&name, &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(pod = full_name(&mirror), %error, "cannot delete a mirror pod"),
        Ok(_) => {}
    }
}
