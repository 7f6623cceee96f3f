//! The registry: every read and write of an object, with the rules that hold for it, whoever asks.
//!
//! ```text
//! create/update: decode -> prepare (what clients may not set) -> defaults -> admission -> validation -> store
//! ```

mod binding;
mod create;
pub(crate) mod decode;
pub(crate) mod defaults;
mod delete;
pub(crate) mod events;
pub(crate) mod names;
mod raw;
pub(crate) mod references;
pub(crate) mod resource;
mod services;
mod strategy;
mod update;
pub(crate) mod validation;

use std::sync::Arc;

use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::status::Status;
use crate::store::{Key, Store, Write, WriteError};
use crate::user::User;
use decode::FieldValidation;
use resource::Resource;

pub(crate) use delete::{DeleteOptions, Deleted, FOREGROUND, ORPHAN, Propagation};
pub(crate) use strategy::set_condition;
pub(crate) use update::Part;

/// How a write is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) user: User,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
}

impl Context {
    /// For a component of the control plane.
    pub(crate) fn component(name: &str) -> Self {
        Self { user: User::component(name), dry_run: false, validation: FieldValidation::Ignore }
    }
}

/// A stored object, and what the client should be warned of.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Value>,
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) store: Store,
    service_cidr: Ipv4Net,
    /// Held while a service is given its addresses and stored, so that no two get the same.
    allocation: Arc<tokio::sync::Mutex<()>>,
}

impl Registry {
    pub(crate) fn new(store: Store, service_cidr: Ipv4Net) -> Self {
        Self { store, service_cidr, allocation: Arc::default() }
    }

    /// One object.
    pub(crate) fn get(&self, resource: &'static Resource, namespace: &str, name: &str) -> Result<Arc<Value>, Status> {
        self.store
            .get(&key(resource, namespace, name))
            .ok_or_else(|| Status::not_found(resource.group, resource.plural, name))
    }

    /// Makes a change. The lock is held until that is done, even when the caller has gone away by then.
    async fn write(&self, write: Write, lock: Option<OwnedMutexGuard<()>>) -> Result<Arc<Value>, WriteError> {
        let Some(lock) = lock else { return self.store.write(write).await };
        let store = self.store.clone();
        let written = tokio::spawn(async move {
            let _lock = lock;
            store.write(write).await
        });
        written.await.map_err(|_| WriteError::Closed)?
    }

    /// All objects, of one namespace or of every.
    pub(crate) fn list(&self, resource: &'static Resource, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.store.list(resource.storage, namespace).items
    }
}

fn key(resource: &'static Resource, namespace: &str, name: &str) -> Key {
    Key { resource: resource.storage, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The status for a write that failed for other reasons than its precondition.
fn storage_failure(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => Status::unavailable("the server is shutting down"),
        other => Status::internal(other),
    }
}

pub(crate) fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// `metadata.name`.
pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `metadata.namespace`.
pub(crate) fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// `metadata.uid`.
pub(crate) fn uid_of(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Whether deletion has begun.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The owner that controls an object.
pub(crate) fn controller_of(object: &Value) -> Option<&Value> {
    object["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}
