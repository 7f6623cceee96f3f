//! What the server decides about an object and clients do not: status, generation, folded fields.

use serde_json::{Value, json};

use super::resource::Resource;
use super::update::Part;
use crate::quantity::Quantity;
use crate::time;

/// Before defaults: drops what a client may not set.
pub(super) fn prepare_create(resource: &Resource, object: &mut Value) {
    if resource.generations {
        object["metadata"]["generation"] = json!(1);
    }
    match resource.kind {
        "Namespace" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        "Deployment" => object["status"] = json!({}),
        "ReplicaSet" => object["status"] = json!({"replicas": 0}),
        "Service" => object["status"] = json!({"loadBalancer": {}}),
        "Pod" | "PersistentVolume" | "PersistentVolumeClaim" => object["status"] = json!({"phase": "Pending"}),
        "Secret" => fold_string_data(object),
        _ => {}
    }
}

/// After admission: what follows from the finished object.
pub(super) fn finish_create(resource: &Resource, object: &mut Value) {
    if resource.kind == "Pod" {
        let class = qos_class(&object["spec"]);
        object["status"]["qosClass"] = json!(class);
    }
}

/// Takes from `old` what this kind of update may not touch.
pub(super) fn prepare_update(resource: &Resource, part: Part, object: &mut Value, old: &Value) {
    match part {
        Part::Main | Part::Ephemeral if resource.has("status") => keep(object, old, "status"),
        Part::Main | Part::Ephemeral => {}
        Part::Status => {
            let status = object["status"].take();
            let metadata = object["metadata"].take();
            *object = old.clone();
            object["status"] = status;
            for field in ["labels", "annotations", "resourceVersion", "uid", "managedFields"] {
                keep(&mut object["metadata"], &metadata, field);
            }
        }
        Part::Finalize => {
            let finalizers = object["spec"]["finalizers"].take();
            *object = old.clone();
            object["spec"]["finalizers"] = if finalizers.is_null() { json!([]) } else { finalizers };
        }
    }
    for field in
        ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "uid", "selfLink"]
    {
        keep(&mut object["metadata"], &old["metadata"], field);
    }
    match resource.kind {
        "Secret" => fold_string_data(object),
        "Namespace" if part == Part::Main => keep(object, old, "spec"),
        // An update without an address means the one it has.
        "Service" if object["spec"]["type"] != "ExternalName" => {
            for field in ["clusterIP", "clusterIPs"] {
                if object["spec"][field].as_str().unwrap_or_default().is_empty() && !object["spec"][field].is_array() {
                    keep(&mut object["spec"], &old["spec"], field);
                }
            }
        }
        _ => {}
    }
}

/// After defaults: counts a changed spec.
pub(super) fn finish_update(resource: &Resource, object: &mut Value, old: &Value) {
    if resource.generations && object["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        object["metadata"]["generation"] = json!(generation + 1);
    }
}

fn keep(object: &mut Value, old: &Value, field: &str) {
    match &old[field] {
        Value::Null => drop(object.as_object_mut().map(|map| map.remove(field))),
        value => object[field] = value.clone(),
    }
}

/// `stringData` is written, never read.
fn fold_string_data(object: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|map| map.remove("stringData")) else { return };
    for (key, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        object["data"][&key] = json!(encoded);
    }
}

/// Sets a condition in `status.conditions`; `lastTransitionTime` moves only when its status changes.
pub(crate) fn set_condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": time::now()});
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition[field] = json!(text);
        }
    }
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(present) => {
            if present["status"] == status {
                condition["lastTransitionTime"] = present["lastTransitionTime"].clone();
            }
            for field in ["lastProbeTime", "lastUpdateTime", "lastHeartbeatTime", "observedGeneration"] {
                if let Some(value) = present.get(field) {
                    condition[field] = value.clone();
                }
            }
            *present = condition;
        }
        None => list.push(condition),
    }
}

/// The quality-of-service class of a pod: from the cpu and memory of all its containers.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let containers = || ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    let amount = |container: &Value, part: &str, name: &str| {
        Quantity::of(&container["resources"][part][name]).filter(|q| *q > Quantity(0))
    };
    let mut any = false;
    let mut guaranteed = true;
    for name in ["cpu", "memory"] {
        let (mut requests, mut limits) = (0, 0);
        for container in containers() {
            let (request, limit) = (amount(container, "requests", name), amount(container, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some();
            requests += request.map_or(0, Quantity::milli);
            limits += limit.map_or(0, Quantity::milli);
        }
        guaranteed &= requests == limits;
    }
    if !any {
        "BestEffort"
    } else if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_service() {
        let spec = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
        assert_eq!(qos_class(&spec(json!({}))), "BestEffort");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "0"}}))), "BestEffort");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let all = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(qos_class(&spec(all)), "Guaranteed");
    }

    #[test]
    fn a_condition_keeps_its_transition_time_while_its_status_stays() {
        let mut object = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}});
        set_condition(&mut object, "Ready", "True", "R", "");
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        set_condition(&mut object, "Ready", "False", "R", "");
        assert_ne!(object["status"]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
