//! Bodies in protobuf, which typed clients send by default: decoded to what the same object is in JSON.
//!
//! The wire form is `k8s\0` and a `runtime.Unknown` (type, raw message); messages are read by the field table in
//! `schema.txt`. Answers are JSON, which the same clients accept.

mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::status::Status;
use wire::{Field, Fields, Payload};

pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; more is not an object of this API.
const MAX_DEPTH: usize = 32;

/// How a field's type occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    /// Absent and zero are different things.
    Optional,
    Repeated,
    Map,
    /// Its fields are the parent's in JSON.
    Inline,
}

#[derive(Debug)]
struct FieldType {
    name: &'static str,
    kind: &'static str,
    shape: Shape,
}

type Messages = HashMap<&'static str, HashMap<u32, FieldType>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| parse_schema(include_str!("schema.txt")));

fn parse_schema(text: &'static str) -> Messages {
    let mut messages = Messages::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let Some(message) = words.next() else { continue };
        messages.insert(message, words.filter_map(parse_field).collect());
    }
    messages
}

fn parse_field(word: &'static str) -> Option<(u32, FieldType)> {
    let mut parts = word.splitn(3, ':');
    let number = parts.next()?.parse().ok()?;
    let (name, kind) = (parts.next()?, parts.next()?);
    let (shape, kind) = match kind.as_bytes().first()? {
        b'*' => (Shape::Repeated, &kind[1..]),
        b'%' => (Shape::Map, &kind[1..]),
        b'^' => (Shape::Inline, &kind[1..]),
        _ => kind.strip_suffix('?').map_or((Shape::One, kind), |kind| (Shape::Optional, kind)),
    };
    Some((number, FieldType { name, kind, shape }))
}

/// Decodes a body.
pub(super) fn decode(body: &[u8]) -> Result<Value, Status> {
    read(body).map_err(|why| Status::bad_request(format!("decoding protobuf: {why}")))
}

