//! Tables: what `kubectl get` prints.

mod pods;
mod rows;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::registry::resource::Resource;

/// A column; `wide` ones are shown by `-o wide` only.
struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}

/// The table of some objects.
pub(super) fn table(
    resource: &Resource,
    objects: &[Arc<Value>],
    metadata: Value,
    include: &str,
    headers: bool,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(resource, object, include)).collect();
    let columns = if headers { definitions(resource) } else { Value::Null };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows,
    })
}

fn definitions(resource: &Resource) -> Value {
    columns(resource)
        .into_iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({"name": column.name, "type": column.kind, "format": format, "description": column.name,
                "priority": i32::from(column.wide)})
        })
        .collect()
}

fn row(resource: &Resource, object: &Value, include: &str) -> Value {
    let mut row = json!({"cells": rows::cells(resource, object)});
    match include {
        "None" => {}
        "Object" => row["object"] = object.clone(),
        _ => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
        }
    }
    if resource.kind == "Pod" {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        if phase == "Succeeded" || phase == "Failed" {
            let message = if phase == "Succeeded" { "The pod has completed successfully." } else { "The pod failed." };
            row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]);
        }
    }
    row
}

fn columns(resource: &Resource) -> Vec<Column> {
    match resource.kind {
        "Pod" => vec![
            text("Name"),
            text("Ready"),
            text("Status"),
            text("Restarts"),
            text("Age"),
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        "ReplicaSet" => vec![
            text("Name"),
            number("Desired"),
            number("Current"),
            number("Ready"),
            text("Age"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        "Deployment" => vec![
            text("Name"),
            text("Ready"),
            number("Up-to-date"),
            number("Available"),
            text("Age"),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        "Service" => vec![
            text("Name"),
            text("Type"),
            text("Cluster-IP"),
            text("External-IP"),
            text("Port(s)"),
            text("Age"),
            wide("Selector"),
        ],
        "Node" => vec![
            text("Name"),
            text("Status"),
            text("Roles"),
            text("Age"),
            text("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        "Namespace" => vec![text("Name"), text("Status"), text("Age")],
        "Secret" => vec![text("Name"), text("Type"), number("Data"), text("Age")],
        "ConfigMap" => vec![text("Name"), number("Data"), text("Age")],
        "Event" => vec![
            text("Last Seen"),
            text("Type"),
            text("Reason"),
            text("Object"),
            wide("Subobject"),
            wide("Source"),
            text("Message"),
            wide("First Seen"),
            Column { name: "Count", kind: "integer", wide: true },
            wide("Name"),
        ],
        "Lease" => vec![text("Name"), text("Holder"), text("Age")],
        "Endpoints" => vec![text("Name"), text("Endpoints"), text("Age")],
        "EndpointSlice" => vec![text("Name"), text("AddressType"), text("Ports"), text("Endpoints"), text("Age")],
        "RuntimeClass" => vec![text("Name"), text("Handler"), text("Age")],
        "PriorityClass" => vec![
            text("Name"),
            number("Value"),
            Column { name: "Global-Default", kind: "boolean", wide: false },
            text("Age"),
            text("PreemptionPolicy"),
        ],
        "PersistentVolume" => vec![
            text("Name"),
            text("Capacity"),
            text("Access Modes"),
            text("Reclaim Policy"),
            text("Status"),
            text("Claim"),
            text("StorageClass"),
            text("VolumeAttributesClass"),
            text("Reason"),
            text("Age"),
            wide("VolumeMode"),
        ],
        "PersistentVolumeClaim" => vec![
            text("Name"),
            text("Status"),
            text("Volume"),
            text("Capacity"),
            text("Access Modes"),
            text("StorageClass"),
            text("VolumeAttributesClass"),
            text("Age"),
            wide("VolumeMode"),
        ],
        _ => vec![text("Name"), text("Age")],
    }
}

#[cfg(test)]
mod tests;
