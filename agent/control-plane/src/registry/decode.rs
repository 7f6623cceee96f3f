//! From what a client sent to an object of the resource: kind and version checked, types checked, unknown fields
//! found.

use serde_json::{Value, json};

use super::resource::Resource;
use crate::status::Status;

/// What to do about fields that the resource does not have (`?fieldValidation=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    Ignore,
    /// Tell the client in a Warning header: upstream's default.
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(Status::bad_request(format!(
                "invalid fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Decodes an object; returns it with the warnings for the client.
pub(crate) fn decode(
    resource: &Resource,
    mut value: Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    check_kind(resource, &mut value)?;
    let decoded = (resource.round_trip)(&value).map_err(|e| {
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: {e}",
            resource.kind, resource.version, resource.kind
        );
        Status::bad_request(message)
    })?;
    let mut unknown = Vec::new();
    if validation != FieldValidation::Ignore {
        unknown_fields(&value, &decoded, &mut String::new(), &mut unknown);
    }
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(Status::bad_request(format!("strict decoding error: {}", unknown.join(", "))));
    }
    Ok((decoded, unknown))
}

fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    let expected = resource.api_version();
    let Some(object) = value.as_object_mut() else {
        return Err(Status::bad_request("the body is not an object"));
    };
    for (key, wanted) in [("apiVersion", expected.as_str()), ("kind", resource.kind)] {
        match object.get(key) {
            None | Some(Value::Null) => drop(object.insert(key.to_owned(), json!(wanted))),
            Some(Value::String(given)) if given.is_empty() => drop(object.insert(key.to_owned(), json!(wanted))),
            Some(Value::String(given)) if given == wanted => {}
            Some(given) => {
                let message = format!("the {key} in the data ({given}) does not match the expected {key} ({wanted})");
                return Err(Status::bad_request(message));
            }
        }
    }
    match object.get("metadata") {
        None | Some(Value::Null) => drop(object.insert("metadata".to_owned(), json!({}))),
        Some(Value::Object(_)) => {}
        Some(_) => return Err(Status::bad_request("metadata is not an object")),
    }
    Ok(())
}

/// A field that was sent and did not come back from the typed object is not one of its fields.
fn unknown_fields(sent: &Value, decoded: &Value, path: &mut String, unknown: &mut Vec<String>) {
    let length = path.len();
    match (sent, decoded) {
        (Value::Object(sent), Value::Object(decoded)) => {
            for (key, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                match decoded.get(key) {
                    Some(found) => unknown_fields(value, found, path, unknown),
                    None => unknown.push(format!("unknown field {path:?}")),
                }
                path.truncate(length);
            }
        }
        (Value::Array(sent), Value::Array(decoded)) => {
            for (index, (value, found)) in sent.iter().zip(decoded).enumerate() {
                path.push('[');
                path.push_str(&index.to_string());
                path.push(']');
                unknown_fields(value, found, path, unknown);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::resource::PODS;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i", "imagePolicy": "x",
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}], "typo": 1}})
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        let error = decode(&PODS, pod(), FieldValidation::Strict).unwrap_err();
        let text =
            "strict decoding error: unknown field \"spec.containers[0].imagePolicy\", unknown field \"spec.typo\"";
        assert_eq!(error.message, text);
        let (decoded, warnings) = decode(&PODS, pod(), FieldValidation::Warn).unwrap();
        assert_eq!(warnings.len(), 2);
        assert!(decoded["spec"].get("typo").is_none());
        assert_eq!(decoded["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    }

    #[test]
    fn wrong_kinds_and_types_are_refused() {
        let mut other = pod();
        other["kind"] = json!("Service");
        assert_eq!(decode(&PODS, other, FieldValidation::Ignore).unwrap_err().code, 400);
        let mut wrong = pod();
        wrong["spec"]["containers"] = json!("none");
        assert_eq!(decode(&PODS, wrong, FieldValidation::Ignore).unwrap_err().code, 400);
    }
}
