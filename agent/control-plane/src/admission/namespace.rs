//! Nothing is created in a namespace that is not there, or that is going.

use serde_json::Value;

use crate::registry::resource::{NAMESPACES, Resource};
use crate::registry::{Registry, is_deleting, name_of};
use crate::status::{Cause, Status};

pub(super) fn check(registry: &Registry, resource: &Resource, namespace: &str, object: &Value) -> Result<(), Status> {
    let found = registry.get(&NAMESPACES, "", namespace)?;
    if is_deleting(&found) { Err(terminating(resource, namespace, name_of(object))) } else { Ok(()) }
}

/// That the namespace of a new object is going.
pub(crate) fn terminating(resource: &Resource, namespace: &str, name: &str) -> Status {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    };
    Status::forbidden(resource.group, resource.plural, name, &why).because(cause)
}
