//! What makes an object invalid. Every fault is found, and named by its path as upstream names it.

mod meta;
mod pod;
mod service;
mod update;
mod workload;

use serde_json::Value;

use super::resource::Resource;
use crate::status::Cause;

use meta::is_dns_label;
pub(crate) use update::ephemeral_only_added;

/// Faults of an object that is created.
pub(crate) fn create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut faults = Faults::default();
    meta::validate(resource, object, &mut faults);
    validate_kind(resource, object, &mut faults);
    faults.0
}

/// Faults of the metadata alone.
pub(crate) fn metadata(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut faults = Faults::default();
    meta::validate(resource, object, &mut faults);
    faults.0
}

/// Faults of an object that replaces `old`.
pub(crate) fn update(resource: &Resource, object: &Value, old: &Value) -> Vec<Cause> {
    let mut faults = Faults::default();
    meta::validate(resource, object, &mut faults);
    meta::validate_update(object, old, &mut faults);
    update::validate(resource, object, old, &mut faults);
    if faults.0.is_empty() {
        validate_kind(resource, object, &mut faults);
    }
    faults.0
}

fn validate_kind(resource: &Resource, object: &Value, faults: &mut Faults) {
    match resource.kind {
        "Pod" => pod::validate_spec(&object["spec"], "spec", faults),
        "Deployment" => workload::deployment(&object["spec"], faults),
        "ReplicaSet" => workload::replica_set(&object["spec"], faults),
        "Service" => service::validate(&object["spec"], faults),
        "ConfigMap" => {
            let total = keys(&object["data"], "data", str::len, faults);
            let total = total + keys(&object["binaryData"], "binaryData", decoded_length, faults);
            size(total, "data", faults);
        }
        "Secret" => secret(object, faults),
        "Lease" => positive(&object["spec"]["leaseDurationSeconds"], "spec.leaseDurationSeconds", faults),
        "RuntimeClass" if !is_dns_label(object["handler"].as_str().unwrap_or_default()) => {
            faults.invalid("handler", &object["handler"], meta::LABEL_RULE);
        }
        "PriorityClass"
            if object["value"].as_i64().unwrap_or(0) > 1_000_000_000
                && !object["metadata"]["name"].as_str().unwrap_or_default().starts_with("system-") =>
        {
            let rule = "maximum allowed value of a user defined priority is 1000000000";
            faults.forbidden("value", rule);
        }
        _ => {}
    }
}

/// Secrets and config maps carry at most this much.
const MAX_DATA: usize = 1024 * 1024;

/// Checks the keys; returns how long the values are together, each as `length` says.
fn keys(data: &Value, path: &str, length: fn(&str) -> usize, faults: &mut Faults) -> usize {
    let mut total = 0;
    for (key, value) in data.as_object().into_iter().flatten() {
        total += value.as_str().map_or(0, length);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if key.is_empty() || key.len() > 253 || !key.chars().all(allowed) || key == "." || key.starts_with("..") {
            let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
                        or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
            faults.invalid(&format!("{path}[{key}]"), &Value::from(key.as_str()), rule);
        }
    }
    total
}

/// How long the bytes are that a text in base64 stands for.
fn decoded_length(text: &str) -> usize {
    (text.len() / 4 * 3).saturating_sub(text.len() - text.trim_end_matches('=').len())
}

fn size(total: usize, path: &str, faults: &mut Faults) {
    if total > MAX_DATA {
        faults.push("FieldValueTooLong", path, format!("Too long: may not be more than {MAX_DATA} bytes"));
    }
}

fn secret(object: &Value, faults: &mut Faults) {
    let total = keys(&object["data"], "data", decoded_length, faults);
    size(total, "data", faults);
    let required: &[&str] = match object["type"].as_str().unwrap_or_default() {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if object["data"][key].is_null() {
            faults.required(&format!("data[{key}]"), "");
        }
    }
}

/// An optional number that must be above zero.
fn positive(value: &Value, path: &str, faults: &mut Faults) {
    if value.as_i64().is_some_and(|number| number <= 0) {
        faults.invalid(path, value, "must be greater than 0");
    }
}

/// An optional number that must not be negative.
fn not_negative(value: &Value, path: &str, faults: &mut Faults) {
    if value.as_i64().is_some_and(|number| number < 0) {
        faults.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// The faults found so far.
#[derive(Debug, Default)]
struct Faults(Vec<Cause>);

impl Faults {
    fn push(&mut self, reason: &'static str, field: &str, message: String) {
        self.0.push(Cause { reason, message, field: field.to_owned() });
    }

    fn required(&mut self, field: &str, detail: &str) {
        let message = if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        self.push("FieldValueRequired", field, message);
    }

    fn invalid(&mut self, field: &str, value: &Value, detail: &str) {
        self.push("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"));
    }

    fn duplicate(&mut self, field: &str, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    fn forbidden(&mut self, field: &str, detail: &str) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }

    /// The value must be one of `supported`; absent values are let through.
    fn one_of(&mut self, field: &str, value: &Value, supported: &[&str]) {
        let Some(text) = value.as_str() else { return };
        if !supported.contains(&text) {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
            self.push("FieldValueNotSupported", field, message);
        }
    }
}

/// A list field as a slice.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests;
