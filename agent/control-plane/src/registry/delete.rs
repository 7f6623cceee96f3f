//! Deleting objects: at once, gracefully, or when their finalizers are done.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::resource::Resource;
use super::{Context, Registry, is_deleting, key, name_of, revision_of, storage_failure};
use crate::status::Status;
use crate::store::{Durability, Expect, Write, WriteError};
use crate::time;

const ATTEMPTS: usize = 8;
/// The longest grace, 68 years: the time of the end is a date that can be written.
const LONGEST_GRACE: i64 = i32::MAX as i64;
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The client's wishes.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    /// None: as the object's finalizers say, which is in the background when they say nothing.
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
}

impl DeleteOptions {
    /// At once, of this very object.
    pub(crate) fn now(uid: &str) -> Self {
        Self { grace: Some(0), uid: Some(uid.to_owned()), ..Self::default() }
    }

    /// Gracefully, of this very object.
    pub(crate) fn of(uid: &str) -> Self {
        Self { uid: Some(uid.to_owned()), ..Self::default() }
    }

    /// Refuses an object that is not the wanted one.
    pub(crate) fn check(&self, resource: &Resource, object: &Value) -> Result<(), Status> {
        for (field, label, wanted) in
            [("uid", "UID", &self.uid), ("resourceVersion", "ResourceVersion", &self.revision)]
        {
            let found = object["metadata"][field].as_str().unwrap_or_default();
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let why =
                    format!("Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}");
                return Err(Status::conflict(resource.group, resource.plural, name_of(object), &why));
            }
        }
        Ok(())
    }
}

/// What a deletion led to.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Value>),
    /// It is marked and will go later.
    Pending(Arc<Value>),
}

impl Registry {
    /// Deletes an object, or begins to.
    pub(crate) async fn delete(
        &self,
        ctx: &Context,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        for _ in 0..ATTEMPTS {
            let old = self.get(resource, namespace, name)?;
            options.check(resource, &old)?;
            if resource.kind == "Namespace" && ["default", "kube-system", "kube-public"].contains(&name) {
                let why = "this namespace may not be deleted";
                return Err(Status::forbidden(resource.group, resource.plural, name, why));
            }
            let mut object = (*old).clone();
            if let Some(propagation) = options.propagation {
                mark_propagation(&mut object, propagation);
            }
            let grace = grace(resource, &object, options);
            let held = is_held(resource, &object);
            if !held && grace == 0 {
                if ctx.dry_run {
                    return Ok(Deleted::Gone(old));
                }
                match self.store(resource, namespace, name, &old, None).await {
                    Err(WriteError::Changed) => continue,
                    Err(WriteError::Missing) => return Err(Status::not_found(resource.group, resource.plural, name)),
                    Err(other) => return Err(storage_failure(&other)),
                    Ok(last) => return Ok(Deleted::Gone(last)),
                }
            }
            mark_deleted(resource, &mut object, grace);
            if object == *old || ctx.dry_run {
                return Ok(Deleted::Pending(Arc::new(object)));
            }
            match self.store(resource, namespace, name, &old, Some(object)).await {
                Err(WriteError::Changed) => {}
                Err(WriteError::Missing) => return Err(Status::not_found(resource.group, resource.plural, name)),
                Err(other) => return Err(storage_failure(&other)),
                Ok(object) => return Ok(Deleted::Pending(object)),
            }
        }
        Err(Status::modified(resource.group, resource.plural, name))
    }

    async fn store(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        old: &Value,
        value: Option<Value>,
    ) -> Result<Arc<Value>, WriteError> {
        let durability = if resource.kind == "Event" { Durability::Relaxed } else { Durability::Full };
        let expect = Expect::Revision(revision_of(old));
        self.store.write(Write { key: key(resource, namespace, name), expect, value, durability }).await
    }
}

fn mark_propagation(object: &mut Value, propagation: Propagation) {
    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let had = finalizers.len();
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(json!(FOREGROUND)),
        Propagation::Orphan => finalizers.push(json!(ORPHAN)),
    }
    if finalizers.is_empty() && had == 0 {
        return;
    }
    if finalizers.is_empty() {
        object["metadata"].as_object_mut().map(|map| map.remove("finalizers"));
    } else {
        object["metadata"]["finalizers"] = Value::Array(finalizers);
    }
}

/// Seconds that the object may take to end; only pods can take time.
fn grace(resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    if resource.kind != "Pod" {
        return 0;
    }
    let unassigned = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let over = ["Succeeded", "Failed"].contains(&object["status"]["phase"].as_str().unwrap_or_default());
    if unassigned || over {
        return 0;
    }
    let wanted = options.grace.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    let wanted = if wanted < 0 { 1 } else { wanted.min(LONGEST_GRACE) };
    // Once begun, the time can only get shorter.
    match object["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(present) if is_deleting(object) => wanted.min(present),
        _ => wanted,
    }
}

fn is_held(resource: &Resource, object: &Value) -> bool {
    let any = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    any(&object["metadata"]["finalizers"]) || (resource.kind == "Namespace" && any(&object["spec"]["finalizers"]))
}

fn mark_deleted(resource: &Resource, object: &mut Value, grace: i64) {
    let present = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if is_deleting(object) && present.is_none_or(|present| present <= grace) {
        return;
    }
    let from = match (time::parse(&object["metadata"]["deletionTimestamp"]), present) {
        (Some(end), Some(present)) => end - SignedDuration::from_secs(present),
        _ => Timestamp::now(),
    };
    object["metadata"]["deletionTimestamp"] = json!(time::format(from + SignedDuration::from_secs(grace)));
    object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    if resource.generations {
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        object["metadata"]["generation"] = json!(generation + 1);
    }
    if resource.kind == "Namespace" {
        object["status"]["phase"] = json!("Terminating");
        object["metadata"].as_object_mut().map(|map| map.remove("deletionGracePeriodSeconds"));
    }
}
