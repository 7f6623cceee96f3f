//! The values that fields have when a client leaves them out.

mod pod;
mod service;
mod workload;

use serde_json::{Value, json};

use super::resource::Resource;

/// Fills in what is missing in an object of `resource`.
pub(crate) fn apply(resource: &Resource, object: &mut Value) {
    match resource.kind {
        "Pod" => pod::spec(&mut object["spec"]),
        "Deployment" => workload::deployment(object),
        "ReplicaSet" => workload::replica_set(object),
        "Service" => service::apply(object),
        "Secret" => set(object, "type", json!("Opaque")),
        "Namespace" => namespace(object),
        "PersistentVolume" => {
            set(&mut object["spec"], "persistentVolumeReclaimPolicy", json!("Retain"));
            set(&mut object["spec"], "volumeMode", json!("Filesystem"));
        }
        "PersistentVolumeClaim" => set(&mut object["spec"], "volumeMode", json!("Filesystem")),
        "PriorityClass" => set(object, "preemptionPolicy", json!("PreemptLowerPriority")),
        _ => {}
    }
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    if name.is_string() {
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    }
}

/// Sets a field that is absent. `object` becomes a map when it is null.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    if object.is_null() || object.is_object() {
        let slot = &mut object[field];
        if slot.is_null() {
            *slot = value;
        }
    }
}

/// The elements of a list field, or none.
pub(crate) fn each<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}
