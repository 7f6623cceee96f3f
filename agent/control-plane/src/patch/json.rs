//! JSON patches (RFC 6902), kept from growing an object beyond what a request could send (CVE-2019-1002100).

use json_patch::PatchOperation;
use serde_json::Value;

use crate::status::Status;

/// What the copies and moves of a patch may carry together, in values and bytes of text: as much as a body.
const MAX_CARRIED: usize = 3 * 1024 * 1024;
/// Values within values: what the parser of bodies allows too, and what recursion over an object can bear.
const MAX_DEPTH: usize = 128;

/// Applies the operations; a failure leaves `object` between them.
pub(super) fn apply(object: &mut Value, patch: &json_patch::Patch) -> Result<(), Status> {
    let refused = |code, reason, index: usize, why: &str| {
        let message = format!("the server rejected our request due to an error in our request: json patch: {why}");
        Err(Status::new(code, reason, format!("{message} (operation {index})")))
    };
    let mut left = MAX_CARRIED;
    for (index, operation) in patch.iter().enumerate() {
        let placed = match operation {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
            PatchOperation::Move(moved) => object.pointer(moved.from.as_str()),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some(placed) = placed {
            let (size, depth) = measure(placed);
            if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) {
                match left.checked_sub(size) {
                    Some(rest) => left = rest,
                    None => return refused(413, "RequestEntityTooLarge", index, "it copies too much"),
                }
            }
            if operation.path().count() + depth > MAX_DEPTH {
                return refused(422, "Invalid", index, "it nests values too deep");
            }
        }
        if let Err(error) = json_patch::patch_unsafe(object, std::slice::from_ref(operation)) {
            return refused(422, "Invalid", index, &format!("{} at path {:?}", error.kind, error.path.as_str()));
        }
    }
    Ok(())
}

/// Values and bytes of text, and values within values.
fn measure(value: &Value) -> (usize, usize) {
    let sum = |(size, depth): (usize, usize), (more, inner): (usize, usize)| (size + more, depth.max(inner + 1));
    match value {
        Value::String(text) => (1 + text.len(), 0),
        Value::Array(items) => items.iter().map(measure).fold((1, 0), sum),
        Value::Object(map) => map.iter().fold((1, 0), |total, (key, inner)| {
            let (size, depth) = measure(inner);
            sum(total, (size + key.len(), depth))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(operations: Vec<Value>) -> Result<Value, Status> {
        let mut object = json!({"metadata": {"annotations": {"a": "x"}}});
        apply(&mut object, &serde_json::from_value(Value::Array(operations)).unwrap())?;
        Ok(object)
    }

    #[test]
    fn operations_are_applied_in_order_and_the_failed_one_is_named() {
        let copy = json!({"op": "copy", "from": "/metadata/annotations/a", "path": "/b"});
        let test = json!({"op": "test", "path": "/b", "value": "x"});
        assert_eq!(run(vec![copy.clone(), test.clone()]).unwrap()["b"], "x");
        let error = run(vec![test.clone(), copy]).unwrap_err();
        assert_eq!(error.code, 422);
        assert!(error.message.ends_with("path is invalid at path \"/b\" (operation 0)"), "{}", error.message);
    }

    #[test]
    fn copies_do_not_double_an_object_without_end() {
        let double = |n| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/annotations/x{n}")});
        assert!(run((0..4).map(double).collect()).is_ok());
        assert_eq!(run((0..40).map(double).collect()).unwrap_err().code, 413);
    }

    #[test]
    fn values_do_not_nest_deeper_than_a_body_could() {
        let deeper = vec![json!({"op": "copy", "from": "/metadata", "path": "/metadata/x"}); 300];
        let error = run(deeper).unwrap_err();
        assert_eq!(error.code, 422, "{}", error.message);
        let long = "/metadata".to_owned() + &"/x".repeat(200);
        assert_eq!(run(vec![json!({"op": "add", "path": long, "value": 1})]).unwrap_err().code, 422);
    }
}
