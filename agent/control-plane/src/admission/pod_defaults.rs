//! Priority and the tolerations that every pod has.

use serde_json::{Value, json};

use crate::registry::resource::PRIORITY_CLASSES;
use crate::registry::{Registry, name_of};
use crate::status::Status;

/// How long a pod stays on a node that is lost.
const TOLERATION_SECONDS: i64 = 300;

pub(super) fn priority(registry: &Registry, pod: &mut Value) -> Result<(), Status> {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let classes = registry.list(&PRIORITY_CLASSES, None);
    let found = if class.is_empty() {
        classes.iter().find(|c| c["globalDefault"] == true)
    } else {
        let found = classes.iter().find(|c| name_of(c) == class);
        if found.is_none() {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(Status::forbidden("", "pods", name_of(pod), &why));
        }
        found
    };
    if let Some(class) = found {
        pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
    }
    pod["spec"]["priority"] = found.map_or_else(|| json!(0), |c| c["value"].clone());
    pod["spec"]["preemptionPolicy"] =
        found.and_then(|c| c["preemptionPolicy"].as_str()).map_or_else(|| json!("PreemptLowerPriority"), |p| json!(p));
    Ok(())
}

pub(super) fn tolerations(pod: &mut Value) {
    let mut list = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list.iter().any(|t| {
            let any_key = t["key"].as_str().unwrap_or_default().is_empty();
            let effect = t["effect"].as_str().unwrap_or_default();
            (any_key || t["key"] == key) && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    pod["spec"]["tolerations"] = Value::Array(list);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_tolerations_are_added_once() {
        let mut pod = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]}});
        tolerations(&mut pod);
        tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerations(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
