//! Objects that belong to others.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::registry::resource::Resource;
use crate::registry::{Context, Part, Registry, controller_of, is_deleting, name_of, namespace_of, uid_of};
use crate::selectors::LabelSelector;
use crate::status::Status;

/// An owner reference to the controller `owner`.
pub(super) fn controller_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name_of(owner), "uid": uid_of(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The objects that `owner` controls. Those that its selector matches and nobody controls become its own; those of
/// its own that no longer match are let go.
pub(super) async fn claim(
    registry: &Registry,
    ctx: &Context,
    owner: &Value,
    resource: &'static Resource,
) -> Result<Vec<Arc<Value>>, Status> {
    let selector = LabelSelector::from_object(&owner["spec"]["selector"]).unwrap_or_default();
    let mut claimed = Vec::new();
    for object in registry.list(resource, Some(namespace_of(owner))) {
        let matches = !selector.is_empty() && selector.matches(&object["metadata"]["labels"]);
        match controller_of(&object) {
            Some(reference) if reference["uid"] == *uid_of(owner) => {
                if matches || is_deleting(&object) || is_deleting(owner) {
                    claimed.push(object);
                } else {
                    set_owners(registry, ctx, resource, &object, |owners| {
                        owners.retain(|o| o["uid"] != *uid_of(owner));
                    })
                    .await?;
                }
            }
            None if matches && !is_deleting(&object) && !is_deleting(owner) => {
                let reference = controller_reference(owner);
                claimed
                    .push(set_owners(registry, ctx, resource, &object, |owners| owners.push(reference.clone())).await?);
            }
            _ => {}
        }
    }
    Ok(claimed)
}

/// Changes the owner references of an object.
pub(super) async fn set_owners(
    registry: &Registry,
    ctx: &Context,
    resource: &'static Resource,
    object: &Value,
    change: impl Fn(&mut Vec<Value>) + Send + Sync,
) -> Result<Arc<Value>, Status> {
    let uid = uid_of(object);
    let written = registry
        .update(ctx, resource, namespace_of(object), name_of(object), Part::Main, |old| {
            let mut new = old.clone();
            new["metadata"]["uid"] = json!(uid);
            let mut owners = old["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            change(&mut owners);
            new["metadata"]["ownerReferences"] = Value::Array(owners);
            Ok(new)
        })
        .await?;
    Ok(written.object)
}
