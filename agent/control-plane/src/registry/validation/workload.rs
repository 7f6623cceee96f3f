//! Deployments and replica sets.

use serde_json::{Value, json};

use super::{Faults, not_negative, pod};
use crate::selectors::LabelSelector;

pub(super) fn deployment(spec: &Value, faults: &mut Faults) {
    replica_set(spec, faults);
    not_negative(&spec["revisionHistoryLimit"], "spec.revisionHistoryLimit", faults);
    let strategy = &spec["strategy"];
    faults.one_of("spec.strategy.type", &strategy["type"], &["Recreate", "RollingUpdate"]);
    if strategy["type"] == "Recreate" && !strategy["rollingUpdate"].is_null() {
        faults.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'");
    }
    let rolling = &strategy["rollingUpdate"];
    let mut zeros = 0;
    for field in ["maxSurge", "maxUnavailable"] {
        let at = format!("spec.strategy.rollingUpdate.{field}");
        match &rolling[field] {
            Value::Number(number) => {
                zeros += i32::from(number.as_i64() == Some(0));
                not_negative(&rolling[field], &at, faults);
            }
            Value::String(text) => match text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()) {
                Some(number) => zeros += i32::from(number == 0),
                None => faults.invalid(&at, &rolling[field], "must be an integer or percentage (e.g '5%')"),
            },
            _ => {}
        }
    }
    if zeros == 2 {
        let at = "spec.strategy.rollingUpdate.maxUnavailable";
        faults.invalid(at, &rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0");
    }
    if let (Some(deadline), Some(ready)) =
        (spec["progressDeadlineSeconds"].as_i64(), Some(spec["minReadySeconds"].as_i64().unwrap_or(0)))
        && deadline <= ready
    {
        let at = "spec.progressDeadlineSeconds";
        faults.invalid(at, &spec["progressDeadlineSeconds"], "must be greater than minReadySeconds");
    }
}

pub(super) fn replica_set(spec: &Value, faults: &mut Faults) {
    not_negative(&spec["replicas"], "spec.replicas", faults);
    not_negative(&spec["minReadySeconds"], "spec.minReadySeconds", faults);
    let selector = LabelSelector::from_object(&spec["selector"]);
    match &selector {
        None => faults.invalid("spec.selector", &spec["selector"], "invalid label selector"),
        Some(selector) if selector.is_empty() => {
            if spec["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
                faults.required("spec.selector", "");
            }
            faults.invalid("spec.selector", &json!({}), "empty selector is invalid for deployment");
        }
        Some(selector) => {
            let labels = &spec["template"]["metadata"]["labels"];
            super::meta::labels(labels, "spec.template.metadata.labels", faults);
            if !selector.matches(labels) {
                let shown = if labels.is_null() { json!({}) } else { labels.clone() };
                let detail = "`selector` does not match template `labels`";
                faults.invalid("spec.template.metadata.labels", &shown, detail);
            }
        }
    }
    let template = &spec["template"]["spec"];
    pod::validate_spec(template, "spec.template.spec", faults);
    if template["restartPolicy"] != "Always" {
        faults.one_of("spec.template.spec.restartPolicy", &template["restartPolicy"], &["Always"]);
    }
    if !template["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
}
