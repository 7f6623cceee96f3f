//! Taints and tolerations.

use serde_json::Value;

/// The first taint of these effects that no toleration covers.
pub(crate) fn untolerated<'a>(taints: &'a Value, tolerations: &Value, effects: &[&str]) -> Option<&'a Value> {
    let tolerations = tolerations.as_array().map_or(&[][..], Vec::as_slice);
    taints
        .as_array()
        .into_iter()
        .flatten()
        .filter(|taint| effects.iter().any(|effect| taint["effect"] == **effect))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let (effect, key) = (text(&toleration["effect"]), text(&toleration["key"]));
    if !effect.is_empty() && taint["effect"] != *effect {
        return false;
    }
    if !key.is_empty() && taint["key"] != *key {
        return false;
    }
    match toleration["operator"].as_str() {
        Some("Exists") => true,
        _ => !key.is_empty() && text(&toleration["value"]) == text(&taint["value"]),
    }
}

/// A cordoned node is as if it had a taint.
pub(super) fn tolerates_unschedulable(spec: &Value) -> bool {
    let taint = serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    spec["tolerations"].as_array().into_iter().flatten().any(|toleration| tolerates(toleration, &taint))
}