fn read(body: &[u8]) -> Result<Value, String> {
    let body = body.strip_prefix(MAGIC).ok_or("the body does not begin with \"k8s\"")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::new(body) {
        match field? {
            Field { number: 1, payload: Payload::Bytes(type_meta) } => {
                for field in Fields::new(type_meta) {
                    match field? {
                        Field { number: 1, payload: Payload::Bytes(text) } => api_version = utf8(text)?,
                        Field { number: 2, payload: Payload::Bytes(text) } => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            Field { number: 2, payload: Payload::Bytes(bytes) } => raw = bytes,
            _ => {}
        }
    }
    if !MESSAGES.contains_key(kind.as_str()) {
        return Err(format!("the kind {kind:?} is not known in protobuf here; send application/json"));
    }
    let mut object = message(&kind, raw, 0)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "text is not UTF-8".to_owned())
}

fn message(kind: &str, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err("messages are nested too deep".to_owned());
    }
    let types = MESSAGES.get(kind).ok_or_else(|| format!("no message {kind}"))?;
    let mut object = Map::new();
    for field in Fields::new(bytes) {
        let Field { number, payload } = field?;
        // A field of a newer version.
        let Some(field) = types.get(&number) else { continue };
        match field.shape {
            Shape::Inline => {
                if let Payload::Bytes(bytes) = payload {
                    object.extend(message(field.kind, bytes, depth + 1)?);
                }
            }
            Shape::Map => {
                let (key, value) = entry(field.kind, payload, depth)?;
                let slot = object.entry(field.name).or_insert_with(|| json!({}));
                slot[&key] = value;
            }
            Shape::Repeated => {
                let item = value(field.kind, payload, depth)?;
                let slot = object.entry(field.name).or_insert_with(|| json!([]));
                if let (Value::Array(list), Some(item)) = (slot, item) {
                    list.push(item);
                }
            }
            Shape::One | Shape::Optional => {
                let value = value(field.kind, payload, depth)?;
                let zero = |v: &Value| *v == json!("") || *v == json!(0) || *v == json!(false);
                if let Some(value) = value.filter(|v| field.shape == Shape::Optional || !zero(v)) {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(object)
}

/// An entry of a map: key and value are fields 1 and 2.
fn entry(kind: &str, payload: Payload<'_>, depth: usize) -> Result<(String, Value), String> {
    let Payload::Bytes(bytes) = payload else { return Err("a map entry is no message".to_owned()) };
    let (mut key, mut found) = (String::new(), None);
    for field in Fields::new(bytes) {
        match field? {
            Field { number: 1, payload: Payload::Bytes(text) } => key = utf8(text)?,
            Field { number: 2, payload } => found = value(kind, payload, depth)?,
            _ => {}
        }
    }
    let absent = if kind == "string" || kind == "bytes" { json!("") } else { json!({}) };
    Ok((key, found.unwrap_or(absent)))
}

/// One value; none when it stands for nothing (an unset time).
fn value(kind: &str, payload: Payload<'_>, depth: usize) -> Result<Option<Value>, String> {
    Ok(Some(match (kind, payload) {
        ("string", Payload::Bytes(text)) => json!(utf8(text)?),
        ("bytes", Payload::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        ("bool", Payload::Varint(number)) => json!(number != 0),
        // Negative numbers of 32 bits are sent with 64.
        ("int32", Payload::Varint(number)) => json!(number as i32),
        ("int64", Payload::Varint(number)) => json!(number.cast_signed()),
        ("Time" | "MicroTime", Payload::Bytes(bytes)) => return timestamp(kind, bytes),
        ("Quantity", Payload::Bytes(bytes)) => json!(utf8(wrapped(bytes)?)?),
        ("FieldsV1" | "RawExtension", Payload::Bytes(bytes)) => {
            let raw = wrapped(bytes)?;
            if raw.is_empty() {
                return Ok(None);
            }
            serde_json::from_slice(raw).map_err(|e| e.to_string())?
        }
        ("IntOrString", Payload::Bytes(bytes)) => int_or_string(bytes)?,
        ("ExtraValue", Payload::Bytes(bytes)) => {
            let mut list = Vec::new();
            for field in Fields::new(bytes) {
                if let Field { number: 1, payload: Payload::Bytes(text) } = field? {
                    list.push(json!(utf8(text)?));
                }
            }
            Value::Array(list)
        }
        (_, Payload::Bytes(bytes)) => Value::Object(message(kind, bytes, depth + 1)?),
        _ => return Err(format!("a field of type {kind} has another wire type")),
    }))
}

/// The first field of a message that wraps bytes.
fn wrapped(bytes: &[u8]) -> Result<&[u8], String> {
    let mut found = &[][..];
    for field in Fields::new(bytes) {
        if let Field { number: 1, payload: Payload::Bytes(inner) } = field? {
            found = inner;
        }
    }
    Ok(found)
}

fn timestamp(kind: &str, bytes: &[u8]) -> Result<Option<Value>, String> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(bytes) {
        match field? {
            Field { number: 1, payload: Payload::Varint(number) } => seconds = number.cast_signed(),
            Field { number: 2, payload: Payload::Varint(number) } => nanos = number as i32,
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    let format = if kind == "Time" { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Ok(Some(json!(time.strftime(format).to_string())))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields::new(bytes) {
        match field? {
            Field { number: 1, payload: Payload::Varint(kind) } => is_text = kind == 1,
            Field { number: 2, payload: Payload::Varint(found) } => number = found as i32,
            Field { number: 3, payload: Payload::Bytes(found) } => text = utf8(found)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn every_message_that_is_named_is_described() {
        let scalars = [
            "string",
            "bytes",
            "bool",
            "int32",
            "int64",
            "Time",
            "MicroTime",
            "Quantity",
            "FieldsV1",
            "RawExtension",
            "IntOrString",
            "ExtraValue",
        ];
        for (message, fields) in MESSAGES.iter() {
            for field in fields.values() {
                let known = scalars.contains(&field.kind) || MESSAGES.contains_key(field.kind);
                assert!(known, "{message}.{}: {}", field.name, field.kind);
            }
        }
    }

    #[test]
    fn a_config_map_is_read_as_its_json() {
        // metadata.name (field 1 of field 1), an empty creationTimestamp (8), data (2) with one entry
        let metadata = [field(1, b"page"), field(2, b""), field(8, b"")].concat();
        let data = [field(1, b"key"), field(2, b"value")].concat();
        let raw = [field(1, &metadata), field(2, &data)].concat();
        let expected =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page"}, "data": {"key": "value"}});
        assert_eq!(decode(&body("ConfigMap", &raw)).unwrap(), expected);
    }

    #[test]
    fn zero_is_kept_where_it_means_something() {
        // A deployment's spec.replicas (1) is optional: 0 is not the default.
        let raw = field(2, &[8, 0]);
        let decoded = read(&body("Deployment", &raw)).unwrap();
        assert_eq!(decoded["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn torn_and_foreign_bodies_are_refused() {
        for bytes in [&b""[..], b"k8s", b"{}", b"k8s\0\x0a\xff", &body("Unheard", b""), &body("Pod", b"\x0a\x7f")] {
            assert_eq!(decode(bytes).unwrap_err().code, 400, "{bytes:?}");
        }
    }
}
