//! Changing objects: the whole, or one of its parts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decode::decode;
use super::resource::Resource;
use super::{
    Context, Registry, Written, defaults, is_deleting, key, revision_of, services, storage_failure, strategy,
    validation,
};
use crate::admission;
use crate::status::Status;
use crate::store::{Durability, Expect, Write, WriteError};

/// Tries against other writers before the client is told to try again.
const ATTEMPTS: usize = 8;

/// Which part of an object an update is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    Ephemeral,
    /// A namespace's `spec.finalizers`.
    Finalize,
}

impl Registry {
    /// Changes the object by `change`, which gets the present one and may be called again when another writer was
    /// faster. When what it returns has another resourceVersion or uid than the present, the update is a conflict.
    pub(crate) async fn update(
        &self,
        ctx: &Context,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        part: Part,
        mut change: impl FnMut(&Value) -> Result<Value, Status>,
    ) -> Result<Written, Status> {
        for _ in 0..ATTEMPTS {
            let old = self.get(resource, namespace, name)?;
            let sent = change(&old)?;
            check_identity(resource, name, &sent, &old)?;
            let (mut object, warnings) = decode(resource, sent, ctx.validation)?;
            object["metadata"]["name"] = json!(name);
            if resource.namespaced {
                object["metadata"]["namespace"] = json!(namespace);
            }
            strategy::prepare_update(resource, part, &mut object, &old);
            object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            defaults::apply(resource, &mut object);
            let lock = if resource.kind == "Service" && part == Part::Main {
                services::carry_over(&mut object, &old);
                Some(self.allocate_service(&mut object, &old).await?)
            } else {
                None
            };
            strategy::finish_update(resource, &mut object, &old);
            if object == *old {
                return Ok(Written { object: old, warnings });
            }
            admission::update(self, ctx, resource, part, &mut object, &old)?;
            check(resource, part, &object, &old, name)?;
            if ctx.dry_run {
                return Ok(Written { object: Arc::new(object), warnings });
            }
            let ends = is_deleting(&object) && finalizers_done(resource, &object);
            let durability = durability(resource, part, &object, &old);
            let value = (!ends).then_some(object);
            let expect = Expect::Revision(revision_of(&old));
            let write = Write { key: key(resource, namespace, name), expect, value, durability };
            match self.write(write, lock).await {
                Ok(object) => return Ok(Written { object, warnings }),
                Err(WriteError::Changed) => {}
                Err(WriteError::Missing) => return Err(Status::not_found(resource.group, resource.plural, name)),
                Err(other) => return Err(storage_failure(&other)),
            }
        }
        Err(Status::modified(resource.group, resource.plural, name))
    }
}

fn check(resource: &Resource, part: Part, object: &Value, old: &Value, name: &str) -> Result<(), Status> {
    let faults = match part {
        Part::Main => validation::update(resource, object, old),
        Part::Ephemeral if !validation::ephemeral_only_added(object, old) => {
            let why = "existing ephemeral containers may not be changed or removed, and nothing else of the pod";
            return Err(Status::forbidden(resource.group, resource.plural, name, why));
        }
        Part::Ephemeral => validation::create(resource, object),
        Part::Status => validation::metadata(resource, object),
        Part::Finalize => Vec::new(),
    };
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid(resource.group, resource.kind, name, faults)) }
}

fn check_identity(resource: &Resource, name: &str, sent: &Value, old: &Value) -> Result<(), Status> {
    let metadata = &sent["metadata"];
    let given = metadata["name"].as_str().unwrap_or_default();
    if !given.is_empty() && given != name {
        let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
        return Err(Status::bad_request(message));
    }
    if let Some(uid) = metadata["uid"].as_str().filter(|uid| !uid.is_empty() && old["metadata"]["uid"] != **uid) {
        let found = old["metadata"]["uid"].as_str().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {found}");
        return Err(Status::conflict(resource.group, resource.plural, name, &why));
    }
    let version = metadata["resourceVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && version != "0" && old["metadata"]["resourceVersion"] != *version {
        return Err(Status::modified(resource.group, resource.plural, name));
    }
    Ok(())
}

/// Whether nothing holds a deleted object back any more.
fn finalizers_done(resource: &Resource, object: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let grace_over = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
    empty(&object["metadata"]["finalizers"])
        && grace_over
        && (resource.kind != "Namespace" || empty(&object["spec"]["finalizers"]))
}

fn durability(resource: &Resource, part: Part, object: &Value, old: &Value) -> Durability {
    match resource.kind {
        "Event" => Durability::Relaxed,
        "Lease" if object["metadata"]["namespace"] == "kube-node-lease" => Durability::Heartbeat,
        "Node" if part == Part::Status && without_heartbeats(object) == without_heartbeats(old) => {
            Durability::Heartbeat
        }
        _ => Durability::Full,
    }
}

fn without_heartbeats(node: &Value) -> Value {
    let mut status = node["status"].clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastHeartbeatTime"] = Value::Null;
    }
    status
}
