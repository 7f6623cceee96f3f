//! Services.

use std::collections::HashSet;

use serde_json::Value;

use super::meta::{LABEL_RULE, is_dns_label};
use super::{Faults, items, pod};

pub(super) fn validate(spec: &Value, faults: &mut Faults) {
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    faults.one_of("spec.type", &spec["type"], &types);
    faults.one_of("spec.sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
    let ports = items(&spec["ports"]);
    if ports.is_empty() && spec["type"] != "ExternalName" && spec["clusterIP"] != "None" {
        faults.required("spec.ports", "");
    }
    if spec["type"] == "ExternalName" && spec["externalName"].as_str().unwrap_or_default().is_empty() {
        faults.required("spec.externalName", "");
    }
    let (mut names, mut taken) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        match port["name"].as_str().filter(|name| !name.is_empty()) {
            None if ports.len() > 1 => faults.required(&format!("{at}.name"), ""),
            Some(name) if !is_dns_label(name) => faults.invalid(&format!("{at}.name"), &port["name"], LABEL_RULE),
            Some(name) if !names.insert(name) => faults.duplicate(&format!("{at}.name"), &port["name"]),
            None | Some(_) => {}
        }
        if !port["port"].as_i64().is_some_and(|p| (1..=65535).contains(&p)) {
            pod::port_range(&format!("{at}.port"), &port["port"], faults);
        }
        if port["targetPort"].as_i64().is_some_and(|p| !(1..=65535).contains(&p)) {
            pod::port_range(&format!("{at}.targetPort"), &port["targetPort"], faults);
        }
        let reachable = spec["type"] == "NodePort" || spec["type"] == "LoadBalancer";
        if !reachable && port["nodePort"].as_i64().is_some_and(|p| p != 0) {
            let detail = format!("may not be used when `type` is {}", spec["type"]);
            faults.forbidden(&format!("{at}.nodePort"), &detail.replace('"', "'"));
        }
        faults.one_of(&format!("{at}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        if !taken.insert((port["protocol"].as_str(), port["port"].as_i64())) {
            faults.duplicate(&at, port);
        }
    }
    super::meta::labels(&spec["selector"], "spec.selector", faults);
}
