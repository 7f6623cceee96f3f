//! Creating objects.

use serde_json::{Value, json};

use super::decode::decode;
use super::resource::{NAMESPACES, Resource};
use super::{Context, Registry, Written, defaults, key, names, storage_failure, strategy, validation};
use crate::status::Status;
use crate::store::{Durability, Expect, Write, WriteError};
use crate::{admission, time};

/// Tries for a generated name.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Creates an object in `namespace` (empty for cluster-scoped resources).
    pub(crate) async fn create(
        &self,
        ctx: &Context,
        resource: &'static Resource,
        namespace: &str,
        object: Value,
    ) -> Result<Written, Status> {
        let (mut object, warnings) = decode(resource, object, ctx.validation)?;
        set_namespace(resource, namespace, &mut object)?;
        let generate = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        let generated = object["metadata"]["name"].as_str().unwrap_or_default().is_empty() && !generate.is_empty();
        if object["metadata"]["resourceVersion"].as_str().is_some_and(|rv| !rv.is_empty()) {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for attempt in 1.. {
            if generated {
                object["metadata"]["name"] = json!(names::generate(&generate));
            }
            match self.create_named(ctx, resource, namespace, object.clone()).await {
                Err(status) if generated && status.is_already_exists() && attempt < NAME_ATTEMPTS => {}
                Ok(object) => return Ok(Written { object, warnings }),
                Err(status) => return Err(status),
            }
        }
        Err(Status::internal("no name could be generated"))
    }

    async fn create_named(
        &self,
        ctx: &Context,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
    ) -> Result<std::sync::Arc<Value>, Status> {
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
        metadata["creationTimestamp"] = json!(time::now());
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            metadata.as_object_mut().map(|map| map.remove(field));
        }
        strategy::prepare_create(resource, &mut object);
        defaults::apply(resource, &mut object);
        admission::create(self, ctx, resource, namespace, &mut object).await?;
        let lock = match resource.kind {
            "Service" => Some(self.allocate_service(&mut object, &Value::Null).await?),
            _ => None,
        };
        strategy::finish_create(resource, &mut object);
        let faults = validation::create(resource, &object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !faults.is_empty() {
            return Err(Status::invalid(resource.group, resource.kind, &name, faults));
        }
        let key = key(resource, namespace, &name);
        let taken = || Status::already_exists(resource.group, resource.plural, &name);
        if ctx.dry_run {
            return if self.store.get(&key).is_some() { Err(taken()) } else { Ok(object.into()) };
        }
        let durability = if resource.kind == "Event" { Durability::Relaxed } else { Durability::Full };
        let expect = if resource.namespaced {
            Expect::AbsentWithin(super::key(&NAMESPACES, "", namespace))
        } else {
            Expect::Absent
        };
        let write = Write { key, expect, value: Some(object), durability };
        self.write(write, lock).await.map_err(|error| match error {
            WriteError::Exists => taken(),
            WriteError::Ending => admission::terminating(resource, namespace, &name),
            other => storage_failure(&other),
        })
    }
}

fn set_namespace(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), Status> {
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if !resource.namespaced {
        object["metadata"].as_object_mut().map(|map| map.remove("namespace"));
        return Ok(());
    }
    if !given.is_empty() && given != namespace {
        let message = format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given} and {namespace})"
        );
        return Err(Status::bad_request(message));
    }
    object["metadata"]["namespace"] = json!(namespace);
    Ok(())
}
