//! Why a node cannot take a pod.

use serde_json::Value;

use super::picture::{Amounts, Node, host_ports};
use super::taints;
use crate::registry::name_of;

/// Every reason against the node, in upstream's words; none means that it fits.
pub(super) fn reasons(node: &Node, spec: &Value, wanted: &Amounts) -> Vec<String> {
    let object = &node.object;
    if object["spec"]["unschedulable"] == true && !taints::tolerates_unschedulable(spec) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    if taints::untolerated(&object["spec"]["taints"], &spec["tolerations"], &["NoSchedule", "NoExecute"]).is_some() {
        return vec!["node(s) had untolerated taint(s)".to_owned()];
    }
    if !selected(spec, object) {
        return vec!["node(s) didn't match Pod's node affinity/selector".to_owned()];
    }
    let clash = host_ports(spec).iter().any(|(protocol, address, port)| {
        node.host_ports
            .iter()
            .any(|(p, a, n)| p == protocol && n == port && (a == address || a.is_empty() || address.is_empty()))
    });
    if clash {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    let mut lacking = Vec::new();
    let free =
        |name: &str| node.allocatable.get(name).copied().unwrap_or(0) - node.used.get(name).copied().unwrap_or(0);
    if free("pods") < 1 {
        lacking.push("Too many pods".to_owned());
    }
    for (name, amount) in wanted.iter().filter(|(_, amount)| **amount > 0) {
        if *amount > free(name) {
            lacking.push(format!("Insufficient {name}"));
        }
    }
    lacking
}

fn selected(spec: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let simple = spec["nodeSelector"].as_object().is_none_or(|map| map.iter().all(|(k, v)| labels[k] == *v));
    let affinity = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = affinity["nodeSelectorTerms"].as_array();
    simple && terms.is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

/// All expressions of a term hold; a term without any matches nothing.
fn term_matches(term: &Value, node: &Value) -> bool {
    let list = |field: &str| term[field].as_array().map_or(&[][..], Vec::as_slice);
    let (labels, fields) = (list("matchExpressions"), list("matchFields"));
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |e: &Value| node["metadata"]["labels"][e["key"].as_str().unwrap_or_default()].as_str();
    labels.iter().all(|e| expression_holds(e, label(e)))
        && fields.iter().all(|e| e["key"] == "metadata.name" && expression_holds(e, Some(name_of(node))))
}

fn expression_holds(expression: &Value, found: Option<&str>) -> bool {
    let values = expression["values"].as_array().map_or(&[][..], Vec::as_slice);
    let contained = || found.is_some_and(|found| values.iter().any(|v| v == found));
    let compared = |test: fn(&i64, &i64) -> bool| {
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        match (number(found), number(values.first().and_then(Value::as_str))) {
            (Some(found), Some(limit)) => test(&found, &limit),
            _ => false,
        }
    };
    match expression["operator"].as_str() {
        Some("In") => contained(),
        Some("NotIn") => !contained(),
        Some("Exists") => found.is_some(),
        Some("DoesNotExist") => found.is_none(),
        Some("Gt") => compared(i64::gt),
        Some("Lt") => compared(i64::lt),
        _ => false,
    }
}
