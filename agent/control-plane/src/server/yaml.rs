//! Bodies in YAML. What an alias stands for is written out, so a short body can mean an endless object
//! (CVE-2019-11253): what a body yields is bounded by its length.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::status::Status;

/// Values and bytes of text that aliases may add to what stands in the body.
const ALIASED: usize = 64 * 1024;

/// Decodes a body.
pub(super) fn decode(body: &[u8]) -> Result<Value, Status> {
    let left = Cell::new(body.len() + ALIASED);
    Bounded { left: &left }
        .deserialize(serde_yaml_ng::Deserializer::from_slice(body))
        .map_err(|e| Status::bad_request(format!("yaml: {e}")))
}

/// A value, as long as there is room left.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
}

impl Bounded<'_> {
    fn take<E: serde::de::Error>(self, amount: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(amount);
        self.left.set(left.ok_or_else(|| E::custom("the aliases of the document stand for too much"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.take(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has too")
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.take(text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.take(key.len())?;
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_is_read_as_json_would_be() {
        let body = b"{metadata: &m {name: p, labels: {a: 'x', 1: y}}, n: [1, -2, 1.5, true, null, ~], again: *m}";
        let metadata = json!({"name": "p", "labels": {"a": "x", "1": "y"}});
        let expected = json!({"metadata": metadata, "n": [1, -2, 1.5, true, null, null], "again": metadata});
        assert_eq!(decode(body).unwrap(), expected);
    }

    #[test]
    fn aliases_do_not_multiply_a_body() {
        let list = vec!["1"; 10_000].join(",");
        let aliases = vec!["*a"; 10_000].join(",");
        assert!(decode(format!("{{a: &a [{list}], b: [{aliases}]}}").as_bytes()).is_err(), "values");
        let text = "x".repeat(100_000);
        assert!(decode(format!("{{a: &a {text}, b: [{aliases}]}}").as_bytes()).is_err(), "text");
    }
}
