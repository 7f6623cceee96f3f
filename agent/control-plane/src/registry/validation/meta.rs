//! Names, labels, annotations, owners.

use serde_json::Value;

use super::{Faults, Resource, items};

pub(super) const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation \
    is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
/// All annotations together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn validate(resource: &Resource, object: &Value, faults: &mut Faults) {
    let metadata = &object["metadata"];
    name(resource, metadata, faults);
    labels(&metadata["labels"], "metadata.labels", faults);
    let mut total = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        total += key.len() + value.as_str().map_or(0, str::len);
        if !is_qualified_name(&key.to_lowercase()) {
            faults.invalid("metadata.annotations", &Value::from(key.as_str()), QUALIFIED_RULE);
        }
    }
    if total > MAX_ANNOTATIONS {
        let message = format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes");
        faults.push("FieldValueTooLong", "metadata.annotations", message);
    }
    let mut controllers = 0;
    for (index, owner) in items(&metadata["ownerReferences"]).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                faults.invalid(&path, &Value::from(""), &format!("{field} must not be empty"));
            }
        }
        controllers += i32::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let detail = "Only one reference can have Controller set to true";
        faults.invalid("metadata.ownerReferences", &metadata["ownerReferences"], detail);
    }
    for (index, finalizer) in items(&metadata["finalizers"]).iter().enumerate() {
        if !is_qualified_name(finalizer.as_str().unwrap_or_default()) {
            faults.invalid(&format!("metadata.finalizers[{index}]"), finalizer, QUALIFIED_RULE);
        }
    }
}

fn name(resource: &Resource, metadata: &Value, faults: &mut Faults) {
    let text = metadata["name"].as_str().unwrap_or_default();
    if text.is_empty() {
        faults.required("metadata.name", "name or generateName is required");
        return;
    }
    let (valid, limit, rule) = match resource.kind {
        "Namespace" => (is_dns_label(text), 63, LABEL_RULE),
        "Service" => (is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase()), 63, DNS_1035_RULE),
        _ => (is_subdomain(text), 253, SUBDOMAIN_RULE),
    };
    if !valid && text.len() <= limit {
        faults.invalid("metadata.name", &metadata["name"], rule);
    }
    if text.len() > limit {
        faults.invalid("metadata.name", &metadata["name"], &format!("must be no more than {limit} bytes"));
    }
}

/// What an update must leave alone in the metadata.
pub(super) fn validate_update(object: &Value, old: &Value, faults: &mut Faults) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, old) = (&object["metadata"][field], &old["metadata"][field]);
        if new != old {
            faults.invalid(&format!("metadata.{field}"), new, "field is immutable");
        }
    }
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let before = items(&old["metadata"]["finalizers"]);
        let added: Vec<&Value> =
            items(&object["metadata"]["finalizers"]).iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            faults.forbidden("metadata.finalizers", &detail);
        }
    }
}

/// A map of labels at `path`.
pub(super) fn labels(labels: &Value, path: &str, faults: &mut Faults) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            faults.invalid(path, &Value::from(key.as_str()), QUALIFIED_RULE);
        }
        let text = value.as_str().unwrap_or_default();
        if text.len() > 63 {
            faults.invalid(path, value, "must be no more than 63 bytes");
        } else if !is_label_value(text) {
            faults.invalid(path, value, LABEL_VALUE_RULE);
        }
    }
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name_part(text)
}

fn is_name_part(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 63 && edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(allowed)
}

/// `name` or `prefix/name`.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        None => is_name_part(text),
        Some((prefix, name)) => is_subdomain(prefix) && prefix.len() <= 253 && is_name_part(name),
    }
}

/// RFC 1123 label.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 63 && text.chars().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(allowed) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}
