//! Strategic merge patch.

use serde_json::{Map, Value};

use super::schema::{self, List};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_SET: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `object`.
pub(super) fn apply(kind: &str, object: &mut Value, patch: &Value) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        return Err(Status::bad_request("a strategic merge patch must be an object"));
    };
    let Value::Object(target) = object else {
        return Err(Status::internal("the stored object is not a map"));
    };
    merge_map(kind, &mut Vec::new(), target, patch)
}

fn merge_map<'p>(
    kind: &str,
    path: &mut Vec<&'p str>,
    target: &mut Map<String, Value>,
    patch: &'p Map<String, Value>,
) -> Result<(), Status> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(Value::Array(keep)) = patch.get(RETAIN_KEYS) {
        target.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM_SET) {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (target.get_mut(field), value) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            path.push(key);
            merge_field(kind, path, target, key, value, patch.get(&format!("{ORDER}{key}")))?;
            path.pop();
        }
    }
    // An order can come without a change of the list itself.
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER).filter(|field| !patch.contains_key(*field)) else { continue };
        path.push(field);
        let list = schema::list(kind, path);
        path.pop();
        if let (Some(Value::Array(items)), Value::Array(order)) = (target.get_mut(field), order) {
            sort(list, items, &items.clone(), order);
        }
    }
    Ok(())
}

fn merge_field<'p>(
    kind: &str,
    path: &mut Vec<&'p str>,
    target: &mut Map<String, Value>,
    key: &str,
    value: &'p Value,
    order: Option<&Value>,
) -> Result<(), Status> {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Object(patch) => {
            if patch.get(DIRECTIVE).is_some_and(|d| d == "delete") {
                target.remove(key);
                return Ok(());
            }
            let slot = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(inner) = slot {
                merge_map(kind, path, inner, patch)?;
            }
        }
        Value::Array(patch) => {
            let list = schema::list(kind, path);
            let slot = target.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if list == List::Atomic || !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            if let Value::Array(items) = slot {
                let before = items.clone();
                merge_list(kind, path, list, items, patch)?;
                if let Some(Value::Array(order)) = order {
                    sort(list, items, &before, order);
                }
            }
        }
        other => {
            target.insert(key.to_owned(), other.clone());
        }
    }
    Ok(())
}

fn merge_list<'p>(
    kind: &str,
    path: &mut Vec<&'p str>,
    list: List,
    items: &mut Vec<Value>,
    patch: &'p [Value],
) -> Result<(), Status> {
    let key = match list {
        List::Atomic => {
            items.extend(patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned());
            return Ok(());
        }
        List::Set => {
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
            return Ok(());
        }
        List::Keyed(key) => key,
    };
    // An element that says only `$patch: replace` makes the rest the whole list.
    if patch.iter().any(|item| item.get(DIRECTIVE).is_some_and(|d| d == "replace") && item.get(key).is_none()) {
        *items = patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect();
        return Ok(());
    }
    for item in patch {
        let Value::Object(change) = item else {
            return Err(Status::bad_request(format!("{}: a list of objects is patched with {item}", path.join("."))));
        };
        let Some(id) = change.get(key) else {
            let message = format!("map: {item} does not contain declared merge key: {key}");
            return Err(Status::bad_request(message));
        };
        if change.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            items.retain(|present| present.get(key) != Some(id));
            continue;
        }
        let position = items.iter().position(|present| present.get(key) == Some(id));
        let index = position.unwrap_or_else(|| {
            items.push(Value::Object(Map::new()));
            items.len() - 1
        });
        if let Value::Object(present) = &mut items[index] {
            merge_map(kind, path, present, change)?;
        }
    }
    Ok(())
}

/// Puts `items` in the wanted order. Those that the order does not name (the server's own) keep their place
/// relative to what stood after them before.
fn sort(list: List, items: &mut Vec<Value>, before: &[Value], order: &[Value]) {
    let identity = |item: &Value| match list {
        List::Keyed(key) => item.get(key).cloned().unwrap_or(Value::Null),
        _ => item.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    let rank = |item: &Value| wanted.iter().position(|w| *w == identity(item));
    let old_place = |item: &Value| before.iter().position(|b| identity(b) == identity(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) = items.drain(..).partition(|item| rank(item).is_some());
    named.sort_by_key(|item| rank(item));
    let mut others = others.into_iter().peekable();
    for item in named {
        while let (Some(place), Some(other)) = (old_place(&item), others.peek()) {
            if old_place(other).is_none_or(|other_place| other_place > place) {
                break;
            }
            items.extend(others.next());
        }
        items.push(item);
    }
    items.extend(others);
}

fn unknown_directive(directive: &str) -> Status {
    Status::bad_request(format!("unknown patch type: {directive:?} in the $patch directive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(kind: &str, object: Value, patch: Value) -> Value {
        let mut object = object;
        apply(kind, &mut object, &patch).unwrap();
        object
    }

    #[test]
    fn containers_merge_by_name_and_args_are_replaced() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "image": "x:1", "args": ["1", "2"], "env": [{"name": "K", "value": "1"}]}, {"name": "b", "image": "y"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "x:2", "args": ["3"], "env": [{"name": "L", "value": "2"}]}, {"name": "c", "image": "z"}]}});
        assert_eq!(
            patched("Pod", pod, patch),
            json!({"spec": {"containers": [
            {"name": "a", "image": "x:2", "args": ["3"], "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}]},
            {"name": "b", "image": "y"}, {"name": "c", "image": "z"}]}})
        );
    }

    #[test]
    fn elements_are_deleted_by_directive_and_keys_by_null() {
        let pod =
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"volumes": [{"name": "v"}, {"name": "w"}]}});
        let patch =
            json!({"metadata": {"labels": {"a": null}}, "spec": {"volumes": [{"name": "v", "$patch": "delete"}]}});
        let expected = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"volumes": [{"name": "w"}]}});
        assert_eq!(patched("Pod", pod, patch), expected);
    }

    #[test]
    fn retain_keys_replace_one_volume_source_by_another() {
        let object = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched("Deployment", object, patch), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }

    #[test]
    fn finalizers_are_a_set() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["b", "c"]}});
        assert_eq!(patched("Pod", object, patch), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }

    #[test]
    fn an_order_places_named_elements_and_leaves_the_servers() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}],
            "containers": [{"name": "c"}]}});
        let result = patched("Pod", object, patch);
        let names: Vec<_> = result["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["c", "a", "s", "b"]);
    }

    #[test]
    fn ports_have_other_keys_in_services_than_in_containers() {
        let service = json!({"spec": {"ports": [{"port": 80, "targetPort": 1}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 2}, {"port": 81}]}});
        let expected = json!({"spec": {"ports": [{"port": 80, "targetPort": 2}, {"port": 81}]}});
        assert_eq!(patched("Service", service, patch), expected);
    }

    #[test]
    fn conditions_merge_by_type_and_lists_without_a_key_are_replaced() {
        let object = json!({"status": {"conditions": [{"type": "A", "status": "True"}], "images": [1]}});
        let patch = json!({"status": {"conditions": [{"type": "B", "status": "False"}], "images": [2]}});
        let expected = json!({"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False"}], "images": [2]}});
        assert_eq!(patched("Node", object, patch), expected);
    }

    #[test]
    fn a_missing_merge_key_is_the_clients_fault() {
        let mut object = json!({"spec": {"containers": []}});
        let error = apply("Pod", &mut object, &json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err();
        assert_eq!(error.code, 400);
    }
}
