//! What an update may not change.

use serde_json::{Value, json};

use super::{Faults, Resource, items};

const POD_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(resource: &Resource, object: &Value, old: &Value, faults: &mut Faults) {
    match resource.kind {
        "Pod" => pod(object, old, faults),
        "Deployment" | "ReplicaSet" => immutable(object, old, "selector", faults),
        "Service" => {
            let had = old["spec"]["clusterIP"].as_str().unwrap_or_default();
            if !had.is_empty() && old["spec"]["type"] != "ExternalName" && object["spec"]["type"] != "ExternalName" {
                immutable(object, old, "clusterIP", faults);
            }
        }
        "Secret" => {
            if object["type"] != old["type"] {
                faults.invalid("type", &object["type"], "field is immutable");
            }
            frozen(object, old, &["data"], faults);
        }
        "ConfigMap" => frozen(object, old, &["data", "binaryData"], faults),
        "RuntimeClass" if object["handler"] != old["handler"] => {
            faults.invalid("handler", &object["handler"], "field is immutable");
        }
        "PriorityClass" if object["value"] != old["value"] => {
            faults.forbidden("value", "may not be changed in an update.");
        }
        _ => {}
    }
}

fn immutable(object: &Value, old: &Value, field: &str, faults: &mut Faults) {
    if object["spec"][field] != old["spec"][field] {
        faults.invalid(&format!("spec.{field}"), &object["spec"][field], "field is immutable");
    }
}

fn frozen(object: &Value, old: &Value, fields: &[&str], faults: &mut Faults) {
    if old["immutable"] != true {
        return;
    }
    if object["immutable"] != true {
        faults.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in fields {
        if object[field] != old[field] {
            faults.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

fn pod(object: &Value, old: &Value, faults: &mut Faults) {
    let mut same = object["spec"].clone();
    let before = &old["spec"];
    for list in ["containers", "initContainers"] {
        if items(&same[list]).len() == items(&before[list]).len() {
            for (index, container) in same.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
            {
                container["image"] = before[list][index]["image"].clone();
            }
        }
    }
    let added_only = items(&before["tolerations"]).iter().all(|t| items(&same["tolerations"]).contains(t));
    if added_only {
        copy(&mut same, before, "tolerations");
    }
    let (new, was) = (same["activeDeadlineSeconds"].as_i64(), before["activeDeadlineSeconds"].as_i64());
    if new.is_some_and(|new| was.is_none_or(|was| new <= was)) {
        copy(&mut same, before, "activeDeadlineSeconds");
    }
    if same["terminationGracePeriodSeconds"] == 1 && before["terminationGracePeriodSeconds"].as_i64() < Some(0) {
        copy(&mut same, before, "terminationGracePeriodSeconds");
    }
    if same != *before {
        faults.forbidden("spec", POD_RULE);
    }
}

fn copy(target: &mut Value, source: &Value, field: &str) {
    match &source[field] {
        Value::Null => drop(target.as_object_mut().map(|map| map.remove(field))),
        value => target[field] = value.clone(),
    }
}

/// Ephemeral containers may only be added.
pub(crate) fn ephemeral_only_added(object: &Value, old: &Value) -> bool {
    let list = |v: &Value| v["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
    let now = list(object);
    let mut rest = object["spec"].clone();
    rest["ephemeralContainers"] = json!(null);
    let mut before = old["spec"].clone();
    before["ephemeralContainers"] = json!(null);
    list(old).iter().all(|c| now.contains(c)) && rest == before
}
